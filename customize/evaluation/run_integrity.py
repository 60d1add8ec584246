"""Checks that every file of a run is intact, for `customize verify`. Reads only; torch is not imported."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from customize import missing_path
from customize.errors import InputError, Problem
from customize.evaluation import record
from customize.printable import first_few, printable
from customize.settings.files import toml_file
from customize.storage import checkpoint, lock, manifest, run_folder
from customize.storage.atomic import READY, leftovers
from customize.storage.run_log import read_log


class Finding(NamedTuple):
    """The state of one file or folder. intact: True, False if it is damaged, or None for a note; detail: the fault or note."""

    intact: bool | None
    what: str
    detail: str = ""

    def __str__(self) -> str:
        mark = {True: "intact ", False: "DAMAGED", None: "note   "}[self.intact]
        return printable(f"{mark}  {self.what}{f': {self.detail}' if self.detail else ''}")


def not_a_run(path: Path) -> Problem | None:
    """The problem of a path that is missing, or is neither a run nor a folder with a manifest; None for any other path."""
    shown = printable(str(path))
    try:
        is_folder = stat.S_ISDIR(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return Problem(shown, "no such folder", missing_path.remedy_for_missing(str(path), "give the folder of a run"))
    except (OSError, ValueError):
        return None
    if not is_folder:
        return Problem(shown, "is a file, not a run folder", f"did you mean its folder, {printable(str(path.parent))}?")
    if os.access(path, os.R_OK | os.X_OK) and not any((path / name).is_file() for name in (run_folder.CONFIG, manifest.NAME)):
        runs = [name for name in missing_path.names(path)[:200] if missing_path.is_run(path / name)]
        remedy = f"did you mean {printable(str(path / runs[0]))}?" if runs else "give the folder of a run, or a checkpoint in it"
        return Problem(shown, f"is not a run folder: it has neither {run_folder.CONFIG} nor {manifest.NAME}", remedy)
    return None


def verify(folder: str | Path) -> Iterator[Finding]:
    """A finding for each file or subfolder of a run, or of a folder with a manifest. Ends at the first that cannot be read."""
    folder = Path(folder)
    try:
        if (folder / run_folder.CONFIG).is_file():
            yield from run(folder)
        elif (folder / manifest.NAME).is_file():
            yield from listed(folder, folder.name)
        else:
            yield Finding(False, str(folder), f"has neither {run_folder.CONFIG} nor {manifest.NAME}")
    except OSError as error:
        yield Finding(False, str(error.filename or folder), f"cannot be read ({error.strerror})")


def run(folder: Path) -> Iterator[Finding]:
    """Findings for everything that a run writes, in the order of writing."""
    yield config(folder / run_folder.CONFIG)
    try:
        lock.check(folder)
    except InputError as error:
        held = "is using" in error.problems[0].what
        yield Finding(None if held else False, "lock", f"{error.problems[0].what}: {error.problems[0].remedy}")
    for path in reversed(checkpoint.every(folder / run_folder.CHECKPOINTS)):
        yield from listed(path, f"{run_folder.CHECKPOINTS}/{path.name}")
    for parent in (run_folder.WEIGHTS, run_folder.SAMPLES):
        for path in sorted(path for path in folder.glob(f"{parent}/*") if path.is_dir() and checkpoint.is_name(path.name)):
            yield from listed(path, f"{parent}/{path.name}")
    yield from evaluation(folder)
    for path in (folder / run_folder.SAMPLES / "contact_sheet.png", folder / run_folder.BEFORE_AFTER):
        if path.exists():
            yield image(path, str(path.relative_to(folder)))
    yield from log(folder / run_folder.LOG)
    yield from result(folder)
    for path in leftovers(folder):
        yield Finding(None, str(path.relative_to(folder)), "left by an interrupted write; the next run removes it")


def evaluation(folder: Path) -> Iterator[Finding]:
    """Findings for what was measured of the run: its record, the weights of candidates, and the pictures."""
    if (path := record.place_of(folder)).exists():
        name = f"{record.FOLDER}/{path.name}"
        try:
            record.read(folder)
            yield Finding(True, name)
        except InputError as error:
            yield Finding(False, name, error.problems[0].what)
    for path in sorted(path for path in folder.glob(f"{record.FOLDER}/*/*") if (path / manifest.NAME).is_file()):
        yield from listed(path, path.relative_to(folder).as_posix())


def config(path: Path) -> Finding:
    """Checks that the settings can be read."""
    try:
        toml_file.read(str(path))
    except InputError as error:
        return Finding(False, path.name, error.problems[0].what)
    return Finding(True, path.name)


def listed(folder: Path, name: str) -> Iterator[Finding]:
    """Compares a folder with its manifest; adds a note on other files in it."""
    found = manifest.faults(folder, others=True)
    yield Finding(not found, name, "; ".join(f"{file} {fault}" for file, fault in found.items()))
    others = sorted(manifest.faults(folder, contents=False).keys() - manifest.faults(folder, contents=False, others=True).keys())
    if others:
        yield Finding(None, name, f"has files that the run did not write, which are kept: {first_few(others)}")


def image(path: Path, name: str) -> Finding:
    """Checks that an image that is in no manifest can be decoded."""
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as opened:
            opened.load()
    except (OSError, ValueError, SyntaxError) as error:
        return Finding(False, name, str(error))
    return Finding(True, name)


def log(path: Path) -> Iterator[Finding]:
    """Checks that each line can be read and that no step is missing."""
    if not path.exists():
        return
    steps = [step for step, line in read_log(path) if b'"left_out"' not in line]
    torn = bool(steps) and steps[-1] is None
    steps = steps[: len(steps) - torn]
    if None in steps:
        yield Finding(False, path.name, f"line {steps.index(None) + 1} cannot be read")
    elif (done := sorted({step for step in steps if step})) != list(range(1, len(done) + 1)):
        yield Finding(None, path.name, "steps are missing, as after a power cut")
    else:
        yield Finding(True, path.name, f"{len(done)} steps")
    if torn:
        yield Finding(None, path.name, "its last line is incomplete; the next run removes it")


def result(folder: Path) -> Iterator[Finding]:
    """Findings for each file of the run's result."""
    ready = folder / READY
    if (ready / manifest.NAME).is_file():
        yield Finding(None, "result", "a new one was not completely moved into place; the next run or infer.py completes it")
        for name, expected in manifest.read(ready).items():
            fault = manifest.fault(ready / name if (ready / name).exists() else folder / name, expected)
            yield Finding(not fault, name, fault)
        return
    if not (folder / manifest.NAME).exists():
        names = (
            run_folder.METADATA,
            run_folder.INDEX,
            run_folder.MODEL,
            "learned_embeds*.safetensors",
            "pytorch_lora_weights*.safetensors",
        )
        files = [path.name for name in names for path in sorted(folder.glob(name))]
        yield from (Finding(False, name, f"has no {manifest.NAME}") for name in files)
        if not files:
            yield Finding(None, "result", "not written yet")
        return
    found = manifest.faults(folder, others=True)
    names = found if manifest.NAME in found else manifest.read(folder)
    yield from (Finding(name not in found, name, found.get(name, "")) for name in names)
