"""Where the run of a request goes, and the TOML file beside it, which says itself that it is ours. No torch."""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

from customize.errors import InputError, Problem
from customize.printable import printable
from customize.settings.files.run_folders import PARENT
from customize.storage.numbered_folders import slug
from customize.storage.untrusted_files import read_text
from customize.teach.asked import Request
from customize.teach.rare_word import folder_name

MARK = "# Written by customize teach; SHA-256 of the lines below: "
MOST_BYTES = 1_000_000


def signed(command: str, body: str) -> str:
    """A text headed by its command and by its own hash, so that `command_in` knows whether it was changed."""
    return f"# {command}\n{MARK}{hashlib.sha256(body.encode()).hexdigest()}\n{body}"


def command_in(path: Path) -> str | None:
    """The command of a file that `signed` made and nobody changed; None for any other file."""
    with suppress(OSError, ValueError):
        first, _, rest = read_text(path, MOST_BYTES).partition("\n")
        second, _, body = rest.partition("\n")
        if second == MARK + hashlib.sha256(body.encode()).hexdigest() and not path.is_symlink():
            return first.removeprefix("# ")
    return None


def toml_of(folder: Path) -> Path:
    """The file of settings beside a run folder: runs/cat.toml of runs/cat."""
    return folder.parent / f"{folder.name}.toml"


def place(request: Request, command: str) -> Path:
    """The folder of the run: that of an earlier run of the same command, which goes on, otherwise a new name.

    Raises InputError where the user names a folder and the file beside it is not ours.
    """
    if request.output_dir:
        folder = Path(request.output_dir.rstrip("/\\") or request.output_dir)
        file = toml_of(folder)
        if file.exists() and command_in(file) is None:
            what = f"{printable(file)} exists, and was changed or not written by customize teach"
            raise InputError(
                Problem("--output_dir", what, f"name another folder, or train with it: customize train_dreambooth {file}")
            )
        return folder
    return next(folder for folder in names(request) if is_free(folder) or command_in(toml_of(folder)) == command)


def names(request: Request) -> Iterator[Path]:
    """runs/NAME, runs/NAME-2, ... after the folder of photos."""
    name = slug(folder_name(request)) or slug(request.noun) or "photos"
    yield PARENT / name
    yield from (PARENT / f"{name}-{number}" for number in count(2))


def is_free(folder: Path) -> bool:
    """Whether neither the folder nor its file of settings exists."""
    return not (folder.exists() or folder.is_symlink() or toml_of(folder).exists() or toml_of(folder).is_symlink())
