"""The folder of a training run: the names of its files, its lock, and whether its result is complete."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from customize.errors import InputError, Problem
from customize.printable import first_few, printable
from customize.storage import checkpoint, lock, manifest, ownership
from customize.storage.atomic import READY, discard, recover
from customize.storage.disk import sync_folder
from customize.storage.json_files import read_object

CONFIG, LOG, CARD, METADATA = "config.toml", "log.jsonl", "README.md", "customize.json"
PROGRESS = "progress.json"
"""What a run says of itself while it goes on (`jobs/progress.py`); whether it lives is told by the lock."""
CHECKPOINTS, SAMPLES, WEIGHTS, BEFORE_AFTER = "checkpoints", "samples", "weights", "before_after.png"
SHEET, REPORT = "contact_sheet.png", "report.html"
LORA, KOHYA_LORA = "pytorch_lora_weights.safetensors", "pytorch_lora_weights_kohya.safetensors"
"""An adapter, and the same LoRA with the tensor names of ComfyUI, A1111 and Forge."""
SCHEDULER = "scheduler"
"""The folder of a scheduler's configuration, in a complete model and beside an adapter that needs another than its base model."""
MODEL, INDEX = "model.safetensors", "model_index.json"
"""A complete model: as a single file, or as a folder in diffusers' layout, by the file that it has."""
AT_STEP = re.compile(r"(.+)@([0-9]{1,9})", re.DOTALL)
"""RUN@STEP: the weights of a run after that step."""
VERSIONED = ("customize", "torch", "diffusers", "transformers", "peft")


def check_place(setting: str, folder: Path) -> None:
    """Raise InputError if a folder, which may not exist yet, is not a folder or is not writable."""
    path = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not path.exists():
        raise InputError(Problem(setting, f"{path} is a broken link", "give another folder"))
    if not path.is_dir():
        raise InputError(Problem(setting, f"{path} is a file", "give another folder"))
    if not os.access(path, os.W_OK | os.X_OK):
        raise InputError(Problem(setting, f"{path} is not writable", "give another folder"))


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Lock the folder for this process and record the files written into it. What a dead process left unfinished is
    completed or undone first.

    Raises InputError if another process is using the folder.
    """
    with lock.hold(folder), ownership.recording(folder):
        recover(folder)
        yield


def model_in(folder: Path) -> Path | None:
    """The complete model in a folder: the folder itself in diffusers' layout, or a single file; None if there is none."""
    if (folder / INDEX).is_file():
        return folder
    is_file = (folder / MODEL).is_file() and not (folder / "config.json").exists()  # else it is one network of diffusers
    return folder / MODEL if is_file else None


def at_step(path: Path) -> Path:
    """The folder of the weights that RUN@STEP names: saved intermediate weights, a checkpoint, or the run itself if its result is
    of that step. Any other path, and one that exists, unchanged. Raises InputError where the run has no such step."""
    named = AT_STEP.fullmatch(str(path))
    if not named or os.path.lexists(path) or not ((run := Path(named[1])) / CONFIG).is_file():
        return path
    found = {checkpoint.step_of(each): each for name in (CHECKPOINTS, WEIGHTS) for each in reversed(checkpoint.every(run / name))}
    with suppress(OSError, ValueError):
        if type(step := read_object(run / METADATA).get("steps")) is int:
            found.setdefault(step, run)
    if (step := int(named[2])) not in found:
        steps = first_few([str(each) for each in sorted(found)], 20) or "none"
        what = f"{run} has no weights of step {step}"
        raise InputError(Problem("weights", printable(what), f"give one of its steps: {steps}"))
    return found[step]


def settle(folder: Path) -> None:
    """Before a result is read: complete a move that was interrupted by a kill, unless a running process is about to do it."""
    if (folder / READY).is_dir():
        with suppress(InputError, OSError), claimed(folder):
            pass


def clear(folder: Path) -> None:
    """Remove the files that an earlier run wrote, one by one, and nothing else; config.toml is removed last."""
    record = ownership.record_for(folder / CONFIG) or ownership.Record(folder)
    files = sorted(record.files(), key=lambda path: path.name == CONFIG)
    folders = {parent for path in files for parent in path.parents if parent.is_relative_to(record.folder)} - {record.folder}
    for path in files:
        path.unlink()
    for parent in sorted(folders, reverse=True):
        with suppress(OSError):  # it contains files of the user
            parent.rmdir()
    sync_folder(folder)


def remove_own(folder: Path) -> None:
    """Remove a folder of ours, unless it has files of the user."""
    if folder.is_dir() and not ownership.foreign(folder):
        discard(folder)


def is_finished(folder: Path, steps: int, **formats: str | bool) -> bool:
    """Whether the folder contains the complete result of `steps` steps in these formats, the values of settings by name."""
    if manifest.faults(folder, others=True):
        return False
    try:
        metadata = read_object(folder / METADATA)
        usual = {"save_precision": "fp32", "save_model_as": "diffusers", "lora_format": "both", "no_metadata": False}
        settings = {**usual, **metadata.get("settings", {})}
        return metadata.get("steps") == steps and all(settings[name] == value for name, value in formats.items())
    except (OSError, ValueError, AttributeError):
        return False


def embedding_file(placeholder: str, alone: bool) -> str:
    """learned_embeds.safetensors, or learned_embeds_NAME.safetensors if it is one of several."""
    name = "".join(letter for letter in placeholder if letter.isalnum() or letter in "-_")
    return "learned_embeds.safetensors" if alone else f"learned_embeds_{name}.safetensors"
