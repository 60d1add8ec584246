"""The output folder of infer.py: numbering continues after existing images, files are written atomically, and the user's files
are never touched."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from customize.errors import InputError, Problem
from customize.next_command import command_line
from customize.settings.inference import InferenceSettings
from customize.storage import numbered_folders, ownership, run_folder
from customize.storage.atomic import write_text
from customize.storage.disk import make_folder, remove

PARENT = Path("images")
OF_A_JOB = ("config.toml", "sheet.png", "trace.jsonl")
NUMBERED = re.compile(r"(?:(?:config|sheet|trace)-)?([0-9]{3,6})(?![0-9]).*", re.DOTALL)
"""File names with an image number, whoever wrote them: numbering continues after the highest."""
NOT_OF_A_JOB = ("output_dir", "overwrite_output_dir", "skip_existing", "max_images", "like")


@dataclass
class ImageFolder:
    """The files of a job of `count` images, numbered from `start`. suffix: distinguishes this job's other files from those of
    earlier jobs. finished: indices (0, 1, ...) of the images that exist. format: png, jpg or webp. aside: (temporary path,
    original path) of each file of an earlier job that is deleted once the first image exists."""

    folder: Path
    start: int
    count: int
    suffix: str
    finished: set[int] = field(default_factory=set)
    format: str = "png"
    aside: list[tuple[Path, Path]] = field(default_factory=list)

    def image(self, place: int) -> Path:
        """The path of the image with this index in the job."""
        return self.folder / f"{self.start + place:03d}.{self.format}"

    def animation(self, place: int) -> Path:
        """The path of the animation of an illusion with this index in the job."""
        return self.folder / f"{self.start + place:03d}-illusion.gif"

    def file(self, name: str) -> Path:
        """The path of one of `OF_A_JOB`."""
        path = self.folder / name
        return path.with_stem(f"{path.stem}{self.suffix}")

    @property
    def how_to_resume(self) -> str:
        """The progress of a job that stopped, and the command that generates the rest."""
        command = f"{command_line('infer.py', str(self.file('config.toml')))} --skip_existing"
        return (
            f"{len(self.finished):,} of {self.count:,} images are finished, in {self.folder}; for the rest, run:\n    {command}"
        )


def check(settings: InferenceSettings) -> None:
    """Raises InputError if images cannot be written to `output_dir`, or if `skip_existing` finds no job of these settings."""
    if settings.output_dir is None:
        run_folder.check_place("output_dir", PARENT)
        if settings.skip_existing:
            what = "is missing: skip_existing completes the images of an existing folder"
            raise InputError(Problem("output_dir", what, "name the folder"))
        return
    folder = Path(settings.output_dir)
    run_folder.check_place("output_dir", folder)
    record = ownership.Record(folder)
    if settings.skip_existing and earlier(record, settings) is None:
        remedy = f"run the unchanged {folder / 'config.toml'} (or config-NNN.toml) of the images to complete"
        raise InputError(Problem("skip_existing", f"{folder} has no job with these settings", remedy))


def removal(settings: InferenceSettings) -> list[Path]:
    """The files that `overwrite_output_dir` removes."""
    overwrites = settings.overwrite_output_dir and settings.output_dir is not None and not settings.skip_existing
    return ownership.Record(Path(settings.output_dir)).files() if overwrites and settings.output_dir else []


@contextmanager
def claimed(settings: InferenceSettings, count: int) -> Iterator[ImageFolder]:
    """Reserves the numbers of a job's images and writes its config.toml. Both are undone if an InputError is raised before the
    first image."""
    folder, had_record = opened(settings)
    with ownership.recording(folder) as record:
        with record.locked():
            place = begun(settings, record, count)
        try:
            yield place
        except InputError:
            if not place.finished and not settings.skip_existing:
                undo(place, record, had_record)
            raise
        finally:
            if place.aside:
                remove(place.aside[0][0].parent)


def opened(settings: InferenceSettings) -> tuple[Path, bool]:
    """The folder, created if it is missing, and whether it already has a record."""
    if settings.output_dir is None:
        subject = settings.prompt[0] if settings.prompt else settings.lesson
        return numbered_folders.new_folder(PARENT, slug=numbered_folders.slug(subject)), False
    folder = Path(settings.output_dir)
    make_folder(folder)
    return folder, os.path.lexists(folder / ownership.NAME)


def begun(settings: InferenceSettings, record: ownership.Record, count: int) -> ImageFolder:
    """Reserves numbers for a job and writes its config.toml, or finds the job to continue."""
    folder = record.path.parent
    if settings.skip_existing and (job := earlier(record, settings)):
        place = ImageFolder(folder, job["start"], job["count"], job["suffix"], format=settings.image_format)
        place.finished = {each for each in range(count) if os.path.lexists(place.image(each))}
        return place
    aside = set_aside(removal(settings), folder)
    start = first_free(folder, record)
    suffix = f"-{start:03d}" if any(os.path.lexists(folder / name) for name in OF_A_JOB) else ""
    record.append({"job": identity(settings), "start": start, "count": count, "suffix": suffix})
    place = ImageFolder(folder, start, count, suffix, format=settings.image_format, aside=aside)
    kept = settings.model_copy(update={"output_dir": str(folder), "overwrite_output_dir": False, "like": None})
    write_text(place.file("config.toml"), kept.to_toml())
    return place


def set_aside(files: list[Path], folder: Path) -> list[tuple[Path, Path]]:
    """Moves files into a hidden folder, from which `undo` restores them."""
    if not files:
        return []
    hidden = Path(mkdtemp(prefix=".earlier-", dir=folder))
    moves = [(hidden / f"{number:06d}", path) for number, path in enumerate(files)]
    for there, path in moves:
        os.rename(path, there)
    return moves


def first_free(folder: Path, record: ownership.Record) -> int:
    """The number after the highest of all files and of all numbers that other jobs reserved."""
    taken = [int(match[1]) for name in os.listdir(folder) if (match := NUMBERED.fullmatch(name))]
    promised = [job["start"] + job["count"] - 1 for job in record.jobs if is_job(job) and any_there(folder, job)]
    return 1 + max([*taken, *promised], default=-1)


def any_there(folder: Path, job: dict[str, Any]) -> bool:
    """Whether a job still has its config.toml; a job that was removed no longer reserves numbers."""
    return os.path.lexists(ImageFolder(folder, job["start"], job["count"], job["suffix"]).file("config.toml"))


def is_job(entry: dict[str, Any]) -> bool:
    """Whether a line of the record describes a job."""
    return all(type(entry.get(name)) is kind for name, kind in (("start", int), ("count", int), ("suffix", str)))


def earlier(record: ownership.Record, settings: InferenceSettings) -> dict[str, Any] | None:
    """The most recent job with the same settings."""
    return next((job for job in reversed(record.jobs) if is_job(job) and job["job"] == identity(settings)), None)


def identity(settings: InferenceSettings) -> str:
    """A hash of the settings that identify a job."""
    values = {name: value for name, value in settings.values().items() if name not in NOT_OF_A_JOB}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def undo(place: ImageFolder, record: ownership.Record, had_record: bool) -> None:
    """Removes the files of a job that failed before its first image, and restores the files that were set aside."""
    with suppress(OSError):
        place.file("config.toml").unlink()
        for there, path in place.aside:
            os.rename(there, path)
        if not had_record:
            record.path.unlink()
        place.folder.rmdir()
