"""State to resume from: what learns, the optimizer, and the step. All randomness follows from the step.

A checkpoint is a folder `step-000500` written whole or not at all, with a manifest of sizes and SHA-256 hashes. To
resume is to take the newest one whose manifest holds; one that does not is passed over and named, never deleted.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from customize.errors import InputError, Problem
from customize.files import new_folder

NAME = re.compile(r"step-(\d{6,})")
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds. state: anything JSON can hold, plus tensors, to any depth."""

    step: int
    learned: dict[str, Tensor]
    state: dict[str, Any]


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Writes `folder/step-NNNNNN`; returns it."""
    path = folder / f"step-{checkpoint.step:06d}"
    tree, tensors = _pack(checkpoint.state)
    with new_folder(path) as unfinished:
        save_file({k: v.detach().cpu().contiguous() for k, v in checkpoint.learned.items()}, unfinished / "learned.safetensors")
        save_file(tensors, unfinished / "state.safetensors")
        (unfinished / "state.json").write_text(json.dumps(tree), encoding="utf-8")
        _write_manifest(unfinished)
    return path


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint that `faults` found whole."""
    tensors = load_file(path / "state.safetensors")
    state = _unpack(json.loads((path / "state.json").read_text(encoding="utf-8")), tensors)
    return Checkpoint(_step(path), load_file(path / "learned.safetensors"), state)


def find(folder: Path, wanted: str, say: Callable[[str], None]) -> Path | None:
    """The checkpoint to resume from: the newest whole one for "latest" (None when there is none at all), or a path.

    Raises InputError when the one asked for is missing or damaged, or when there are some and none is whole.
    """
    if wanted != "latest":
        path = Path(wanted) if Path(wanted).exists() else folder / wanted
        found = faults(path) if NAME.fullmatch(path.name) else "is not named step-NNNNNN"
        if found:
            remedy = "give another one, or `latest` for the newest that is whole"
            raise InputError(Problem("resume_from_checkpoint", f"{path}: {found}", remedy))
        return path
    damaged = []
    for path in every(folder):
        if not (found := faults(path)):
            return path
        damaged.append(f"{path.name}: {found}")
        say(f"passed over checkpoint {damaged[-1]}")
    if damaged:
        remedy = "nothing was deleted; start anew with --overwrite_output_dir or another --output_dir"
        raise InputError(Problem("resume_from_checkpoint", f"no checkpoint in {folder} is whole", remedy))
    return None


def every(folder: Path) -> list[Path]:
    """All folders that are named like a checkpoint, newest first."""
    paths = [path for path in folder.iterdir() if NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(paths, key=_step, reverse=True)


def prune(folder: Path, keep: int | None) -> None:
    """Removes all but the newest `keep` whole checkpoints; None keeps all."""
    if keep is None:
        return
    for path in [path for path in every(folder) if not faults(path, contents=False)][keep:]:
        shutil.rmtree(path)


def faults(path: Path, contents: bool = True) -> str:
    """What is wrong with a checkpoint, in words; empty when it is whole. contents: hash the files too."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        for name, expected in manifest.items():
            if (size := (path / name).stat().st_size) != expected["size"]:
                return f"{name} has {size} bytes instead of {expected['size']}"
            if contents and _sha256(path / name) != expected["sha256"]:
                return f"{name} has changed since it was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} cannot be read"
    return ""


def _step(path: Path) -> int:
    match = NAME.fullmatch(path.name)
    assert match, path
    return int(match[1])


def _write_manifest(folder: Path) -> None:
    files = sorted(file for file in folder.iterdir() if file.is_file())
    manifest = {file.name: {"size": file.stat().st_size, "sha256": _sha256(file)} for file in files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _pack(tree: Any) -> tuple[Any, dict[str, Tensor]]:
    """The tree with each tensor replaced by the name under which it stands in the flat dictionary, shared ones once."""
    tensors: dict[str, Tensor] = {}
    names: dict[tuple, str] = {}

    def walk(node: Any, name: str) -> Any:
        if isinstance(node, Tensor):
            place = (node.data_ptr(), node.shape, node.stride(), node.dtype)
            if place not in names or not node.numel():
                names[place] = name
                tensors[name] = node.detach().cpu().contiguous()
            return {"tensor": names[place]}
        if isinstance(node, dict):
            return {"items": [[key, walk(value, f"{name}/{key}")] for key, value in node.items()]}
        if isinstance(node, list | tuple):
            return [walk(value, f"{name}/{i}") for i, value in enumerate(node)]
        return node

    return walk(tree, "state"), tensors


def _unpack(tree: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(tree, dict):
        if "tensor" in tree:
            return tensors[tree["tensor"]]
        return {key: _unpack(value, tensors) for key, value in tree["items"]}
    if isinstance(tree, list):
        return [_unpack(value, tensors) for value in tree]
    return tree
