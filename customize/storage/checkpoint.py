"""State to resume from: what learns, the optimizer, and the step. All randomness follows from the step.

A checkpoint is a folder `step-000500` written whole or not at all, with a manifest of sizes and SHA-256 hashes. Its step
stands in it; a folder that was given the name of another step is told. To resume is to take the newest one whose manifest
holds; one that does not is passed over and named, never deleted.
torch is imported only where tensors are written or read.
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
ANEW = "start anew with --overwrite_output_dir, or elsewhere"
HEADERS = 1 << 16  # bytes of all that is no tensor and no state, roughly
NAME = re.compile(r"step-([0-9]{6,})(?:-([2-9]|[1-9][0-9]+))?")
"""With -2 and so on behind it where something that no run wrote had the name."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds. state: anything JSON can hold, plus tensors, to any depth."""

    step: int
    learned: "dict[str, Tensor]"
    state: dict[str, Any]


def save(folder: Path, checkpoint: Checkpoint, metadata: dict[str, str] | None = None) -> Path:
    """Writes `folder/step-NNNNNN`; returns it. metadata: what the file of what learns says of itself, so that it can be tried.

    Raises disk.WriteError where there is no room or no folder for `folder`, NumericsError when a number is NaN or infinite.
    """
    from safetensors.torch import save_file

    path = folder / name(checkpoint.step)
    if not folder.parent.is_dir():  # somebody removed the run's folder: what is written there has no config.toml any more
        raise write_error(path, errno.ENOENT, 0)
    tree, packed = _pack({"step": checkpoint.step, **checkpoint.state})
    learned, tensors = (
        {key: tensor.detach().cpu().contiguous() for key, tensor in each.items()} for each in (checkpoint.learned, packed)
    )
    if bad := [key for key, tensor in (learned | tensors).items() if not is_finite(tensor)]:
        raise NumericsError(
            f"{path.name} is not saved, not finite: {first_few(bad, 3)}\n    -> go on from the checkpoint before it"
        )
    text = json.dumps(tree)
    with new_folder(path, size(learned) + size(tensors) + len(text) + HEADERS) as unfinished:
        save_file(learned, unfinished / LEARNED, {"format": "pt", **(metadata or {})})
        save_file(tensors, unfinished / "state.safetensors")
        (unfinished / STATE).write_text(text, encoding="utf-8")
        manifest.write(unfinished)
    return path


def is_finite(tensor: "Tensor") -> bool:
    """Whether no number is NaN or infinite, or so large that its square is not finite in float32."""
    from torch.linalg import vector_norm

    return not tensor.is_floating_point() or bool(vector_norm(tensor.float()).isfinite())


def size(tensors: "dict[str, Tensor]") -> int:
    """Bytes that the tensors take."""
    return sum(tensor.nbytes for tensor in tensors.values())


def file_sizes(checkpoint: Checkpoint, metadata: dict[str, str] | None = None) -> dict[str, int]:
    """Bytes of each file that `save` would write; nothing is copied or written for it."""
    tree, tensors = _pack({"step": checkpoint.step, **checkpoint.state})
    sizes = {
        LEARNED: safetensors_size(checkpoint.learned, {"format": "pt", **(metadata or {})}),
        "state.safetensors": safetensors_size(tensors),
        STATE: len(json.dumps(tree)),
    }
    entries = {name: {"size": size, "sha256": "0" * 64} for name, size in sorted(sizes.items())}
    return {**sizes, manifest.NAME: len(manifest.text(entries))}


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint that `broken` found whole. Raises InputError when it was made by something else than `save`."""
    from safetensors.torch import load_file

    files = path / LEARNED, path / "state.safetensors"
    try:
        for file in files:
            refuse_not_finite(file, read_header(file))
        learned, tensors = map(load_file, files)
        state = _unpack(read_object(path / STATE), tensors)
        if not isinstance(state, dict):
            raise ValueError("state.json holds one tensor")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        cause = str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"
        raise InputError(not_ours(path, cause)) from error
    if "step" not in state and "identity" in state:
        what = "does not say which step it is of: an earlier version of this program made it"
        raise InputError(
            Problem(str(path), what, "go on with that version, or start anew with --overwrite_output_dir, or elsewhere")
        )
    if type(step := state.pop("step", None)) is not int or step < 0:
        raise InputError(not_ours(path, "its step is no whole number"))
    return Checkpoint(step, learned, state)


def step_inside(path: Path) -> int | None:
    """The step that a checkpoint says it is of; None where it says none, as those of earlier versions."""
    try:
        step = dict(read_object(path / STATE)["items"])["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return step if type(step) is int else None


def not_ours(path: Path, cause: str) -> Problem:
    """The problem of a checkpoint that holds what its manifest says, but not what a run saves."""
    what = printable(f"holds what its manifest says, but no state of a run ({cause.partition(chr(10))[0][:300]})")
    return Problem(str(path), what, f"give another checkpoint, or {ANEW}")


def find(folder: Path, wanted: str, say: Callable[[str], None]) -> Path | None:
    """The checkpoint to resume from: the newest whole one for "latest" (None when there is none at all), or a path.

    Raises InputError when the one asked for is missing or damaged, or when there are some and none is whole.
    """
    put_back(folder)
    if wanted == "latest":
        path, damaged = choose(every(folder))
        problem = Problem(SETTING, f"no checkpoint in {folder} is whole", "start anew with --overwrite_output_dir, or elsewhere")
    else:
        path, damaged = given(folder, wanted)
        there = first_few([each.name for each in every(folder)]) or "none"
        remedy = f"give another one, or `latest` for the newest that is whole; in {folder}: {there}"
        problem = Problem(SETTING, f"cannot go on from {wanted}", remedy)
    if damaged and not path:
        raise InputError([problem, *(Problem(str(at), fault, "it was left as it is") for at, fault in damaged)])
    for at, fault in damaged:
        say(f"passed over checkpoint {at.name}: {fault}")
    return path


def given(folder: Path, wanted: str) -> tuple[Path | None, list[tuple[Path, str]]]:
    """The checkpoint that was asked for by path or name, whatever it is called; or what is wrong with it."""
    path = Path(wanted) if Path(wanted).exists() else folder / wanted
    fault = broken(path)
    return (None, [(path, fault)]) if fault else (path, [])


def choose(candidates: list[Path]) -> tuple[Path | None, list[tuple[Path, str]]]:
    """The first whole checkpoint, and what is wrong with each that stands before it."""
    damaged = []
    for path in candidates:
        if not (found := faults(path)):
            return path, damaged
        damaged.append((path, found))
    return None, damaged


def every(folder: Path) -> list[Path]:
    """All folders that are named like a checkpoint, newest first; links and files of such names are none."""
    paths = [path for path in folder.iterdir() if is_name(path.name)] if folder.is_dir() else []
    return sorted((path for path in paths if path.is_dir() and not path.is_symlink()), key=_order, reverse=True)


def prune(folder: Path, keep: int | None) -> None:
    """Removes all but the newest `keep` checkpoints; None keeps all.

    Damaged ones neither count nor go, and one that holds what no run wrote stays. Nothing goes unless one of those that
    stay holds what its manifest says.
    """
    if keep is None:
        return
    whole = [path for path in every(folder) if not faults(path, contents=False)]
    if whole[keep:] and choose(whole[:keep])[0]:
        for path in whole[keep:]:
            if not foreign(path):  # with something of the user's in it, it stays
                discard(path)


def faults(path: Path, contents: bool = True) -> str:
    """What is wrong with a checkpoint, in words; empty when it is whole and of the step of its name.

    contents: hash the files too. What else lies in the folder is not read, and no fault.
    """
    if not is_name(path.name):
        return "is not named step-NNNNNN"
    if fault := broken(path, contents):
        return fault
    step = step_inside(path)
    return "" if step in (None, _step(path)) else f"holds step {step}: the folder was given another name"


def broken(path: Path, contents: bool = True) -> str:
    """What is wrong with the files of a checkpoint, in words; empty when they are whole. contents: hash them too."""
    if not path.is_dir():
        return "does not exist"
    return "; ".join(f"{printable(file)} {fault}" for file, fault in manifest.faults(path, contents, others=True).items())


def name(step: int) -> str:
    """The name of the checkpoint of a step."""
    return f"step-{step:06d}"


def is_name(text: str) -> bool:
    """Whether a folder of that name can be a checkpoint."""
    match = NAME.fullmatch(text)
    return bool(match) and name(int(match[1])) == text[: match.end(1)]


def _step(path: Path) -> int:
    return _order(path)[0]


def _order(path: Path) -> tuple[int, int]:
    match = NAME.fullmatch(path.name)
    assert match, path
    return int(match[1]), int(match[2] or 1)


def _pack(tree: Any) -> "tuple[Any, dict[str, Tensor]]":
    """The tree with each tensor replaced by the name under which it stands in the flat dictionary, shared ones once."""
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
