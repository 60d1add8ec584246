"""Which files of a folder this program wrote: only these are ever replaced or removed, one by one.

A folder of results keeps a record of what was written there, a line of JSON each, appended before the file takes its place:
its name, size and SHA-256. A file that was edited, or put in the place of one of ours, does not match and is the user's.
A manifest that is recorded vouches for the files that it lists. What grows (log.jsonl) is known by its name and its lines.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from customize import events
from customize.errors import InputError, Problem
from customize.storage import manifest
from customize.storage.run_log import read_log

NAME = ".customize-files.jsonl"
HEADER = {"customize": "the files that were written here"}
PROTECTED: set[str] = set()
"""Files that the user named on the command line as theirs: never replaced or removed, whoever wrote them."""
_active: "list[Record]" = []


class Record:
    """What was written into a folder and below it. Raises InputError where something else has the record's name."""

    def __init__(self, folder: Path):
        self.folder, self.path = Path(os.path.abspath(folder)), folder / NAME
        self.read()

    def read(self) -> None:
        """Takes in the lines; one that is torn or unknown says nothing."""
        self.hashes: dict[str, set[tuple[int, str]]] = {}
        self.growing: dict[str, set[str]] = {}
        self.temporaries: set[str] = set()
        self.jobs: list[dict[str, Any]] = []
        self.exists, self.torn = False, False
        if not os.path.lexists(self.path):
            return
        fault = InputError(Problem(str(self.path), "is no record of written files", "move it away, or name another folder"))
        try:
            data = b"" if self.path.is_symlink() or not self.path.is_file() else self.path.read_bytes()
        except OSError as error:
            raise fault from error
        lines = data.split(b"\n")
        if line_of(lines[0]) != HEADER:
            raise fault
        self.exists, self.torn = True, bool(lines[-1])
        for line in lines[1:]:
            entry = line_of(line)
            name = entry.get("name")
            if isinstance(entry.get("job"), str):
                self.jobs.append(entry)
            elif not isinstance(name, str):
                continue
            elif entry.get("temporary"):
                self.temporaries.add(name)
            elif entry.get("grows"):
                self.growing.setdefault(name, set()).add(entry.get("start", ""))
            else:
                self.hashes.setdefault(name, set()).add((entry.get("size", -1), entry.get("sha256", "")))

    def append(self, entry: dict[str, Any], flush: bool = True) -> None:
        """Adds a line. flush: it must be on the disk before what it tells of."""
        text = "\n" * self.torn + json.dumps(entry) + "\n"
        options = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(self.path, options, 0o666)
        try:
            os.write(descriptor, text.encode())
            if flush:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self.exists, self.torn = True, False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """No other process takes numbers meanwhile, where the file system has locks; what others wrote is read first."""
        with open(self.path, "rb") as file:
            with suppress(ImportError, OSError):
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX)
            self.read()
            yield

    def name(self, path: Path) -> str | None:
        """A file's name in the record; None outside of the folder."""
        path = Path(os.path.abspath(path))
        return path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else None

    def add(self, path: Path, size: int, sha256: str) -> None:
        """Tells of a file that is about to take its place."""
        if name := self.name(path):
            self.append({"name": name, "size": size, "sha256": sha256})
            self.hashes.setdefault(name, set()).add((size, sha256))

    def add_growing(self, path: Path, lines: bytes) -> None:
        """Tells of a file that lines are appended to, and of the first of them, by which it is known."""
        start = sha256(lines.partition(b"\n")[0]) if lines else ""
        if (name := self.name(path)) and start not in self.growing.get(name, ()):
            self.append({"name": name, "grows": True, "start": start})
            self.growing.setdefault(name, set()).add(start)

    def add_temporary(self, path: Path) -> None:
        """Tells of a name under which something is built."""
        if name := self.name(path):
            self.append({"name": name, "temporary": True}, flush=False)
            self.temporaries.add(name)

    def add_tree(self, built: Path, path: Path) -> None:
        """Tells of a folder that was built and is about to be called `path`: by its manifest, or file by file."""
        files = [built / manifest.NAME] if (built / manifest.NAME).is_file() else [f for f in built.rglob("*") if f.is_file()]
        for file in files:
            self.add(path / file.relative_to(built), file.stat().st_size, manifest.sha256(file))

    def has(self, path: Path) -> bool:
        """Whether a file is recorded and as it was written."""
        name = self.name(path)
        if name is None or os.path.realpath(path) in PROTECTED or not is_regular(path):
            return False
        with suppress(OSError):
            if name in self.growing:
                *whole, last = [line for _, line in read_log(path)] or [b"{"]
                whole, torn = (whole, last) if not line_of(last) else ([*whole, last], b"{")
                known = not whole or sha256(whole[0]) in self.growing[name]
                return known and all(map(is_line_of_ours, whole)) and is_begun(torn)
            found = self.hashes.get(name, set())
            return path.stat().st_size in {size for size, _ in found} and manifest.sha256(path) in {known for _, known in found}
        return False

    def files(self) -> list[Path]:
        """Every file in the folder that is ours."""
        names = self.hashes.keys() | self.growing.keys()
        vouching = [name for name in names if Path(name).name == manifest.NAME]
        names = names | {
            (Path(name).parent / entry).as_posix() for name in vouching for entry in entries_of(self.folder / name, self)
        }
        return [self.folder / name for name in sorted(names) if is_ours(self.folder / name, self)]


def is_line_of_ours(line: bytes) -> bool:
    """Whether a line is one of log.jsonl or trace.jsonl."""
    entry = line_of(line)
    return "step" in entry and bool(entry.keys() & {"loss", "left_out", "timestep"})


def is_begun(line: bytes) -> bool:
    """Whether it can be the beginning of such a line, cut off by a kill."""
    return any(line.startswith(start) or start.startswith(line) for start in (b'{"step": ', b'{"image": '))


def line_of(line: bytes) -> dict[str, Any]:
    """The object in a line; an empty one where it is torn or something else."""
    with suppress(ValueError, RecursionError):
        entry = json.loads(line)
        return entry if isinstance(entry, dict) else {}
    return {}


@contextmanager
def recording(folder: Path) -> Iterator[Record]:
    """What is written in and below the folder meanwhile is recorded; what is not ours there is not replaced."""
    record = Record(folder)
    if not record.exists:
        record.append(HEADER)
    _active.append(record)
    try:
        yield record
    finally:
        _active.remove(record)


def of(path: Path) -> Record | None:
    """The record that tells of a path, if one is kept."""
    return next((record for record in reversed(_active) if record.name(path) is not None), None)


def is_regular(path: Path) -> bool:
    """Whether it is a file, and no link to one."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def entries_of(path: Path, record: Record | None) -> dict[str, dict[str, Any]]:
    """What a manifest lists, if it is to be believed: recorded, or, where nothing is, of the very form that is written."""
    if not (record.has(path) if record else is_regular(path)):
        return {}
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return manifest.read(path.parent)
    return {}


def is_ours(path: Path, record: Record | None, top: Path | None = None) -> bool:
    """Whether a file was written by this program and is as it was written. top: how far up manifests are looked for."""
    if record and record.has(path):
        return True
    if not is_regular(path) or os.path.realpath(path) in PROTECTED:
        return False
    top = record.folder if record else top or path.parent
    for parent in (each for each in path.parents if each.is_relative_to(top)):
        entries = entries_of(parent / manifest.NAME, record)
        expected = entries.get(path.relative_to(parent).as_posix())
        if expected is not None or (entries and path == parent / manifest.NAME):
            return expected is None or is_as_listed(path, expected, parent / manifest.NAME)
    return False


def is_as_listed(path: Path, expected: dict[str, Any], listing: Path) -> bool:
    """Whether a file is as its manifest says. One of that size that was not touched since the manifest is not hashed again:
    to edit a file, and to put another one in its place, however old, moves the time of its last change (st_ctime)."""
    with suppress(OSError):
        about = path.stat()
        if os.name != "nt" and about.st_size == expected["size"] and about.st_ctime_ns <= listing.stat().st_ctime_ns:
            return True
    return not manifest.fault(path, expected)


def foreign(path: Path, record: Record | None = None) -> list[Path]:
    """What at and below a path is not ours; links are never ours, empty folders are nobody's."""
    record = record or of(path)
    path = Path(os.path.abspath(path))
    if not path.is_dir() or path.is_symlink():
        return [path] if os.path.lexists(path) and not is_ours(path, record) else []
    found = []
    for folder, folders, files in os.walk(path):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        found += [Path(folder) / name for name in [*files, *links]]
    own = record.path.absolute() if record else None
    return sorted(each for each in found if each != own and not is_ours(each, record, path))


def sign(folder: Path) -> None:
    """Makes the record of a folder that was just built, with every file in it."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    with recording(folder) as record:
        for file in files:
            record.add(file, file.stat().st_size, manifest.sha256(file))


def free(path: Path) -> Path:
    """The path itself where nothing stands, or what is ours; otherwise the next one of NAME-2, NAME-3, ... of which that is so.

    Where nothing is recorded it is always the path itself.
    """
    if of(path) is None or not foreign(path):
        return path
    return next(each for number in count(2) if not foreign(each := path.with_stem(f"{path.stem}-{number}")))


def say_kept(path: Path, instead: Path) -> None:
    """Tells that something of the user's stays, and under which name ours is."""
    events.warn(f"{path} is not what was written here: it stays, and {instead.name} is written beside it")


def sha256(data: bytes) -> str:
    """The hash of what is about to be written."""
    return hashlib.sha256(data).hexdigest()
