"""One process per run folder. The operating system releases the lock when the process ends, however it ends."""

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from customize import events
from customize.errors import InputError, Problem
from customize.storage.disk import make_folder

NAME = ".lock"


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Locks the folder, which is made if it is missing. Raises InputError when another process holds it."""
    make_folder(folder)
    with _opened(folder, os.O_RDWR | os.O_CREAT) as descriptor:
        if not taken(descriptor):
            time.sleep(0.1)  # a `check` may have held it for a moment
            if not taken(descriptor):
                raise refusal(folder, descriptor)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        yield


def check(folder: Path) -> None:
    """Raises InputError when a running process holds the folder. Writes nothing."""
    if os.path.lexists(folder / NAME):
        may_write = os.access(folder / NAME, os.W_OK)  # network drives lock only files that are open for writing
        with _opened(folder, os.O_RDWR if may_write else os.O_RDONLY) as descriptor:
            if not taken(descriptor):
                raise refusal(folder, descriptor)


def taken(descriptor: int) -> bool:
    """Locks an open file without waiting; false when it is locked already."""
    import filelock  # 70 ms, and most folders that are checked hold no lock

    try:
        return filelock.lock_descriptor(descriptor, blocking=False)
    except OSError as error:
        events.warn(f"this file system has no locks ({error.strerror}): start no second run in this folder")
        return True


def refusal(folder: Path, descriptor: int) -> InputError:
    """Who holds the folder, and what to do about it."""
    who = f"process {pid}" if (pid := _content(descriptor).decode(errors="replace")) else "another process"
    remedy = "wait for it to end, or name another --output_dir"
    return InputError(Problem("output_dir", f"{who} is at work in {folder}", remedy))


@contextmanager
def _opened(folder: Path, flags: int) -> Iterator[int]:
    """The open lock file. Raises InputError for anything else of that name, such as a link to a file of the user's."""
    path = folder / NAME
    fault = InputError(Problem("output_dir", f"{path} is no lock of a run, or not yours", "move it away, or name another folder"))
    try:
        descriptor = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EACCES, errno.EPERM):
            raise fault from error
        raise
    try:
        content = _content(descriptor) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b"no file"
        if content and not content.isdigit():
            raise fault
        yield descriptor
    finally:
        os.close(descriptor)


def _content(descriptor: int) -> bytes:
    """The number of the process in a lock file; empty when there is none, or when Windows keeps the locked file from readers."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        return os.read(descriptor, 21)
    except PermissionError:
        return b""
    finally:
        os.lseek(descriptor, 0, os.SEEK_SET)
