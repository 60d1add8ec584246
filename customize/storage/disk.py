"""Operating system services for `atomic`: flushing, swapping names, and errors of full or broken disks."""

import ctypes
import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from customize import units
from customize.storage import manifest

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h
FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
BROKEN = {errno.EIO, errno.EROFS, errno.ENODEV, errno.ENXIO, getattr(errno, "ESTALE", errno.EIO)}
DENIED = {errno.EACCES, errno.EPERM}


class WriteError(OSError):
    """A file or folder could not be written. `strerror` is a sentence. The old file or folder is unchanged."""


@contextmanager
def writing(path: Path, size: int = 0) -> Iterator[None]:
    """Turn errors of a full, broken or read-only disk into WriteError, with `path` and the number of missing bytes.

    size: the number of bytes to be written, if known; the free space is checked first.
    """
    try:
        room_for(path, size)
        yield
    except (OSError, SafetensorError) as error:
        number = error_number(error)
        vanished = number in (errno.ENOENT, errno.ENOTDIR) and not path.parent.is_dir()
        if isinstance(error, WriteError) or not (number in FULL | BROKEN | DENIED or vanished):
            raise
        raise write_error(path, number, size) from error


def room_for(path: Path, size: int) -> None:
    """Raise WriteError if `size` bytes do not fit on the disk of `path`."""
    if size and free_bytes(path) < size:
        raise write_error(path, errno.ENOSPC, size)


def write_error(path: Path, number: int, size: int) -> WriteError:
    """The WriteError for a system error number."""
    if number not in FULL:
        return WriteError(number, f"cannot write {path}: {os.strerror(number)}", str(path))
    free = free_bytes(path)
    needed = f"needs {units.size(size)}, {units.size(free)} are free" if size else f"{units.size(free)} are free"
    missing = f"; {units.size(size - free)} are missing" if size > free else f" ({os.strerror(number)})"
    return WriteError(number, f"disk full: {path} {needed}{missing}", str(path))


def error_number(error: Exception) -> int | None:
    """The system's number for an error; safetensors' writer only has it in its message."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def free_bytes(path: Path) -> int:
    """The free bytes on the disk of `path`, which need not exist."""
    place = next(folder for folder in path.absolute().parents if folder.is_dir())
    return shutil.disk_usage(place).free


def make_folder(folder: Path) -> None:
    """Create a folder and its missing parents durably: they survive a power cut."""
    if not folder.is_dir():
        make_folder(folder.absolute().parent)
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise write_error(folder, error.errno or errno.EIO, 0) from error
        sync_folder(folder.absolute().parent)


def sync_tree(folder: Path) -> None:
    """Flush a folder that libraries filled, and set the mode of its files according to the user's umask."""
    mode = 0o666 & ~umask()
    for path in sorted(folder.rglob("*"), key=lambda path: (path.name == manifest.NAME, path)):  # the manifest is the newest file
        if path.is_dir():
            sync_folder(path)
        else:
            os.chmod(path, mode)
            sync(path, os.O_RDWR)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder. Not possible on Windows."""
    if os.name != "nt":
        sync(folder, os.O_RDONLY)


def sync(path: Path, flags: int) -> None:
    """Flush a file or folder to the disk."""
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def umask() -> int:
    """The user's umask: the mode bits that new files must not have."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def exchange(one: Path, other: Path) -> bool:
    """Swap two names atomically; False if the system or the file system does not support it (only Linux does)."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    if rename is None:
        return False
    if rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


def remove(path: Path) -> None:
    """Remove a file or folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def is_running(pid: int) -> bool:
    """Whether a process with that number runs on this machine."""
    if os.name == "nt":  # on Windows, signal 0 would end it
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
