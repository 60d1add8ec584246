"""The folder of a training run without an output_dir, and the run that `latest` refers to then."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from customize import events
from customize.errors import InputError, Problem
from customize.printable import first_few
from customize.settings.field import table
from customize.settings.files import toml_file
from customize.storage import numbered_folders

PARENT = Path("runs")
OF_THE_SUBJECT = ("method", "data")
"""Sections whose settings distinguish the runs of one subject from those of another."""
LATEST, SETTING = "latest", "resume_from_checkpoint"


def place(settings) -> Path:
    """The folder of the run: `output_dir`, the run to resume, or the next number. It is not created.

    Raises InputError if no run for `latest` matches the settings, or the checkpoint does not belong to a run.
    """
    if settings.output_dir is not None:
        return Path(settings.output_dir)
    checkpoint = settings.resume_from_checkpoint
    if checkpoint and checkpoint != LATEST:
        return of_checkpoint(Path(checkpoint))
    return (newest(settings) if checkpoint else None) or numbered_folders.next_folder(PARENT, kind(settings))


@contextmanager
def made(settings, folder: Path) -> Iterator[Path]:
    """Create the new folder of a run that names none; on an error it is removed again if it is empty."""
    is_first = os.environ.get("RANK", "0") == "0"  # of the processes of `accelerate launch`; the others learn the folder later
    if settings.output_dir is not None or folder.is_dir() or not is_first:
        yield folder
        return
    folder = numbered_folders.new_folder(PARENT, kind(settings))
    try:
        yield folder
    except BaseException:
        with suppress(OSError):
            folder.rmdir()
        raise


def kind(settings) -> str:
    """The method, after which run folders are named."""
    return settings.command.removesuffix(".py").partition("train")[2][1:]


def of_checkpoint(path: Path) -> Path:
    """The run that a checkpoint's folder belongs to."""
    if path.is_dir() and path.absolute().parent.name == "checkpoints":
        return path.parent.parent
    remedy = "give the run's folder as --output_dir, or use `latest`"
    raise InputError(Problem(SETTING, f"{path} is not a checkpoint in a run folder", remedy))


def newest(settings) -> Path | None:
    """The newest run of this method with checkpoints that learns the same subject; None if there is no run to resume."""
    found = sorted(numbered_folders.numbered(PARENT, kind(settings)), reverse=True)
    begun = [path for _, path in found if any((path / "checkpoints").glob("step-*"))]
    same = [path for path in begun if learns_the_same(settings, path / "config.toml")]
    if begun and not same:
        what = f"no run in {PARENT} matches these settings: {first_few([path.name for path in begun])} learn something else"
        raise InputError(Problem(SETTING, what, f"give the run to resume, as in --output_dir {begun[0]}"))
    if same:
        events.info(f"latest is {same[0]}")
    return same[0] if same else None


def learns_the_same(settings, config: Path) -> bool:
    """Whether a run's settings name the same base model, method and data as these."""
    try:
        earlier, _ = type(settings).examine(toml_file.read(str(config))[0])
    except InputError:
        return False
    lines = table(type(settings)).values()
    names = [line.name for line in lines if line.section in OF_THE_SUBJECT and line.name != "latents_cache_dir"]
    return all(getattr(settings, name) == getattr(earlier, name) for name in (*names, "pretrained_model_name_or_path"))
