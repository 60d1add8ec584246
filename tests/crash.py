"""Interrupted writes: killed or refused at each system call, or replayed as a power cut leaves them.

`traced` runs an action in a forked child under strace. `Replay` reads the trace and builds the folders that a power cut at any
call may leave: data that was not flushed is present, missing or incomplete.
"""

import os
import random
import re
import select
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path

CHANGING = (
    "open openat creat write pwrite64 writev pwritev ftruncate truncate fallocate mkdir mkdirat rmdir unlink unlinkat "
    "rename renameat renameat2 link linkat symlink symlinkat chmod fchmod fchmodat fsync fdatasync sendfile copy_file_range"
).split()
"""System calls that can change the disk."""
UNSTEADY = ("brk", "mmap", "munmap", "mremap", "madvise", "futex", "getrandom")
"""System calls whose number varies between runs."""


@cache
def strace_works() -> bool:
    """Whether strace is installed and may trace a child process."""
    return sys.platform == "linux" and shutil.which("strace") is not None and traced(lambda: None)[0] == 0


def traced(action: Callable[[], None], *options: str) -> tuple[int, str]:
    """Runs `action` in a child under strace; returns (exit status, negative for a signal; the trace).

    The child ends with 0, or with 3 where the action raised disk.WriteError, or with 1.
    """
    from customize.storage.disk import WriteError

    log = os.memfd_create("strace")
    wait, go = os.pipe()
    if not (child := os.fork()):
        os.close(go)
        gate = select.poll()  # not a read, because `action` reads too
        gate.register(wait)
        gate.poll()
        try:
            action()
            status = 0
        except WriteError:
            status = 3
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
            status = 1
        os._exit(status)
    os.close(wait)
    command = ["strace", "-p", str(child), "-o", f"/proc/{os.getpid()}/fd/{log}", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as tracer:
        assert tracer.stderr
        output = tracer.stderr.readline()
        attached = b"attached" in output
        os.close(go)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.lseek(log, 0, os.SEEK_SET)
    with os.fdopen(log, "rb") as file:
        return (status if attached else -1000), file.read().decode("latin-1")


def calls(action: Callable[[], None], names: Sequence[str] = ()) -> list[tuple[str, int]]:
    """(name, running number of that name) of each system call that `action` makes; without names, of all calls."""
    status, log = traced(action, *(["-e", f"trace={','.join(names)}"] if names else []))
    assert status == 0, log
    counted: Counter[str] = Counter()
    found = []
    for line in log.splitlines():
        if match := re.match(r"(\w+)\(", line):
            counted[match[1]] += 1
            opened_to_read = match[1] == "openat" and "O_CREAT" not in line
            if not (names and opened_to_read):
                found.append((match[1], counted[match[1]]))
    return [call for call in found if call[0] not in ("exit_group", "restart_syscall", "poll")]


def kill_at(action: Callable[[], None], call: tuple[str, int]) -> int:
    """Runs `action` and kills it with SIGKILL instead of executing that call."""
    return traced(action, "-e", f"trace={call[0]}", "-e", f"inject={call[0]}:signal=KILL:when={call[1]}")[0]


def refuse_at(action: Callable[[], None], call: tuple[str, int], error: str) -> int:
    """Runs `action` and makes that call fail."""
    return traced(action, "-e", f"trace={call[0]}", "-e", f"inject={call[0]}:error={error}:when={call[1]}")[0]


@dataclass
class Node:
    """A file or folder on the disk. names: the entries of a folder; data: the content of a file."""

    names: "dict[str, Node] | None" = None
    data: bytes = b""


@dataclass
class Change:
    """One change by a call: entries of folders, or bytes of a file. `flushed`: the number of the call that flushed it."""

    at: int
    node: list[Node]
    apply: Callable[[str], None]
    flushed: int = sys.maxsize


@dataclass
class Replay:
    """All changes of a folder by an action."""

    root: Path
    action: Callable[[], None]
    changes: list[Change] = field(default_factory=list)
    number: int = 0

    def __post_init__(self):
        self.tree = self.snapshot(self.root)
        options = ["-xx", "-s", "1000000", "-e", f"trace={','.join([*CHANGING, 'close', 'dup', 'lseek'])}"]
        before = self.copy()
        status, log = traced(self.action, *options)
        assert status == 0, log
        self.opened: dict[int, tuple[Node, int]] = {}
        for line in log.splitlines():
            if (match := re.match(r"(\w+)\((.*)\)\s+= (-?\d+)", line)) and int(match[3]) >= 0:
                self.number += 1
                self.read(match[1], [self.plain(word) for word in split(match[2])], int(match[3]))
        self.start = before

    def snapshot(self, path: Path) -> Node:
        if path.is_dir():
            return Node({entry.name: self.snapshot(entry) for entry in path.iterdir()})
        return Node(data=path.read_bytes())

    def copy(self) -> Callable[[], None]:
        """A function that restores the current tree."""
        kept: list[tuple[Node, dict[str, Node] | None, bytes]] = []

        def walk(node: Node) -> None:
            kept.append((node, None if node.names is None else dict(node.names), node.data))
            for each in (node.names or {}).values():
                walk(each)

        walk(self.tree)

        def back() -> None:
            for node, names, data in kept:
                node.names, node.data = (None if names is None else dict(names)), data
            for node in self.made:
                node.names, node.data = (None if node.names is None else {}), b""

        self.made: list[Node] = []
        return back

    @staticmethod
    def plain(word: str) -> str:
        return re.sub(r"\\x([0-9a-f]{2})", lambda match: chr(int(match[1], 16)), word.strip('"')) if '"' in word else word

    def place(self, folder: str, path: str) -> tuple[Node, str] | None:
        """The parent folder of a path, and its name; None outside of the root."""
        node = self.tree
        if path.startswith("/") or folder == "AT_FDCWD":
            whole = Path(path) if path.startswith("/") else Path.cwd() / path
            if not whole.is_relative_to(self.root) or whole == self.root:
                return None
            parts = whole.relative_to(self.root).parts
        else:
            if int(folder) not in self.opened:
                return None
            node, parts = self.opened[int(folder)][0], Path(path).parts
        for part in parts[:-1]:
            assert node.names is not None
            node = node.names[part]
        return node, parts[-1]

    def change(self, nodes: list[Node], apply: Callable[[str], None]) -> None:
        apply("whole")
        self.changes.append(Change(self.number, nodes, apply))

    def name(self, *entries: tuple[Node, str, Node | None]) -> None:
        """Sets entries of folders, all of them or none."""

        def apply(how: str) -> None:
            for folder, key, node in entries:
                assert folder.names is not None
                folder.names.pop(key, None)
                if node is not None:
                    folder.names[key] = node

        self.change([folder for folder, _, _ in entries], apply)

    def write(self, node: Node, offset: int, data: bytes) -> None:
        """Sets bytes of a file: all, the first half, or zeros in their place."""

        def apply(how: str) -> None:
            put = {"whole": data, "cut": data[: len(data) // 2], "zeroed": bytes(len(data))}[how]
            node.data = node.data[:offset].ljust(offset, b"\0") + put + node.data[offset + len(put) :]

        self.change([node], apply)

    def truncate(self, node: Node, size: int) -> None:
        def apply(how: str) -> None:
            node.data = node.data[:size].ljust(size, b"\0")

        self.change([node], apply)

    def read(self, call: str, words: list[str], result: int) -> None:
        """Processes one line of the trace."""
        if call in ("open", "creat", "mkdir", "rmdir", "unlink", "chmod"):
            words = ["AT_FDCWD", *words]
        if call == "rename":
            words = ["AT_FDCWD", words[0], "AT_FDCWD", words[1]]
        if call in ("open", "openat"):
            self.open(words, result)
        elif call in ("mkdir", "mkdirat"):
            if found := self.place(*words[:2]):
                self.made.append(node := Node({}))
                self.name((*found, node))
        elif call in ("rmdir", "unlink", "unlinkat"):
            if found := self.place(*words[:2]):
                self.name((*found, None))
        elif call in ("rename", "renameat", "renameat2"):
            self.rename(words)
        elif call in ("fsync", "fdatasync"):
            if int(words[0]) in self.opened:
                self.flush(self.opened[int(words[0])][0])
        elif call in ("write", "pwrite64", "ftruncate"):
            self.fill(call, words, result)
        elif call == "close":
            self.opened.pop(int(words[0]), None)
        else:
            inside = call in ("chmod", "fchmodat", "fchmod", "lseek")
            assert inside or not any(str(self.root) in word for word in words), (call, words)
            assert not (call == "lseek" and int(words[0]) in self.opened and result), "not looked at"

    def open(self, words: list[str], descriptor: int) -> None:
        if words[1] == str(self.root) and words[0] == "AT_FDCWD":
            self.opened[descriptor] = self.tree, 0
        elif found := self.place(*words[:2]):
            folder, key = found
            assert folder.names is not None and "O_APPEND" not in words[2]
            if key not in folder.names:
                self.made.append(node := Node())
                self.name((folder, key, node))
            elif "O_TRUNC" in words[2]:
                self.truncate(folder.names[key], 0)
            self.opened[descriptor] = folder.names[key], 0

    def rename(self, words: list[str]) -> None:
        one, other = self.place(*words[:2]), self.place(*words[2:4])
        if one and other:
            assert one[0].names is not None and other[0].names is not None
            moved, there = one[0].names[one[1]], other[0].names.get(other[1])
            left = there if "EXCHANGE" in words[-1] else None
            self.name((*one, left), (*other, moved))

    def fill(self, call: str, words: list[str], result: int) -> None:
        if int(words[0]) in self.opened:
            node, offset = self.opened[int(words[0])]
            if call == "ftruncate":
                self.truncate(node, int(words[1]))
                return
            data = words[1].encode("latin-1")
            assert len(data) == result, "strace did not write it all down"
            self.write(node, int(words[3]) if call == "pwrite64" else offset, data)
            if call == "write":
                self.opened[int(words[0])] = node, offset + result

    def flush(self, node: Node) -> None:
        """Marks all earlier changes of a file or folder as flushed."""
        for change in self.changes:
            if any(each is node for each in change.node):
                change.flushed = min(change.flushed, self.number)

    def states(self, folder: Path, subsets: int, most: int, seed: int) -> Iterator[tuple[Path, bool]]:
        """Yields (folder as a power cut may leave it, whether the action had ended).

        At each call: every subset of the unflushed changes if there are at most `subsets`, else none and all of them; then
        `most` random subsets, with some changes truncated or zeroed.
        """
        moments = sorted({change.at for change in self.changes} | {self.number})
        dice = random.Random(seed)
        plans: list[tuple[int, tuple[str, ...]]] = []
        for moment in moments:
            pending = len(self.pending(moment))
            none_and_all = (("lost",) * pending, ("whole",) * pending)
            tried = product(("lost", "whole"), repeat=pending) if pending <= subsets else none_and_all
            plans += [(moment, fates) for fates in tried]
        for moment in (dice.choice(moments) for _ in range(most)):
            fates = dice.choices(("lost", "whole", "whole", "cut", "zeroed"), k=len(self.pending(moment)))
            plans.append((moment, tuple(fates)))
        for number, (moment, fates) in enumerate(plans):
            self.start()
            fate = dict(zip(map(id, self.pending(moment)), fates, strict=True))
            for change in self.changes:
                if change.at <= moment and (how := fate.get(id(change), "whole")) != "lost":
                    change.apply(how)
            yield self.build(folder / str(number)), moment == self.number
            shutil.rmtree(folder / str(number))

    def pending(self, moment: int) -> list[Change]:
        """The changes up to a call that were not flushed by then."""
        return [change for change in self.changes if change.at <= moment < change.flushed]

    def build(self, path: Path) -> Path:
        def walk(node: Node, place: Path) -> None:
            if node.names is None:
                place.write_bytes(node.data)
                return
            place.mkdir()
            for key, each in node.names.items():
                walk(each, place / key)

        walk(self.tree, path)
        return path


def split(words: str) -> list[str]:
    """The arguments of a call, whose strings contain no commas or quotes (-xx)."""
    return [word.strip() for word in words.split(",")]
