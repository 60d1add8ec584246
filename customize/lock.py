"""One process per run folder. The system releases the lock when the process ends, however it ends."""

import errno
import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from customize.disk import make_folder
from customize.errors import InputError, Problem

NAME = ".lock"
FAR = 1 << 30
"""Windows locks bytes, which nobody else can read then: one far behind the number of the process."""


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keeps the folder, made if it is missing, for this process. Raises InputError when another one has it."""
    make_folder(folder)
    with _opened(folder, os.O_RDWR | os.O_CREAT) as descriptor:
        if not taken(descriptor):
            time.sleep(0.1)  # it may have been a `check` that had it
            if not taken(descriptor):
                raise refusal(folder, descriptor)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        yield


def check(folder: Path) -> None:
    """Raises InputError when a running process has the folder. Writes nothing."""
    if os.path.lexists(folder / NAME):
        may_write = os.access(folder / NAME, os.W_OK)  # as network drives want it of those who ask for a lock
        with _opened(folder, os.O_RDWR if may_write else os.O_RDONLY) as descriptor:
            if not taken(descriptor):
                raise refusal(folder, descriptor)


def taken(descriptor: int) -> bool:
    """Takes the lock of an open file without waiting; false when another process has it."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, FAR, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        print(f"note: this file system has no locks ({error.strerror}): start no second run in this folder", file=sys.stderr)
    return True


def refusal(folder: Path, descriptor: int) -> InputError:
    """Who has the folder, and what to do about it."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    pid = os.read(descriptor, 20).decode(errors="replace") or "?"
    remedy = "wait for it to end, or name another --output_dir"
    return InputError(Problem("output_dir", f"process {pid} is at work in {folder}", remedy))


@contextmanager
def _opened(folder: Path, flags: int) -> Iterator[int]:
    """The lock's file. Raises InputError for anything else of that name, such as a link to a file of the user's."""
    path = folder / NAME
    fault = InputError(Problem("output_dir", f"{path} is no lock of a run, or not yours", "move it away, or name another folder"))
    try:
        descriptor = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EACCES, errno.EPERM):
            raise fault from error
        raise
    try:
        said = os.fstat(descriptor)
        if not stat.S_ISREG(said.st_mode) or not (said.st_size == 0 or os.read(descriptor, 21).isdigit()):
            raise fault  # a lock holds the number of a process, or nothing
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)
