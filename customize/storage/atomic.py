"""Atomic writes: every file is written completely or not at all.

A file or folder is built under a temporary name beside its final one, flushed to the disk, and renamed. A reader sees the
old one or the new one, never a part. A process killed at any moment, or a power cut, leaves at worst hidden temporary
files, which the next write of that name or the next run in that folder removes. Files that the folder's record
(`ownership.py`) does not list as ours are not replaced. Errors of a full or broken disk become `disk.WriteError`, with the
number of missing bytes. Only log.jsonl and the trackers' files are appended to instead.
"""

import errno
import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from customize.storage import manifest, ownership
from customize.storage.disk import exchange, is_running, make_folder, remove, sync, sync_folder, sync_tree, writing

if TYPE_CHECKING:
    from PIL.Image import Image

UNFINISHED = ".{name}.{pid}.unfinished"
REPLACED = ".{name}.replaced"
READY, ASIDE = ".entries.ready", ".entries.aside"


def write_bytes(path: Path, data: bytes, grows: bool = False) -> Path:
    """Write a file, replacing an older one with that name; return its path.

    If a record is kept (`ownership.recording`) and the older file is not ours, the new one is named NAME-2, with a
    warning. grows: lines will be appended to the file.
    """
    requested, path = path, ownership.free_name(path)
    with writing(path, len(data)):
        temporary = _temporary(path)
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if record := ownership.record_for(path):
                record.add_growing(path, data) if grows else record.add(path, len(data), ownership.sha256(data))
            os.replace(temporary, path)
        except BaseException:
            _forget(temporary)
            raise
        sync_folder(path.parent)
    if path != requested:
        ownership.warn_kept(requested, path)
    return path


@contextmanager
def new_file(path: Path, size: int = 0) -> Iterator[Path]:
    """Yield the path of a temporary file to fill, which replaces `path` like the file of `write_bytes`.

    size: the number of bytes that will be written, if known.
    """
    requested, path = path, ownership.free_name(path)
    with writing(path, size):
        temporary = _temporary(path)
        try:
            yield temporary
            sync(temporary, os.O_RDWR)
            if record := ownership.record_for(path):
                record.add(path, temporary.stat().st_size, manifest.sha256(temporary))
            os.replace(temporary, path)
        except BaseException:
            _forget(temporary)
            raise
        sync_folder(path.parent)
    if path != requested:
        ownership.warn_kept(requested, path)


def write_text(path: Path, text: str) -> Path:
    """Write a text file as UTF-8 with \\n line ends, like `write_bytes`."""
    return write_bytes(path, text.encode("utf-8"))


def append_text(path: Path, text: str) -> None:
    """Append lines to a text file, which is created if it does not exist."""
    with writing(path, len(text)):
        if (record := ownership.record_for(path)) and not path.exists():
            record.add_growing(path, text.encode())
        with open(path, "a", encoding="utf-8", newline="\n") as file:
            file.write(text)


def write_image(path: Path, image: "Image", **options) -> Path:
    """Write a Pillow image in the format of the name's extension, like `write_bytes`; options: of Pillow's `save`."""
    data = BytesIO()
    image.save(data, format={".jpg": "JPEG"}.get(path.suffix, path.suffix.removeprefix(".")), **options)
    return write_bytes(path, data.getvalue())


@contextmanager
def new_folder(path: Path, size: int = 0) -> Iterator[Path]:
    """Yield a temporary folder to fill; on success it replaces `path`, on an exception it is removed.

    size: the number of bytes that will be written, if known. If a record is kept and a file in the older folder is not
    ours, the new one is named NAME-2, with a warning.
    """
    with writing(path, size):
        with _filled(path) as temporary:
            yield temporary
            sync_tree(temporary)
            requested, path = path, ownership.free_name(path)
            if record := ownership.record_for(path):
                record.add_tree(temporary, path)
            _put(temporary, path)
        sync_folder(path.parent)
        remove(temporary)
    if path != requested:
        ownership.warn_kept(requested, path)


@contextmanager
def new_entries(folder: Path, size: int = 0, unlisted: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yield a temporary folder to fill; on success all of its entries are moved into `folder`, or none.

    Other entries of `folder` are not changed. A manifest of all but the `unlisted` files is added last. If a record is
    kept, an unlisted file whose name is taken by a file that is not ours is named NAME-2; any other conflict with a file
    that is not ours raises FileExistsError.
    """
    with writing(folder / "entries", size):
        settle(folder)
        with _filled(folder / "entries") as temporary:
            yield temporary
            manifest.write(temporary, unlisted)
            sync_tree(temporary)
            _make_way(temporary, folder, unlisted)
            os.rename(temporary, folder / READY)  # from here on `settle` completes the move, whatever happens
        sync_folder(folder)
        settle(folder)


def _make_way(built: Path, folder: Path, unlisted: tuple[str, ...]) -> None:
    """Record the entries that will be moved into `folder`; files that they replace must be ours."""
    if not (record := ownership.record_for(folder / READY)):
        return
    for name in unlisted:
        if (built / name).exists() and (place := ownership.free_name(folder / name)) != folder / name:
            os.rename(built / name, built / place.name)
            ownership.warn_kept(folder / name, place)
            unlisted = (*unlisted, place.name)
    for entry in built.iterdir():
        if blocking := ownership.foreign(folder / entry.name):
            raise FileExistsError(errno.EEXIST, "in the way, and not written by this run", str(blocking[0]))
    for name in (*unlisted, manifest.NAME):
        if (file := built / name).exists():
            record.add(folder / name, file.stat().st_size, manifest.sha256(file))


def settle(folder: Path) -> None:
    """Complete `new_entries` after a kill: first the old entries are moved away, then the new ones are moved in.

    So a reader in between never finds a mixture, only an incomplete set of old or of new entries. The index of a
    pipeline is moved away first; it is moved in last, before the manifest.
    """
    ready, aside = folder / READY, folder / ASIDE
    if not ready.is_dir():
        return
    index = ("model_index.json", manifest.NAME)
    entries = sorted(ready.iterdir(), key=lambda entry: (index.index(entry.name) if entry.name in index else -1, entry.name))
    aside.mkdir(exist_ok=True)
    for entry in reversed(entries):
        if os.path.lexists(folder / entry.name):
            remove(aside / entry.name)
            os.rename(folder / entry.name, aside / entry.name)
    sync_folder(folder)
    for entry in entries:
        os.rename(entry, folder / entry.name)
    sync_folder(folder)
    remove(ready)
    remove(aside)


def discard(path: Path) -> None:
    """Remove a file or folder atomically: it is renamed first, so that nothing finds a part of it."""
    if os.path.lexists(path):
        with writing(path):
            temporary = _temporary(path)
            os.rename(path, temporary)
            sync_folder(path.parent)
            remove(temporary)


def put_back(folder: Path) -> None:
    """Restore the name of a folder after a kill between the two renames of `new_folder`."""
    for old in folder.glob(REPLACED.format(name="*")):
        path = folder / old.name.removeprefix(".").removesuffix(".replaced")
        if not path.exists():
            os.rename(old, path)


def leftovers(folder: Path) -> list[Path]:
    """Temporary files in a run folder and up to two levels below it."""
    kinds = (UNFINISHED.format(name="*", pid="*"), REPLACED.format(name="*"), ASIDE)
    return sorted(path for kind in kinds for pattern in (kind, f"*/{kind}", f"*/*/{kind}") for path in folder.glob(pattern))


def recover(folder: Path) -> None:
    """Complete or undo what a dead process left unfinished. Only for a folder that no other process writes to."""
    with writing(folder / READY):
        for parent in {path.parent for path in leftovers(folder)}:
            put_back(parent)
        settle(folder)
        record = ownership.record_for(folder / READY)
        for path in leftovers(folder):
            if record is None or record.name(path) in record.temporaries or path.name == ASIDE:
                remove(path)


@contextmanager
def _filled(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, removed on an exception."""
    temporary = _temporary(path)
    put_back(path.parent)
    temporary.mkdir()
    try:
        yield temporary
    except BaseException:
        _forget(temporary)
        raise


def _put(folder: Path, path: Path) -> None:
    """Rename `folder` to `path`; a folder with that name gets the name of `folder`, or is removed."""
    if not path.exists():
        os.rename(folder, path)
    elif not exchange(folder, path):
        old = path.with_name(REPLACED.format(name=path.name))
        remove(old)
        os.rename(path, old)
        try:
            os.rename(folder, path)  # `put_back` recovers from a kill before this rename
        except OSError:
            os.rename(old, path)
            raise
        sync_folder(path.parent)
        remove(old)


def _temporary(path: Path) -> Path:
    """A temporary name beside `path` that no running process uses; leftovers of dead processes are removed."""
    make_folder(path.parent)
    mine = path.with_name(UNFINISHED.format(name=path.name, pid=os.getpid()))
    record = ownership.record_for(mine)
    for other in path.parent.glob(UNFINISHED.format(name=glob.escape(path.name), pid="[0-9]*")):
        pid = other.name.removeprefix(f".{path.name}.").removesuffix(".unfinished")
        known = record is None or record.name(other) in record.temporaries
        if known and pid.isdecimal() and (other == mine or not is_running(int(pid))):  # .sd1.5. does not belong to sd1
            remove(other)
    if record:
        record.add_temporary(mine)
    return mine


def _forget(temporary: Path) -> None:
    with suppress(OSError):
        remove(temporary)
