"""Every file that is written: whole or not at all.

A file or folder is built beside its final name, flushed to the disk, and renamed. A reader sees the old one or the new
one, never a part; a process killed at any moment leaves at worst a hidden temporary, which the next write removes.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

TEMPORARY = ".{name}.unfinished"


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file, replacing an older one of that name."""
    temporary = _temporary(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    _sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Writes a text file as UTF-8 with plain line feeds, replacing an older one of that name."""
    write_bytes(path, text.encode("utf-8"))


def write_image(path: Path, image: "Image", **options) -> None:
    """Writes a Pillow image in the format of the name's ending; options: as for Pillow's `save`."""
    data = BytesIO()
    image.save(data, format=path.suffix.removeprefix("."), **options)
    write_bytes(path, data.getvalue())


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder to fill; on success it takes the place of `path`, on an exception it is removed."""
    temporary, old = _temporary(path), path.with_name(f".{path.name}.replaced")
    _remove(temporary)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in sorted(temporary.rglob("*")):
            if file.is_file():
                _settle(file)
            else:
                _sync_folder(file)
        _sync_folder(temporary)
        _remove(old)
        if path.exists():
            os.rename(path, old)
        os.rename(temporary, path)
        _sync_folder(path.parent)
        _remove(old)
    except BaseException:
        _remove(temporary)
        raise


def _temporary(path: Path) -> Path:
    return path.with_name(TEMPORARY.format(name=path.name))


def _settle(file: Path) -> None:
    """Flushes a file that somebody else wrote, and gives it the mode that the user's umask asks for."""
    os.chmod(file, 0o666 & ~_umask())
    descriptor = os.open(file, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows has no flush of folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
