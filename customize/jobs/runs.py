"""The runs of a workspace, as a list for people: read from their folders, whoever started them. No torch, and nothing is written.

A few small files are read of each, so that hundreds are listed in well under a second.
"""

import os
import time
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from customize.jobs import progress
from customize.printable import printable
from customize.storage import lock, ownership, run_folder
from customize.storage.json_files import json_object, read_object
from customize.storage.untrusted_files import MIB, read_text, regular_file

State = Literal["running", "finished", "stopped", "failed", "died"]
PICTURES = (run_folder.BEFORE_AFTER, f"{run_folder.SAMPLES}/{run_folder.SHEET}")
TAIL = 4096
"""Bytes at the end of log.jsonl in which the last lines are looked for."""


@dataclass(frozen=True)
class RunCard:
    """What a list says of a run. Texts are printable.

    state: "running" by its lock; "died": it was killed, or its machine was; step, total: 0 where unknown; verdict: the sentence
    of a finished run; message: what it says, or why it ended; picture: to show, if any; base, word: the base model and the words
    that trigger what was learned; updated: unix seconds; command: the one that trains it, such as "train_dreambooth".
    """

    folder: Path
    state: State
    step: int = 0
    total: int = 0
    phase: str = ""
    seconds_left: float | None = None
    loss: float | None = None
    verdict: str = ""
    message: str = ""
    picture: Path | None = None
    base: str = ""
    word: str = ""
    updated: float = 0.0
    device: str = ""
    command: str = "train_dreambooth"

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def is_resumable(self) -> bool:
        """Whether `--resume_from_checkpoint latest` goes on with it."""
        return self.state in ("stopped", "failed", "died")

    @property
    def age(self) -> float:
        """Seconds since it last said something."""
        return max(time.time() - self.updated, 0.0)


def find(workspace: Path, name: str | None) -> RunCard | None:
    """The run of a name in a workspace; None for anything that is none."""
    if not name or Path(name).name != name or name.startswith("."):
        return None
    return card_of(workspace / "runs" / name)


def listed(workspace: Path) -> list[RunCard]:
    """The runs in the folder `runs` of a workspace, the newest first."""
    found = []
    with suppress(OSError):
        with os.scandir(workspace / "runs") as entries:
            found = [card for each in entries if each.is_dir() and (card := card_of(Path(each.path)))]
    return sorted(found, key=lambda card: card.updated, reverse=True)


def card_of(folder: Path) -> RunCard | None:
    """The card of a run; None if the folder has none."""
    config = folder / run_folder.CONFIG
    if not os.path.isfile(config):  # Path.is_file fails for a name that is too long
        return None
    said = progress.read(folder) or {}
    known, result = facts(folder)
    state = state_of(folder, said, bool(result))
    changed = 0.0
    with suppress(OSError):
        changed = max(path.stat().st_mtime for path in (config, folder / run_folder.LOG) if path.exists())
    message, is_done = text(said.get("message")), state == "finished"
    return RunCard(
        folder, state, whole(said.get("step")) or whole(result.get("steps")), whole(said.get("total")), text(said.get("phase")),
        number(said.get("seconds_left")), number(said.get("loss")), (message or logged_verdict(folder)) if is_done else "",
        "" if is_done else message, next((folder / each for each in PICTURES if (folder / each).is_file()), None),
        text(known.get("pretrained_model_name_or_path")), word_of(result, known), number(said.get("updated")) or changed,
        text(said.get("device")), command_of(known),
    )  # fmt: skip


def delete(folder: Path) -> list[str]:
    """Removes a run: every file that it recorded, one by one. Returns the names of the files that stay, because the run did not
    write them, or they were changed since. Raises InputError while the run goes on."""
    with lock.hold(folder):
        run_folder.clear(folder)
        stays = [path for path in sorted(folder.rglob("*")) if not path.is_dir() or path.is_symlink()]
        stays = [path for path in stays if path.name not in (lock.NAME, ownership.NAME)]
        if not stays:
            (folder / ownership.NAME).unlink(missing_ok=True)
    if not stays:
        (folder / lock.NAME).unlink(missing_ok=True)
        for path in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
            path.rmdir()
        folder.rmdir()
    return [path.relative_to(folder).as_posix() for path in stays]


def state_of(folder: Path, said: Mapping[str, Any], has_result: bool) -> State:
    """The state: a run that says it goes on does so only while it holds its lock."""
    state = said.get("state")
    if state in ("finished", "stopped", "failed"):
        return state
    if lock.holder(folder) is not None:
        return "running"
    return "died" if said or not has_result else "finished"


def facts(folder: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The settings of a run, and what the metadata of its result say; empty without one."""
    with suppress(OSError, ValueError):
        result = read_object(folder / run_folder.METADATA)
        if isinstance(settings := result.get("settings"), dict):
            return settings, result
    with suppress(OSError, ValueError, RecursionError):
        document = tomllib.loads(read_text(folder / run_folder.CONFIG, MIB))
        return {name: value for table in document.values() if isinstance(table, dict) for name, value in table.items()}, {}
    return {}, {}


def word_of(result: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """The words that trigger what was learned."""
    words = result.get("trigger_words") or settings.get("instance_prompt") or settings.get("placeholder_token") or ""
    return text(", ".join(map(str, words)) if isinstance(words, list) else words)


def command_of(settings: Mapping[str, Any]) -> str:
    """The command that trains with these settings."""
    if "instance_prompt" in settings:
        return "train_dreambooth"
    return "train_textual_inversion" if "placeholder_token" in settings else "train_digits"


def logged_verdict(folder: Path) -> str:
    """The verdict in the last lines of log.jsonl, of a run that has no progress.json."""
    for entry in reversed(last_lines(folder)):
        if isinstance(found := entry.get("verdict"), str):
            return text(found)
    return ""


def last_lines(folder: Path, most: int = TAIL) -> list[dict[str, Any]]:
    """The last lines of log.jsonl, as far as they can be read."""
    found = []
    with suppress(OSError), regular_file(folder / run_folder.LOG) as file:
        file.seek(max(os.fstat(file.fileno()).st_size - most, 0))
        for line in file.read(most).split(b"\n"):
            with suppress(ValueError):
                found.append(json_object(line.decode()))
    return found


def curves(folder: Path, most: int = 8 * MIB) -> dict[str, list[tuple[int, float]]]:
    """The curves of a run by name, as points of step and loss: "training", smoothed as in the terminal, and for each set of fixed
    draws its mean over the noise bands, relative to the base model, whose own is 1 ("fixed draws, held out", ...)."""
    found: dict[str, list[tuple[int, float]]] = {"training": []}
    smoothed = None
    for entry in last_lines(folder, most):
        step, loss, probe = entry.get("step"), number(entry.get("loss")), entry.get("probe")
        if not isinstance(step, int):
            continue
        if loss is not None:
            smoothed = loss if smoothed is None else 0.95 * smoothed + 0.05 * loss
            found["training"].append((step, smoothed))
        for name, bands in (probe if isinstance(probe, dict) else {}).items():
            numbers = [each for each in bands if number(each) is not None] if isinstance(bands, list) else []
            if numbers:
                line = found.setdefault(f"fixed draws, {text(name)}", [(0, 1.0)])
                line.append((step, sum(numbers) / len(numbers)))
    return found


def text(value: Any) -> str:
    """A value of a file as a printable text."""
    return printable(value, 300) if isinstance(value, str | int | float) else ""


def whole(value: Any) -> int:
    """A value of a file as a count."""
    return value if type(value) is int and value >= 0 else 0


def number(value: Any) -> float | None:
    """A value of a file as a number."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300 else None
