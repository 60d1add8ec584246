"""Every file that is written: whole or not at all.

A file or folder is built beside its final name, flushed to the disk, and put in its place in one instant. A reader sees
the old one or the new one, never a part. A process killed at any moment, or a power cut, leaves at worst hidden
temporaries, which the next write of that name or the next run in that folder removes. What a folder's record
(`ownership.py`) does not know as ours is not replaced. What a disk that is full or broken
raises becomes `disk.WriteError`, with the bytes that are missing. Two things are appended to instead: log.jsonl and
the files of the trackers.
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
from customize.storage.disk import exchange, is_running, make_folder, remove, sync_folder, sync_tree, writing

if TYPE_CHECKING:
    from PIL.Image import Image

UNFINISHED = ".{name}.{pid}.unfinished"
REPLACED = ".{name}.replaced"
READY, ASIDE = ".entries.ready", ".entries.aside"


def write_bytes(path: Path, data: bytes, grows: bool = False) -> Path:
    """Writes a file, replacing an older one of that name; returns its path.

    Where a record is kept (`ownership.recording`) and the older one is not ours, the new one is called NAME-2 and a line
    says so. grows: lines will be appended to it.
    """
    asked, path = path, ownership.free(path)
    with writing(path, len(data)):
        temporary = _temporary(path)
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if record := ownership.of(path):
                record.add_growing(path, data) if grows else record.add(path, len(data), ownership.sha256(data))
            os.replace(temporary, path)
        except BaseException:
            _forget(temporary)
            raise
        sync_folder(path.parent)
    if path != asked:
        ownership.say_kept(asked, path)
    return path


def write_text(path: Path, text: str) -> Path:
    """Writes a text file as UTF-8 with plain line feeds, as `write_bytes`."""
    return write_bytes(path, text.encode("utf-8"))


def append_text(path: Path, text: str) -> None:
    """Adds lines to a text file, which is begun where it is missing."""
    with writing(path, len(text)):
        if (record := ownership.of(path)) and not path.exists():
            record.add_growing(path, text.encode())
        with open(path, "a", encoding="utf-8", newline="\n") as file:
            file.write(text)


def write_image(path: Path, image: "Image", **options) -> Path:
    """Writes a Pillow image in the format of the name's ending, as `write_bytes`; options: as for Pillow's `save`."""
    data = BytesIO()
    image.save(data, format={".jpg": "JPEG"}.get(path.suffix, path.suffix.removeprefix(".")), **options)
    return write_bytes(path, data.getvalue())


@contextmanager
def new_folder(path: Path, size: int = 0) -> Iterator[Path]:
    """Yields a temporary folder to fill; on success it takes the place of `path`, on an exception it is removed.

    size: the bytes that will be written, where they are known beforehand. Where a record is kept and something in the
    older folder is not ours, the new one is called NAME-2 and a line says so.
    """
    with writing(path, size):
        with _filled(path) as temporary:
            yield temporary
            sync_tree(temporary)
            asked, path = path, ownership.free(path)
            if record := ownership.of(path):
                record.add_tree(temporary, path)
            _put(temporary, path)
        sync_folder(path.parent)
        remove(temporary)
    if path != asked:
        ownership.say_kept(asked, path)


@contextmanager
def new_entries(folder: Path, size: int = 0, unlisted: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yields a temporary folder to fill; on success what is in it takes its places in `folder`, all or nothing.

    Other entries of `folder` stay as they are. A manifest of all but the `unlisted` files comes with them, last. Where a
    record is kept, an unlisted file gives way to one of its name that is not ours (NAME-2); anything else that is not ours
    and in the way is a FileExistsError.
    """
    with writing(folder / "entries", size):
        settle(folder)
        with _filled(folder / "entries") as temporary:
            yield temporary
            manifest.write(temporary, unlisted)
            sync_tree(temporary)
            _make_way(temporary, folder, unlisted)
            os.rename(temporary, folder / READY)  # from here on the new ones will be there, whatever happens
        sync_folder(folder)
        settle(folder)


def _make_way(built: Path, folder: Path, unlisted: tuple[str, ...]) -> None:
    """Records the entries that are about to come into `folder`; those in the way must be ours."""
    if not (record := ownership.of(folder / READY)):
        return
    for name in unlisted:
        if (built / name).exists() and (place := ownership.free(folder / name)) != folder / name:
            os.rename(built / name, built / place.name)
            ownership.say_kept(folder / name, place)
            unlisted = (*unlisted, place.name)
    for entry in built.iterdir():
        if blocking := ownership.foreign(folder / entry.name):
            raise FileExistsError(errno.EEXIST, "not written by this run, and in the way", str(blocking[0]))
    for name in (*unlisted, manifest.NAME):
        if (file := built / name).exists():
            record.add(folder / name, file.stat().st_size, manifest.sha256(file))


def settle(folder: Path) -> None:
    """Ends what `new_entries` began, if a kill left it half done: first the old ones go, then the new ones come.

    So nothing that reads the folder in between finds a mixture: of old ones alone or of new ones alone, some are missing.
    The index of a pipeline goes first and comes, but for the manifest, last.
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
    """Removes a file or folder: it loses its name in one instant, so that nothing finds half of it."""
    if os.path.lexists(path):
        with writing(path):
            temporary = _temporary(path)
            os.rename(path, temporary)
            sync_folder(path.parent)
            remove(temporary)


def put_back(folder: Path) -> None:
    """Gives a folder back its name where a kill came between the two renames of `new_folder`."""
    for old in folder.glob(REPLACED.format(name="*")):
        path = folder / old.name.removeprefix(".").removesuffix(".replaced")
        if not path.exists():
            os.rename(old, path)


def leftovers(folder: Path) -> list[Path]:
    """Temporaries in a run's folder and one level below it."""
    kinds = (UNFINISHED.format(name="*", pid="*"), REPLACED.format(name="*"), ASIDE)
    return sorted(path for kind in kinds for pattern in (kind, f"*/{kind}") for path in folder.glob(pattern))


def recover(folder: Path) -> None:
    """Ends or undoes what a dead process left half done. Only for a folder in which nobody else writes."""
    with writing(folder / READY):
        for parent in {path.parent for path in leftovers(folder)}:
            put_back(parent)
        settle(folder)
        record = ownership.of(folder / READY)
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
    """Gives a folder the name `path`; one that has it already is then called as the folder was, or is gone."""
    if not path.exists():
        os.rename(folder, path)
    elif not exchange(folder, path):
        old = path.with_name(REPLACED.format(name=path.name))
        remove(old)
        os.rename(path, old)
        try:
            os.rename(folder, path)  # `put_back` is for a kill before this one
        except OSError:
            os.rename(old, path)
            raise
        sync_folder(path.parent)
        remove(old)


def _temporary(path: Path) -> Path:
    """A name beside `path` that no running process uses; what dead ones left under such names is removed."""
    make_folder(path.parent)
    mine = path.with_name(UNFINISHED.format(name=path.name, pid=os.getpid()))
    record = ownership.of(mine)
    for other in path.parent.glob(UNFINISHED.format(name=glob.escape(path.name), pid="[0-9]*")):
        pid = other.name.removeprefix(f".{path.name}.").removesuffix(".unfinished")
        known = record is None or record.name(other) in record.temporaries
        if known and pid.isdecimal() and (other == mine or not is_running(int(pid))):  # .sd1.5. is of another name than sd1
            remove(other)
    if record:
        record.add_temporary(mine)
    return mine


def _forget(temporary: Path) -> None:
    with suppress(OSError):
        remove(temporary)
