"""Photos of the page: uploads kept in `photos/NAME/`, and copies there that may be cropped and captioned. No original changes."""

import base64
import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from customize.data.images.image_file import open_image
from customize.errors import InputError, Problem
from customize.printable import printable
from customize.storage import numbered_folders, ownership
from customize.storage.atomic import write_bytes, write_image, write_text
from customize.storage.disk import make_folder
from customize.storage.untrusted_files import KIB, MIB, START, kind_of, read_bytes, read_text, regular_file
from customize.web.workspace import Workspace

MOST_PHOTOS, LARGEST = 200, 64 * MIB
"""Files of one upload, and the bytes of one."""
CAPTION = ".txt"
SUFFIXES = {
    "a PNG image": ".png", "a JPEG image": ".jpg", "a WebP image": ".webp", "a GIF image": ".gif", "a BMP image": ".bmp",
    "a TIFF image": ".tif", "an AVIF image": ".avif", "a HEIC image": ".heic", "a HEIF image": ".heic",
}  # fmt: skip
"""What may be uploaded, by its content, and the suffix that it gets: a name says nothing."""


def allowed(workspace: Workspace, folder: str) -> Path:
    """A folder of photos that the page may read: in the workspace, or in the user's home. Raises InputError for any other."""
    path = workspace.folder / os.path.expanduser(folder.replace("\0", "?"))
    real = os.path.realpath(path)
    places = [os.path.realpath(place) for place in (workspace.folder, Path(os.path.expanduser("~")))]
    if not any(real == place or real.startswith(place.rstrip(os.sep) + os.sep) for place in places):
        remedy = "copy the photos there, or upload them"
        raise InputError(Problem("folder", f"{printable(folder)} is neither in this workspace nor in your home", remedy))
    return path


def keep(workspace: Workspace, files: Iterable[str], name: str) -> tuple[Path, list[str]]:
    """Copies uploaded files into a new folder of photos. Returns it, and a line for each file that was not taken.

    Only images, by their content, and captions of theirs are taken; a name is reduced to letters that every system has.
    """
    taken: dict[str, bytes] = {}
    refused: list[str] = []
    for each in sorted(files, key=lambda file: Path(file).suffix == CAPTION):
        shown = printable(os.path.basename(each), 80)
        try:
            if len(taken) >= MOST_PHOTOS:
                raise ValueError(f"is more than the {MOST_PHOTOS} that are taken at once")
            stem = numbered_folders.slug(Path(each).stem) or f"photo-{len(taken) + 1}"
            suffix, data = accepted(Path(each), {Path(known).stem for known in taken}, stem)
            taken[free(f"{stem}{suffix}", taken)] = data
        except (OSError, ValueError) as error:
            refused.append(f"{shown}: {error.strerror if isinstance(error, OSError) and error.strerror else error}")
    if not any(not known.endswith(CAPTION) for known in taken):
        raise InputError(Problem("photos", "; ".join(refused) or "none were given", "give PNG, JPEG, WebP, AVIF or HEIC images"))
    folder = workspace.photos / free(numbered_folders.slug(name) or "photos", names_in(workspace.photos))
    with edited(folder):
        for known, data in taken.items():
            write_bytes(folder / known, data)
    return folder, refused


@contextmanager
def edited(folder: Path) -> Iterator[None]:
    """Within this context, what is written into the folder is recorded as ours, and files of the user are not replaced."""
    make_folder(folder)
    with ownership.recording(folder):
        yield


def accepted(path: Path, stems: set[str], stem: str) -> tuple[str, bytes]:
    """The suffix and the content of an uploaded file. Raises ValueError, or OSError, for one that is not taken."""
    if path.suffix.lower() == CAPTION:
        if stem not in stems:
            raise ValueError("is a caption without its image")
        return CAPTION, read_text(path, 10 * KIB).encode()
    with regular_file(path, LARGEST) as file:
        kind = kind_of(file.read(START))
    if kind not in SUFFIXES:
        raise ValueError(f"is {kind or 'no image'}")
    try:
        open_image(path)
    except InputError as error:
        raise ValueError(f"{error.problems[0].what}; {error.problems[0].remedy}") from None
    return SUFFIXES[kind], read_bytes(path, LARGEST)


def free(name: str, taken: Iterable[str]) -> str:
    """The name, or the first of NAME-2, NAME-3, ... that is not taken."""
    known, path, number = set(taken), Path(name), 1
    while (found := name if number == 1 else f"{path.stem}-{number}{path.suffix}") in known:
        number += 1
    return found


def names_in(folder: Path) -> list[str]:
    """The names in a folder; none if there is no folder."""
    with suppress(OSError):
        return os.listdir(folder)
    return []


def own(workspace: Workspace, folder: Path) -> Path:
    """The folder itself if the page wrote all that is in it, otherwise a copy of its images and captions."""
    inside = folder.resolve().is_relative_to(workspace.photos.resolve())
    if inside and not ownership.foreign(folder, ownership.Record(folder)):
        return folder
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    return keep(workspace, map(str, files), folder.name)[0]


def cropped(folder: Path, name: str, across: float, down: float, share: float) -> str:
    """Puts a square cut-out in place of our copy of a photo, as PNG. Returns its name.

    across, down: the centre, in [0, 1] of width and height; share: the side, in (0, 1] of the shorter side.
    """
    path = member(folder, name)
    image = open_image(path)
    box = square(image.size, across, down, share)
    new = folder / free(f"{path.stem}.png", {*names_in(folder)} - {path.name})
    with edited(folder):
        write_image(new, image.crop(box))
        caption = path.with_suffix(CAPTION)
        if new.stem != path.stem and caption.is_file():
            write_bytes(new.with_suffix(CAPTION), caption.read_bytes())
            caption.unlink()
        if new != path:
            path.unlink()
    return new.name


def square(size: tuple[int, int], across: float, down: float, share: float) -> tuple[int, int, int, int]:
    """The square inside an image that is nearest to the one with this centre and side: left, top, right, bottom."""
    side = max(round(min(size) * min(max(share, 0.05), 1.0)), 1)
    left, top = (
        min(max(round(length * min(max(centre, 0.0), 1.0) - side / 2), 0), length - side)
        for length, centre in zip(size, (across, down), strict=True)
    )
    return left, top, left + side, top + side


def captioned(folder: Path, name: str, text: str) -> None:
    """Writes the caption beside our copy of a photo; an empty one is removed."""
    path = member(folder, name).with_suffix(CAPTION)
    with edited(folder):
        if words := " ".join(text.split()):
            write_text(path, f"{words}\n")
        else:
            path.unlink(missing_ok=True)


def member(folder: Path, name: str) -> Path:
    """The file of this name in the folder. Raises InputError for a name that leads elsewhere, or to none."""
    path = folder / name
    if Path(name).name != name or not os.path.isfile(path) or path.is_symlink():
        raise InputError(Problem("photo", f'there is no "{printable(name)}"', "choose one of the photos"))
    return path


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of a photo as it is shown, which is decoded once. Raises InputError for one that cannot be opened."""
    return _size(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _size(path: Path, changed: int) -> tuple[int, int]:
    return open_image(path).size


def thumbnail(path: Path, most: int = 256) -> str:
    """A small JPEG of an image as an address that needs no file; empty for one that cannot be opened. most: pixels of a side."""
    with suppress(InputError, OSError):
        image = open_image(path)
        image.thumbnail((most, most))
        data = io.BytesIO()
        image.save(data, "JPEG", quality=80)
        return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
    return ""
