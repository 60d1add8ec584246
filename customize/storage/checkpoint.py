"""Checkpoints: the trained tensors, the optimizer state and the step. All randomness follows from the step.

A checkpoint is a folder `step-000500`, written atomically, with a manifest of sizes and SHA-256 hashes. It stores its step,
so a renamed folder is detected. A run resumes from the newest checkpoint that matches its manifest; others are skipped and
reported, never deleted. torch is only imported to write or read tensors.
"""

import errno
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from customize.errors import InputError, NumericsError, Problem
from customize.printable import first_few, printable
from customize.storage import manifest
from customize.storage.atomic import discard, new_folder, put_back
from customize.storage.disk import write_error
from customize.storage.json_files import read_object
from customize.storage.ownership import foreign
from customize.storage.resources import safetensors_size
from customize.storage.safetensors_header import read_header, refuse_not_finite

if TYPE_CHECKING:
    from torch import Tensor

SETTING = "resume_from_checkpoint"
LEARNED, STATE = "learned.safetensors", "state.json"
START_OVER = "start over with --overwrite_output_dir, or in another folder"
HEADERS = 1 << 16  # bytes of the headers and the manifest, roughly
NAME = re.compile(r"step-([0-9]{6,})(?:-([2-9]|[1-9][0-9]+))?")
"""A suffix such as -2 is added if a file or folder of the user has the name."""


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint. learned: the trained tensors; state: nested JSON values and tensors."""

    step: int
    learned: "dict[str, Tensor]"
    state: dict[str, Any]


def save(folder: Path, checkpoint: Checkpoint, metadata: dict[str, str] | None = None) -> Path:
    """Write `folder/step-NNNNNN` and return it. metadata: of the file of trained tensors, so that infer.py can load it.

    Raises disk.WriteError if the disk is full or the parent of `folder` does not exist, NumericsError for NaN or infinity.
    """
    from safetensors.torch import save_file

    path = folder / name(checkpoint.step)
    if not folder.parent.is_dir():  # the run folder was removed, and with it config.toml
        raise write_error(path, errno.ENOENT, 0)
    tree, packed = _pack({"step": checkpoint.step, **checkpoint.state})
    learned, tensors = (
        {key: tensor.detach().cpu().contiguous() for key, tensor in each.items()} for each in (checkpoint.learned, packed)
    )
    if bad := [key for key, tensor in (learned | tensors).items() if not is_finite(tensor)]:
        raise NumericsError(
            f"{path.name} is not saved: NaN or infinity in {first_few(bad, 3)}\n    -> resume from the previous checkpoint"
        )
    text = json.dumps(tree)
    with new_folder(path, size(learned) + size(tensors) + len(text) + HEADERS) as unfinished:
        save_file(learned, unfinished / LEARNED, {"format": "pt", **(metadata or {})})
        save_file(tensors, unfinished / "state.safetensors")
        (unfinished / STATE).write_text(text, encoding="utf-8")
        manifest.write(unfinished)
    return path


def is_finite(tensor: "Tensor") -> bool:
    """Whether all numbers are finite and small enough that their squares are finite in float32."""
    from torch.linalg import vector_norm

    return not tensor.is_floating_point() or bool(vector_norm(tensor.float()).isfinite())


def size(tensors: "dict[str, Tensor]") -> int:
    """The size of the tensors in bytes."""
    return sum(tensor.nbytes for tensor in tensors.values())


def file_sizes(checkpoint: Checkpoint, metadata: dict[str, str] | None = None) -> dict[str, int]:
    """The size in bytes of each file that `save` would write; nothing is copied or written."""
    tree, tensors = _pack({"step": checkpoint.step, **checkpoint.state})
    sizes = {
        LEARNED: safetensors_size(checkpoint.learned, {"format": "pt", **(metadata or {})}),
        "state.safetensors": safetensors_size(tensors),
        STATE: len(json.dumps(tree)),
    }
    entries = {name: {"size": size, "sha256": "0" * 64} for name, size in sorted(sizes.items())}
    return {**sizes, manifest.NAME: len(manifest.text(entries))}


def load(path: Path) -> Checkpoint:
    """Read a checkpoint without faults (see `broken`). Raises InputError if it was not written by `save`."""
    from safetensors.torch import load_file

    files = path / LEARNED, path / "state.safetensors"
    try:
        for file in files:
            refuse_not_finite(file, read_header(file))
        learned, tensors = map(load_file, files)
        state = _unpack(read_object(path / STATE), tensors)
        if not isinstance(state, dict):
            raise ValueError("state.json contains a single tensor")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        cause = str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"
        raise InputError(not_ours(path, cause)) from error
    if "step" not in state and "identity" in state:
        what = "does not contain its step: it was written by an earlier version of this program"
        raise InputError(Problem(str(path), what, f"resume with that version, or {START_OVER}"))
    if type(step := state.pop("step", None)) is not int or step < 0:
        raise InputError(not_ours(path, "its step is not a whole number"))
    return Checkpoint(step, learned, state)


def step_inside(path: Path) -> int | None:
    """The step stored in a checkpoint; None if there is none, as in those of earlier versions."""
    try:
        step = dict(read_object(path / STATE)["items"])["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return step if type(step) is int else None


def not_ours(path: Path, cause: str) -> Problem:
    """The problem of a checkpoint that matches its manifest but was not saved by a run."""
    what = printable(f"matches its manifest, but does not contain the state of a run ({cause.partition(chr(10))[0][:300]})")
    return Problem(str(path), what, f"give another checkpoint, or {START_OVER}")


def find(folder: Path, requested: str, say: Callable[[str], None]) -> Path | None:
    """The checkpoint to resume from: the newest intact one for "latest" (None if there are none), or the given one.

    Raises InputError if the given one is missing or damaged, or if there are checkpoints but none is intact.
    """
    put_back(folder)
    if requested == "latest":
        path, damaged = choose(every(folder))
        problem = Problem(SETTING, f"no checkpoint in {folder} is intact", START_OVER)
    else:
        path, damaged = given(folder, requested)
        existing = first_few([each.name for each in every(folder)]) or "none"
        remedy = f"give another one, or `latest` for the newest intact one; in {folder}: {existing}"
        problem = Problem(SETTING, f"cannot resume from {requested}", remedy)
    if damaged and not path:
        raise InputError([problem, *(Problem(str(at), fault, "it was not changed") for at, fault in damaged)])
    for at, fault in damaged:
        say(f"skipped checkpoint {at.name}: {fault}")
    return path


def given(folder: Path, requested: str) -> tuple[Path | None, list[tuple[Path, str]]]:
    """The checkpoint given by path or by name, even if it was renamed; or what is wrong with it."""
    path = Path(requested) if Path(requested).exists() else folder / requested
    fault = broken(path)
    return (None, [(path, fault)]) if fault else (path, [])


def choose(candidates: list[Path]) -> tuple[Path | None, list[tuple[Path, str]]]:
    """The first intact checkpoint, and what is wrong with each one before it."""
    damaged = []
    for path in candidates:
        if not (found := faults(path)):
            return path, damaged
        damaged.append((path, found))
    return None, damaged


def every(folder: Path) -> list[Path]:
    """All folders that are named like a checkpoint, newest first, without links and files."""
    paths = [path for path in folder.iterdir() if is_name(path.name)] if folder.is_dir() else []
    return sorted((path for path in paths if path.is_dir() and not path.is_symlink()), key=_order, reverse=True)


def prune(folder: Path, keep: int | None) -> None:
    """Remove all but the newest `keep` checkpoints; None keeps all.

    Damaged ones are neither counted nor removed, and one that contains files of the user stays. Nothing is removed unless
    one of the checkpoints to keep matches its manifest.
    """
    if keep is None:
        return
    whole = [path for path in every(folder) if not faults(path, contents=False)]
    if whole[keep:] and choose(whole[:keep])[0]:
        for path in whole[keep:]:
            if not foreign(path):  # one with files of the user stays
                discard(path)


def faults(path: Path, contents: bool = True) -> str:
    """What is wrong with a checkpoint; empty if it is intact and contains the step of its name.

    contents: also compare hashes. Other files in the folder are ignored.
    """
    if not is_name(path.name):
        return "is not named step-NNNNNN"
    if fault := broken(path, contents):
        return fault
    step = step_inside(path)
    return "" if step in (None, step_of(path)) else f"contains step {step}: the folder was renamed"


def broken(path: Path, contents: bool = True) -> str:
    """What is wrong with the files of a checkpoint; empty if they are intact. contents: also compare hashes."""
    if not path.is_dir():
        return "does not exist"
    return "; ".join(f"{printable(file)} {fault}" for file, fault in manifest.faults(path, contents, others=True).items())


def name(step: int) -> str:
    """The name of the checkpoint of a step."""
    return f"step-{step:06d}"


def is_name(text: str) -> bool:
    """Whether a folder with that name can be a checkpoint."""
    match = NAME.fullmatch(text)
    return bool(match) and name(int(match[1])) == text[: match.end(1)]


def step_of(path: Path) -> int:
    """The step in the name of a checkpoint."""
    return _order(path)[0]


def _order(path: Path) -> tuple[int, int]:
    match = NAME.fullmatch(path.name)
    assert match, path
    return int(match[1]), int(match[2] or 1)


def _pack(tree: Any) -> "tuple[Any, dict[str, Tensor]]":
    """The tree with each tensor replaced by its name in the flat dictionary, which has shared tensors once."""
    from torch import Tensor

    tensors: dict[str, Tensor] = {}
    names: dict[tuple, str] = {}

    def walk(node: Any, name: str) -> Any:
        if isinstance(node, Tensor):
            place = (node.data_ptr(), node.shape, node.stride(), node.dtype)
            if place not in names or not node.numel():
                names[place] = name
                tensors[name] = node
            return {"tensor": names[place]}
        if isinstance(node, dict):
            return {"items": [[key, walk(value, f"{name}/{key}")] for key, value in node.items()]}
        if isinstance(node, list | tuple):
            return [walk(value, f"{name}/{i}") for i, value in enumerate(node)]
        return node

    return walk(tree, "state"), tensors


def _unpack(tree: Any, tensors: "dict[str, Tensor]") -> Any:
    if isinstance(tree, dict):
        if "tensor" in tree:
            return tensors[tree["tensor"]]
        return {key: _unpack(value, tensors) for key, value in tree["items"]}
    if isinstance(tree, list):
        return [_unpack(value, tensors) for value in tree]
    return tree
