"""A job as a folder: `config.toml`, `job.json`, what it printed in `output.txt`, and for a generation `progress.json`.

Whatever happens to worker, server and browser, the folder says what is to be done and what came of it. A workspace may come from
somebody else: `job.json` is signed with the user's key, and only what this user's program wrote is ever started or stopped.
"""

import hashlib
import json
import os
import signal
import stat
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from customize.errors import InputError
from customize.jobs import user_key
from customize.storage import numbered_folders
from customize.storage.atomic import write_text
from customize.storage.json_files import read_object
from customize.storage.untrusted_files import MIB, read_bytes

VERSION = 1
NAME, CONFIG, OUTPUT, TAKEN, SIGNATURE = "job.json", "config.toml", "output.txt", ".taken", "signature"
State = Literal["waiting", "running", "finished", "failed", "stopped", "cancelled"]
KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("command", "state", "name", "since", "message", "config"), (str,)),
    **dict.fromkeys(("pid", "exit_status"), (int,)),
    **dict.fromkeys(("created", "started", "ended"), (int, float)),
}
"""The values of job.json by name, and what each may be; others are left out."""
ENDED = ("finished", "failed", "stopped", "cancelled")
STOPPED = {128 + number for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))}
"""Exit statuses of a command that was asked to stop."""


@dataclass(frozen=True)
class Job:
    """One job. path: its folder; command: of `customize`; arguments: its words, relative to the workspace.

    folder: of the run or of the images, which a generation knows once it has begun; pid, since: the process, and when the system
    started it, so that no other process of that number is taken for it; exit_status: None while it is unknown; message: why it
    failed. created, started, ended: unix seconds, 0 before. config: the SHA-256 of the settings that it was written for.
    is_ours: whether this user's program wrote it as it is, and its settings.
    """

    path: Path
    command: str
    arguments: tuple[str, ...] = ()
    state: State = "waiting"
    name: str = ""
    folder: Path | None = None
    pid: int | None = None
    since: str = ""
    exit_status: int | None = None
    message: str = ""
    created: float = 0.0
    started: float = 0.0
    ended: float = 0.0
    config: str = ""
    is_ours: bool = True

    @property
    def waits(self) -> bool:
        """Whether it starts by itself."""
        return self.state == "waiting" and self.is_ours

    @property
    def is_from_elsewhere(self) -> bool:
        """Whether it starts once the user has looked at it: somebody else or an earlier version wrote it, or its settings were
        changed."""
        return self.state == "waiting" and not self.is_ours

    @property
    def settings(self) -> bytes:
        """Its TOML file; empty if it cannot be read."""
        with suppress(OSError):
            return read_bytes(self.path.parents[1] / (self.arguments or ("",))[0], MIB)
        return b""

    @property
    def output(self) -> Path:
        """What it printed."""
        return self.path / OUTPUT

    @property
    def line(self) -> str:
        """The command, as one would type it in the workspace."""
        from customize.next_command import options

        return f"customize {self.command} {options(*self.arguments)}"

    def changed(self, **changes: Any) -> "Job":
        """Writes the job with these changes, signed, and returns it."""
        job = replace(self, is_ours=True, **changes)
        values = asdict(job) | {"version": VERSION, "folder": None if job.folder is None else str(job.folder)}
        del values["path"], values["is_ours"]
        values[SIGNATURE] = signature(self.path, values)
        write_text(self.path / NAME, json.dumps(values, indent=1, ensure_ascii=False) + "\n")
        return job

    def take(self) -> bool:
        """Whether this process is the first to run or to cancel it."""
        try:
            os.close(os.open(self.path / TAKEN, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            return False
        return True

    def lives(self) -> bool:
        """Whether its process runs."""
        return self.pid is not None and identity(self.pid) == (self.since or None)


def read(path: Path) -> Job | None:
    """The job in a folder; None if there is none, or none that can be read."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        found = read_object(path / NAME)
        folder = Path(found["folder"]) if isinstance(found.get("folder"), str) else None
        if not (isinstance(found["command"], str) and found.get("state") in get_args(State)):
            return None
        known = {name: found[name] for name, kinds in KINDS.items() if type(found.get(name)) in kinds}
        job = Job(**known | {"path": path, "folder": folder, "arguments": tuple(map(str, found.get("arguments", ())))})
        if not is_signed(path, found):
            inside = folder and Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(path.parents[1]))
            state = "stopped" if job.state == "running" else job.state
            return replace(job, is_ours=False, pid=None, state=state, folder=folder if inside else None)
        return replace(job, is_ours=job.state != "waiting" or job.config == digest(job.settings))
    return None


def is_signed(path: Path, values: dict[str, Any]) -> bool:
    """Whether this user's program wrote these values for this folder."""
    with suppress(InputError):
        return isinstance(given := values.get(SIGNATURE), str) and user_key.equal(given, signature(path, values))
    return False


def signature(path: Path, values: dict[str, Any]) -> str:
    """The signature of a job's values, for its folder alone."""
    signed = {name: value for name, value in values.items() if name != SIGNATURE} | {"path": os.path.realpath(path)}
    return user_key.signature("job", json.dumps(signed, sort_keys=True))


def is_plain(path: Path) -> bool:
    """Whether something may be appended to a file of this name: it is no link or pipe to something else."""
    return not os.path.lexists(path) or stat.S_ISREG(os.lstat(path).st_mode)


def digest(settings: bytes) -> str:
    """The SHA-256 of a job's settings."""
    return hashlib.sha256(settings).hexdigest()


def every(workspace: Path) -> list[Job]:
    """The jobs of a workspace, the newest first."""
    found = sorted(numbered_folders.numbered(workspace / "jobs"), reverse=True)
    return [job for _, path in found if (job := read(path))]


def identity(pid: int) -> str | None:
    """What tells a process from a later one of the same number: when the system started it. None if no such process runs; "?"
    where the system does not say (only Linux does)."""
    if type(pid) is not int or not 0 < pid < 2**31:  # kill(-1) is about every process of the user
        return None
    try:
        os.kill(pid, 0)
    except PermissionError:
        pass
    except OSError:
        return None
    try:
        state, *others = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else others[18]
    except (OSError, IndexError, ValueError):
        return "?"


def state_of(exit_status: int) -> State:
    """The state of a job whose command ended with this status; negative for a signal."""
    if exit_status == 0:
        return "finished"
    return "stopped" if exit_status in STOPPED or 128 - exit_status in STOPPED else "failed"
