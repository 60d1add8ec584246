"""Manifests: the sizes and SHA-256 hashes of a folder's files, written last. A folder without one is incomplete."""

import errno
import hashlib
import json
import stat
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

NAME = "manifest.json"


def write(folder: Path, unlisted: tuple[str, ...] = ()) -> None:
    """Write the manifest of all files in and below a folder, except those with `unlisted` names."""
    files = [file for file in listed(folder) if file.name not in unlisted]
    entries = {name(folder, file): {"size": file.stat().st_size, "sha256": sha256(file)} for file in files}
    (folder / NAME).write_text(text(entries), encoding="utf-8", newline="\n")


def faults(folder: Path, contents: bool = True, others: bool = False) -> dict[str, str]:
    """What is wrong with each faulty file of a folder; empty if the folder is intact.

    contents: compare hashes, not only sizes; others: accept files that are not listed.
    """
    try:
        entries = read(folder)
    except FileNotFoundError:
        return {NAME: "is missing"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {NAME: "cannot be read"}
    found = {file: what for file in entries if (what := fault(folder / file, entries[file], contents))}
    extra = () if others else (name(folder, file) for file in listed(folder))
    return found | {file: "is not listed" for file in extra if file not in entries}


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """The entries by name. Raises OSError, ValueError, KeyError, TypeError or AttributeError if there is no valid manifest."""
    data = (folder / NAME).read_bytes()
    entries = {key: {"size": value["size"], "sha256": value["sha256"]} for key, value in json.loads(data).items()}
    if data != text(entries).encode():
        raise ValueError("not as it was written")
    if not all(map(is_inside, entries)):
        raise ValueError("a name leads out of the folder")
    return entries


def is_inside(name: str) -> bool:
    """Whether a name is that of a file in or below the folder of its manifest."""
    path = PurePath(name)
    return bool(path.parts) and not path.anchor and ".." not in path.parts and "\0" not in name


def listed(folder: Path) -> Iterator[Path]:
    """All files in and below a folder, except the manifest and hidden files, which other programs add."""
    files = (path for path in sorted(folder.rglob("*")) if not path.is_dir())
    return (path for path in files if path != folder / NAME and not path.name.startswith("."))


def name(folder: Path, file: Path) -> str:
    """The name of a file in the manifest of a folder."""
    return file.relative_to(folder).as_posix()


def text(entries: dict[str, dict[str, Any]]) -> str:
    """The text of a manifest."""
    return json.dumps(entries, indent=1)


def fault(file: Path, expected: dict[str, Any], contents: bool = True) -> str:
    """What is wrong with a file, compared with its entry in a manifest; empty if nothing is."""
    try:
        about = file.stat()
        if not stat.S_ISREG(about.st_mode):  # a device or a pipe may have no end
            return "is not a regular file"
        if about.st_size != expected["size"]:
            return f"has {about.st_size} bytes instead of {expected['size']}"
        if contents and sha256(file) != expected["sha256"]:
            return "has changed since it was written"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return ""


def sha256(file: Path) -> str:
    """The SHA-256 hash of a file, in hexadecimal digits."""
    if file.exists() and not file.is_file():  # reading a device or a pipe may never end
        raise OSError(errno.EINVAL, "is not a regular file", str(file))
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
