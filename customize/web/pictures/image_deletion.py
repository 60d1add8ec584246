"""Deletes generated images: only files that the record of their folder knows, and that are unchanged since they were written."""

from collections.abc import Sequence
from pathlib import Path

from customize.errors import InputError, Problem
from customize.inference.run.image_folder import is_job
from customize.jobs import runs
from customize.storage.ownership import Record, is_ours
from customize.web.pictures.image_gallery import IMAGE, ImageOfFolder


def is_deletable(image: ImageOfFolder) -> bool:
    """Whether customize wrote the image, and it is unchanged since."""
    try:
        return is_ours(image.path, Record(image.path.parent))
    except InputError:
        return False


def delete(images: Sequence[ImageOfFolder]) -> None:
    """Deletes images of one folder with what was recorded beside each; after the last one, all that customize wrote there.

    Raises InputError, before anything is deleted, if one of them is not ours.
    """
    if others := [image for image in images if not is_deletable(image)]:
        what = "was not written by customize, or was changed since"
        raise InputError([Problem(image.name, what, "delete it by hand") for image in others])
    for image in images:
        record, stem = Record(image.path.parent), image.path.stem
        beside = [path for path in record.folder.iterdir() if path.name.startswith(f"{stem}-") and is_ours(path, record)]
        for path in (*beside, image.path):
            path.unlink(missing_ok=True)
    for folder in {image.path.parent for image in images}:
        if not any(IMAGE.fullmatch(path.name) for path in folder.iterdir()) and is_complete(Record(folder)):
            runs.delete(folder)


def is_complete(record: Record) -> bool:
    """Whether each number that a job of the folder reserved was written once: none is being drawn, and none is left to resume."""
    written = {Path(name).stem for name in record.hashes}
    reserved = [range(job["start"], job["start"] + job["count"]) for job in record.jobs if is_job(job)]
    return all(f"{number:03d}" in written for numbers in reserved for number in numbers)
