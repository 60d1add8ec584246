"""One process per run folder. The operating system releases the lock when the process ends, however it ends."""

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from customize import events
from customize.errors import InputError, Problem
from customize.storage.disk import make_folder

NAME = ".lock"


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Lock the folder, which is created if missing. Raises InputError if another process holds the lock."""
    make_folder(folder)
    with _opened(folder, os.O_RDWR | os.O_CREAT) as descriptor:
        if not taken(descriptor):
            time.sleep(0.1)  # a `check` may have held it briefly
            if not taken(descriptor):
                raise refusal(folder, descriptor)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        yield


def check(folder: Path) -> None:
    """Raise InputError if a running process holds the lock of the folder. Writes nothing."""
    if os.path.lexists(folder / NAME):
        may_write = os.access(folder / NAME, os.W_OK)  # network drives only lock files that are open for writing
        with _opened(folder, os.O_RDWR if may_write else os.O_RDONLY) as descriptor:
            if not taken(descriptor):
                raise refusal(folder, descriptor)


def holder(folder: Path) -> int | None:
    """The running process that holds the lock of the folder (0 where the system does not tell which); None if none does. Writes
    nothing."""
    with suppress(OSError, InputError):
        with _opened(folder, os.O_RDWR if os.access(folder / NAME, os.W_OK) else os.O_RDONLY) as descriptor:
            if not taken(descriptor):
                return int(_content(descriptor) or 0)
    return None


def taken(descriptor: int) -> bool:
    """Lock an open file without waiting; False if it is locked already."""
    import filelock  # 70 ms to import, and most folders have no lock file

    try:
        return filelock.lock_descriptor(descriptor, blocking=False)
    except OSError as error:
        events.warn(f"this file system does not support locks ({error.strerror}): do not start a second run in this folder")
        return True


def refusal(folder: Path, descriptor: int) -> InputError:
    """The error for a folder that another process uses."""
    who = f"process {pid}" if (pid := _content(descriptor).decode(errors="replace")) else "another process"
    remedy = "wait for it to end, or give another --output_dir"
    return InputError(Problem("output_dir", f"{who} is using {folder}", remedy))


@contextmanager
def _opened(folder: Path, flags: int) -> Iterator[int]:
    """The open lock file. Raises InputError for anything else with that name, such as a link to a file of the user."""
    path = folder / NAME
    fault = InputError(
        Problem("output_dir", f"{path} is not the lock file of a run, or not yours", "move it elsewhere, or give another folder")
    )
    try:
        descriptor = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EACCES, errno.EPERM):
            raise fault from error
        raise
    try:
        content = _content(descriptor) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b"not a file"
        if content and not content.isdigit():
            raise fault
        yield descriptor
    finally:
        os.close(descriptor)


def _content(descriptor: int) -> bytes:
    """The process number in a lock file; empty if there is none, or if Windows does not let others read a locked file."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        return os.read(descriptor, 21)
    except PermissionError:
        return b""
    finally:
        os.lseek(descriptor, 0, os.SEEK_SET)
