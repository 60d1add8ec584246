"""Records which files of a folder this program wrote: only these are ever replaced or removed, one by one.

A folder of results has a record with one line of JSON per written file, appended before the file is moved into place: its
name, size and SHA-256. A file that was edited or replaced does not match and belongs to the user. The files listed in a
recorded manifest count as recorded. Growing files (log.jsonl) are identified by their name and their lines, one that is
replaced all the time (progress.json) by its name and the moment at which its run started.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count, takewhile
from pathlib import Path
from typing import Any

from customize import events
from customize.errors import InputError, Problem
from customize.storage import manifest
from customize.storage.run_log import read_log
from customize.storage.untrusted_files import MIB, read_bytes

NAME = ".customize-files.jsonl"
HEADER = {"customize": "the files that were written here"}
PROTECTED: set[str] = set()
"""Files that the user gave on the command line: never replaced or removed, whoever wrote them."""
_active: "list[Record]" = []


class Record:
    """The files written into and below a folder. Raises InputError if another file has the record's name."""

    def __init__(self, folder: Path):
        self.folder, self.path = Path(os.path.abspath(folder)), folder / NAME
        self.read()

    def read(self) -> None:
        """Read the lines; incomplete and unknown ones are ignored."""
        self.hashes: dict[str, set[tuple[int, str]]] = {}
        self.growing: dict[str, set[str]] = {}
        self.changing: dict[str, set[float]] = {}
        self.temporaries: set[str] = set()
        self.jobs: list[dict[str, Any]] = []
        self.exists, self.torn = False, False
        if not os.path.lexists(self.path):
            return
        fault = InputError(
            Problem(str(self.path), "is not a record of written files", "move it elsewhere, or give another folder")
        )
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
            elif entry.get("changes"):
                self.changing.setdefault(name, set()).add(entry.get("started", 0))
            else:
                self.hashes.setdefault(name, set()).add((entry.get("size", -1), entry.get("sha256", "")))

    def append(self, entry: dict[str, Any], flush: bool = True) -> None:
        """Append a line. flush: to the disk, before the file that it describes."""
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
        """Lock the record, if the file system supports locks, so that no other process takes numbers; reads it again first."""
        with open(self.path, "rb") as file:
            with suppress(ImportError, OSError):
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX)
            self.read()
            yield

    def name(self, path: Path) -> str | None:
        """A file's name in the record; None if it is outside the folder."""
        path = Path(os.path.abspath(path))
        return path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else None

    def add(self, path: Path, size: int, sha256: str) -> None:
        """Record a file that is about to be moved into place."""
        if name := self.name(path):
            self.append({"name": name, "size": size, "sha256": sha256})
            self.hashes.setdefault(name, set()).add((size, sha256))

    def add_growing(self, path: Path, lines: bytes) -> None:
        """Record a file that lines are appended to, with its first line, which identifies it."""
        start = sha256(lines.partition(b"\n")[0]) if lines else ""
        if (name := self.name(path)) and start not in self.growing.get(name, ()):
            self.append({"name": name, "grows": True, "start": start})
            self.growing.setdefault(name, set()).add(start)

    def add_changing(self, path: Path, started: float) -> None:
        """Record a file of JSON that is replaced all the time; `started`, a value in it, identifies it."""
        if name := self.name(path):
            self.append({"name": name, "changes": True, "started": started})
            self.changing.setdefault(name, set()).add(started)

    def add_temporary(self, path: Path) -> None:
        """Record the name of a temporary file or folder."""
        if name := self.name(path):
            self.append({"name": name, "temporary": True}, flush=False)
            self.temporaries.add(name)

    def add_tree(self, built: Path, path: Path) -> None:
        """Record a folder that is about to be renamed to `path`: its manifest, or else each of its files."""
        files = [built / manifest.NAME] if (built / manifest.NAME).is_file() else [f for f in built.rglob("*") if f.is_file()]
        for file in files:
            self.add(path / file.relative_to(built), file.stat().st_size, manifest.sha256(file))

    def has(self, path: Path) -> bool:
        """Whether a file is recorded and unchanged since it was written."""
        name = self.name(path)
        if name is None or os.path.realpath(path) in PROTECTED or not is_regular(path) or not lies_in(path, self.folder):
            return False
        with suppress(OSError):
            if name in self.growing:
                *whole, last = [line for _, line in read_log(path)] or [b"{"]
                whole, torn = (whole, last) if not line_of(last) else ([*whole, last], b"{")
                known = not whole or sha256(whole[0]) in self.growing[name]
                return known and all(map(is_line_of_ours, whole)) and is_begun(torn)
            if name in self.changing:
                data = read_bytes(path, MIB)
                return not data.strip(b"\0") or line_of(data).get("started") in self.changing[name]  # empty: after a power cut
            found = self.hashes.get(name, set())
            return path.stat().st_size in {size for size, _ in found} and manifest.sha256(path) in {known for _, known in found}
        return False

    def files(self) -> list[Path]:
        """All files in the folder that are ours."""
        names = self.hashes.keys() | self.growing.keys() | self.changing.keys()
        vouching = [name for name in names if Path(name).name == manifest.NAME]
        names = names | {
            (Path(name).parent / entry).as_posix() for name in vouching for entry in entries_of(self.folder / name, self)
        }
        return [self.folder / name for name in sorted(names) if is_ours(self.folder / name, self)]


def is_line_of_ours(line: bytes) -> bool:
    """Whether a line belongs to log.jsonl or trace.jsonl."""
    entry = line_of(line)
    return "step" in entry and bool(entry.keys() & {"loss", "left_out", "probe", "evaluation", "verdict", "timestep"})


def is_begun(line: bytes) -> bool:
    """Whether it can be the start of such a line, cut off by a kill."""
    return any(line.startswith(start) or start.startswith(line) for start in (b'{"step": ', b'{"image": '))


def line_of(line: bytes) -> dict[str, Any]:
    """The JSON object in a line; empty if the line is incomplete or something else."""
    with suppress(ValueError, RecursionError):
        entry = json.loads(line)
        return entry if isinstance(entry, dict) else {}
    return {}


@contextmanager
def recording(folder: Path) -> Iterator[Record]:
    """Within this context, files written in and below the folder are recorded, and files that are not ours are not replaced."""
    record = Record(folder)
    if not record.exists:
        record.append(HEADER)
    _active.append(record)
    try:
        yield record
    finally:
        _active.remove(record)


def record_for(path: Path) -> Record | None:
    """The active record for a path, if any."""
    return next((record for record in reversed(_active) if record.name(path) is not None), None)


def is_regular(path: Path) -> bool:
    """Whether it is a regular file, not a link to one."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def lies_in(path: Path, folder: Path) -> bool:
    """Whether a file lies in or below a folder, without a link between them that leads elsewhere."""
    return Path(os.path.realpath(path.parent)).is_relative_to(os.path.realpath(folder))


def entries_of(path: Path, record: Record | None) -> dict[str, dict[str, Any]]:
    """The entries of a manifest that is recorded or, without a record, has exactly the format that we write; otherwise {}."""
    if not (record.has(path) if record else is_regular(path)):
        return {}
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return manifest.read(path.parent)
    return {}


def is_ours(path: Path, record: Record | None, top: Path | None = None) -> bool:
    """Whether a file was written by this program and is unchanged. top: the highest folder to look for manifests in."""
    if record and record.has(path):
        return True
    if not is_regular(path) or os.path.realpath(path) in PROTECTED:
        return False
    top = record.folder if record else top or path.parent
    if not lies_in(path, top):
        return False
    for parent in (each for each in path.parents if each.is_relative_to(top)):
        entries = entries_of(parent / manifest.NAME, record)
        expected = entries.get(path.relative_to(parent).as_posix())
        if expected is not None or (entries and path == parent / manifest.NAME):
            return expected is None or is_as_listed(path, expected, parent / manifest.NAME)
    return False


def is_as_listed(path: Path, expected: dict[str, Any], listing: Path) -> bool:
    """Whether a file matches its manifest. A file of the right size that did not change since the manifest is not hashed
    again: editing or replacing a file, even by an older one, updates the time of its last change (st_ctime)."""
    with suppress(OSError):
        about = path.stat()
        if os.name != "nt" and about.st_size == expected["size"] and about.st_ctime_ns <= listing.stat().st_ctime_ns:
            return True
    return not manifest.fault(path, expected)


def foreign(path: Path, record: Record | None = None) -> list[Path]:
    """The files at and below a path that are not ours. Links are never ours; empty folders are ignored."""
    record = record or record_for(path)
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
    """Write the record of a new folder, with every file in it."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    with recording(folder) as record:
        for file in files:
            record.add(file, file.stat().st_size, manifest.sha256(file))


def free_name(path: Path) -> Path:
    """The path if it is free or ours; otherwise the first of NAME-2, NAME-3, ... that is.

    Without a record it is always the path itself.
    """
    if record_for(path) is None or not foreign(path):
        return path
    return next(each for number in count(2) if not foreign(each := path.with_stem(f"{path.stem}-{number}")))


def latest(path: Path, folder: Path) -> Path:
    """The file that was written under this name, as `free_name` chose it: the first of PATH, NAME-2, NAME-3, ... that is ours by
    the record of `folder`; the path itself if none is."""
    with suppress(InputError, OSError):
        record = Record(folder)
        further = (path.with_stem(f"{path.stem}-{number}") for number in count(2))
        return next((each for each in (path, *takewhile(os.path.lexists, further)) if is_ours(each, record)), path)
    return path


def warn_kept(path: Path, instead: Path) -> None:
    """Warn that a file of the user is kept, and that ours gets another name."""
    events.warn(f"{path} was changed or not written by this program: it is kept, and {instead.name} is written instead")


def sha256(data: bytes) -> str:
    """The SHA-256 hash of bytes to be written."""
    return hashlib.sha256(data).hexdigest()
