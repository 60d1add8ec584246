"""The key of this user, by which the program knows what it wrote itself, whatever folder that lies in.

It is kept among the user's own files, never in a folder of results, which may come from somebody else.
"""

import hashlib
import hmac
import os
import secrets
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from customize.errors import InputError, Problem

NAME = "key"
LENGTH = 32
MINE = getattr(os, "getuid", lambda: 0)()


def signature(purpose: str, text: str) -> str:
    """A text of 64 hexadecimal digits that only this user can compute. Raises InputError where no key can be kept."""
    return hmac.new(key(), f"{purpose}\0{text}".encode(errors="surrogatepass"), hashlib.sha256).hexdigest()


def equal(given: str, expected: str) -> bool:
    """Whether two signatures are the same; takes the same time for every wrong one."""
    return hmac.compare_digest(given.encode(errors="surrogatepass"), expected.encode())


def key() -> bytes:
    """The key, which is made when it is first asked for. Raises InputError where it cannot be kept."""
    for folder in folders():
        with suppress(OSError):
            return key_in(folder)
    remedy = "set XDG_STATE_HOME to a folder of yours that can be written"
    raise InputError(Problem("XDG_STATE_HOME", "there is no folder for the key by which the program knows its own jobs", remedy))


def folders() -> Iterator[Path]:
    """Where it may lie, the best place first: the last one, for a user without a home, lasts until the machine is started anew.

    Only absolute paths, as the XDG rules ask for: a relative one would lead into the folder of results."""
    home = os.path.join(os.path.expanduser("~"), *(("AppData", "Local") if sys.platform == "win32" else (".local", "state")))
    for place in (os.environ.get("XDG_STATE_HOME"), home, os.environ.get("XDG_RUNTIME_DIR")):
        if place and os.path.isabs(place):
            yield Path(place, "customize")
    yield Path(tempfile.gettempdir(), f"customize-{MINE}")


def key_in(folder: Path) -> bytes:
    """The key in a folder; one that others could have read is replaced. Raises OSError where others could exchange it."""
    folder.mkdir(0o700, parents=True, exist_ok=True)
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode) or os.name != "nt" and (found.st_uid != MINE or found.st_mode & 0o022):
        raise PermissionError(f"{folder} can be changed by others")
    path = folder / NAME
    return known(path) or made(path)


def known(path: Path) -> bytes | None:
    """The key in a file that nobody else can read; None without one."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:
            found, data = os.fstat(descriptor), file.read(LENGTH + 1)
        is_private = os.name == "nt" or (found.st_uid == MINE and not found.st_mode & 0o077)
        return data if is_private and len(data) == LENGTH else None
    return None


def made(path: Path) -> bytes:
    """A new key; that of another process, if it was faster."""
    data, temporary = secrets.token_bytes(LENGTH), path.with_name(f".{NAME}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        with suppress(OSError):  # not every file system has hard links
            os.link(temporary, path)
            return data
        if other := known(path):
            return other
        os.replace(temporary, path)
        return data
    finally:
        temporary.unlink(missing_ok=True)
