"""`progress.json` of a run folder: what a run does at the moment, for whoever looks, such as the page.

The run writes it itself, by whatever command it was started, from the same events that the terminal prints. It says how far the
run came, never whether it lives: that is told by the folder's lock, because a killed run says nothing more.
"""

import json
import math
import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from customize.errors import InputError, Interrupted, NumericsError, ResourceError
from customize.events import (
    CheckpointSaved,
    DenoisingStep,
    Event,
    Message,
    Phase,
    RunBegun,
    RunEnded,
    StepDone,
    Summary,
    TrainingStarted,
)
from customize.printable import printable
from customize.storage import out_of_memory, ownership, run_folder
from customize.storage.atomic import UNFINISHED
from customize.storage.json_files import read_object

VERSION = 1
EVERY = 1.0
"""Seconds from one write to the next step that is written. A new phase, which may last for minutes, is written at once."""
KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("state", "phase", "device", "message"), (str,)),
    **dict.fromkeys(("version", "step", "total", "pid"), (int,)),
    **dict.fromkeys(("seconds_per_step", "seconds_left", "loss", "started", "updated"), (int, float)),
}
"""The values by name, and what each may be: the file may come from elsewhere."""
PATH = re.compile(r"(?<![\w./\\])(?:~|[A-Za-z]:)?(?:[/\\][^\s/\\:'\"]+)+[/\\]([^\s/\\:'\"]+)")


class ProgressFile:
    """A consumer of events that keeps `progress.json` of each run that begins. A failure to write it never stops the run."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self.facts: dict[str, Any] = {}
        self.written = 0.0

    def __call__(self, event: Event) -> None:
        match event:
            case RunBegun():
                self.begin(event)
            case _ if self.path is None:
                pass
            case Summary("finished", rows):
                self.verdict = dict(rows).get("verdict", "")
            case RunEnded(error):
                state, message = ("finished", self.verdict) if error is None else ending(error)
                self.write(0, state=state, phase=state, seconds_left=None, message=without_paths(message, self.folder))
                self.path = None
            case Phase(text):
                self.write(0, phase=text)
            case TrainingStarted(step, total):
                self.write(0, phase="training", step=step, total=total)
            case StepDone():
                self.write(
                    EVERY, phase="training", step=event.step, total=event.max_train_steps, loss=rounded(event.smoothed_loss),
                    seconds_per_step=rounded(event.seconds_per_step), seconds_left=rounded(event.seconds_left),
                )  # fmt: skip
            case DenoisingStep(done, total):
                self.draw(done, total)
            case CheckpointSaved(step):
                self.write(EVERY, message=f"the checkpoint of step {step:,} is saved")
            case Message(text):
                self.write(0, message=without_paths(text, self.folder))

    def begin(self, event: RunBegun) -> None:
        """Claims the name in the folder of a run; a file of the user keeps it, and ours gets another."""
        self.facts = {
            "version": VERSION, "state": "running", "phase": "preparing", "step": 0, "total": 0, "seconds_per_step": None,
            "seconds_left": None, "loss": None, "device": event.device, "message": "", "pid": os.getpid(),
            "started": time.time(), "updated": 0.0,
        }  # fmt: skip
        self.folder, self.verdict = event.folder, ""
        requested = event.folder.absolute() / run_folder.PROGRESS
        with suppress(OSError):
            self.path = ownership.free_name(requested)
            self.temporary = self.path.with_name(UNFINISHED.format(name=self.path.name, pid=os.getpid()))
            if record := ownership.record_for(self.path):
                record.add_temporary(self.temporary)
                record.add_changing(self.path, self.facts["started"])
            if self.path != requested:
                ownership.warn_kept(requested, self.path)
            self.write(0)

    def draw(self, done: int, total: int) -> None:
        """Progress of a generation, with the time that the steps after the first took."""
        if done == 1:
            self.first = time.monotonic()
        each = (time.monotonic() - self.first) / (done - 1) if done > 1 else None
        left = None if each is None else each * (total - done)
        self.write(
            EVERY, phase="drawing", step=done, total=total, seconds_per_step=rounded(each), seconds_left=rounded(left)
        )  # fmt: skip

    def write(self, after: float, **changes: Any) -> None:
        """Replaces the file, if the last time was at least `after` seconds ago.

        It is not flushed to the disk: after a power cut it may be empty."""
        self.facts |= changes
        now = time.monotonic()
        if self.path is None or now - self.written < after:
            return
        self.written, self.facts["updated"] = now, time.time()
        try:
            self.temporary.write_text(json.dumps(self.facts), encoding="utf-8")
            os.replace(self.temporary, self.path)
        except OSError:
            with suppress(OSError):
                self.temporary.unlink()


def ending(error: BaseException) -> tuple[str, str]:
    """The state and the message of a run that this exception ended."""
    if isinstance(error, Interrupted | KeyboardInterrupt):
        return "stopped", str(error).partition(";")[0] or "stopped"
    if out_of_memory.caused(error):
        return "failed", "out of memory"
    if isinstance(error, InputError):
        return "failed", str(error.problems[0])
    if isinstance(error, NumericsError | ResourceError):
        return "failed", str(error)
    if isinstance(error, OSError):
        return "failed", error.strerror or type(error).__name__
    return "failed", f"a fault of the program ({type(error).__name__}): its output has the details"


def without_paths(text: str, folder: Path) -> str:
    """The first line of a text, without the path of `folder` and with other absolute paths shortened to their last part: the file
    says nothing of the machine."""
    line = text.strip().partition("\n")[0]
    for place in (folder.absolute(), folder, Path.cwd(), Path(os.path.expanduser("~"))):
        line = line.replace(f"{place}{os.sep}", "").replace(str(place), place.name) if place.name else line
    return printable(PATH.sub(r"\1", line), 300)


def rounded(value: float | None) -> float | None:
    """A number with six digits after the point; None for NaN and infinity, which JSON has not."""
    return None if value is None or not math.isfinite(value) else round(value, 6)


def read(folder: Path) -> dict[str, Any] | None:
    """The progress of a run, or of a job, without values of another type; None if it says nothing that can be read."""
    path = folder / run_folder.PROGRESS
    for each in (path, path.with_stem(f"{path.stem}-2")):
        with suppress(OSError, ValueError):
            found = read_object(each)
            if found.get("version") == VERSION and isinstance(found.get("state"), str):
                return {name: found[name] for name, kinds in KINDS.items() if type(found.get(name)) in kinds}
    return None
