"""Where the run of a request goes, and the TOML file beside it, which is signed by the user's key. No torch.

A run of the same command goes on without a question, so its settings must be those that this user's program wrote: the current
folder may come from somebody else.
"""

from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

from customize.errors import InputError, Problem
from customize.jobs import user_key
from customize.next_command import options
from customize.printable import printable
from customize.settings.files.run_folders import PARENT
from customize.storage.numbered_folders import slug
from customize.storage.untrusted_files import read_text
from customize.teach.asked import Request
from customize.teach.rare_word import folder_name

MARK = "# Written by customize teach; signature of this file: "
MOST_BYTES = 1_000_000


def signed(command: str, body: str) -> str:
    """A text headed by its command and by its signature, so that `command_in` knows whether it was changed."""
    return f"# {command}\n{MARK}{signature(command, body)}\n{body}"


def signature(command: str, body: str) -> str:
    """The signature of a file of this command and this text. Raises InputError where the user's key cannot be kept."""
    return user_key.signature("teach", f"{command}\n{body}")


def command_in(path: Path) -> str | None:
    """The command of a file that `signed` made for this user and nobody changed; None for any other file."""
    with suppress(OSError, ValueError):
        first, _, rest = read_text(path, MOST_BYTES).partition("\n")
        second, _, body = rest.partition("\n")
        command, given = first.removeprefix("# "), second.removeprefix(MARK)
        if second.startswith(MARK) and user_key.equal(given, signature(command, body)):
            return None if path.is_symlink() else command
    return None


def passed_over(request: Request, command: str) -> Path | None:
    """A file that is headed by the same command, and was changed or comes from somebody else; None without one."""
    file = toml_of(next(names(request)))
    with suppress(OSError, ValueError):
        same = read_text(file, MOST_BYTES).startswith(f"# {command}\n{MARK}")
        return file if same and not request.output_dir and command_in(file) is None else None
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
            what = f"{printable(file)} exists, and was changed or not written by customize teach here"
            train = f"customize {request.trained_by} {options(str(file))}"
            raise InputError(Problem("--output_dir", what, f"name another folder, or train with it: {train}"))
        return folder
    return next(folder for folder in names(request) if is_free(folder) or command_in(toml_of(folder)) == command)


def another(folder: Path) -> Path:
    """The next free name for one more run of the same request."""
    return next(each for number in count(2) if is_free(each := folder.with_name(f"{folder.name}-{number}")))


def names(request: Request) -> Iterator[Path]:
    """runs/NAME, runs/NAME-2, ... after the folder of photos."""
    name = slug(folder_name(request)) or slug(request.noun) or "photos"
    yield PARENT / name
    yield from (PARENT / f"{name}-{number}" for number in count(2))


def is_free(folder: Path) -> bool:
    """Whether neither the folder nor its file of settings exists."""
    return not (folder.exists() or folder.is_symlink() or toml_of(folder).exists() or toml_of(folder).is_symlink())
