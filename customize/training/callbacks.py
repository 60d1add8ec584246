"""Callbacks of a run: progress bar, log, trackers, checkpoints, signals."""

import importlib.util
import json
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import torch

from customize import events
from customize.errors import Interrupted, NumericsError
from customize.optim.learning_rates import rate_of
from customize.storage import checkpoint, ownership
from customize.storage.atomic import write_bytes
from customize.storage.disk import room_for
from customize.storage.resources import optional_file
from customize.storage.run_log import numbers_of, read_log
from customize.training.distributed import sharding
from customize.training.loop import Callback, State, StepMetrics


class Progress(Callback):
    """Reports each step as an event, with the time left.

    callbacks: all callbacks of the run, asked for the time that they will take themselves.
    """

    def __init__(self, callbacks: Sequence[Callback] = ()):
        self.callbacks = callbacks

    def start(self, state: State) -> None:
        self.pace = Pace()
        self.loss: float | None = None
        events.emit(events.TrainingStarted(state.step, state.max_train_steps))

    def after_step(self, state: State, metrics: StepMetrics) -> None:
        self.loss = metrics.loss if self.loss is None else 0.95 * self.loss + 0.05 * metrics.loss
        self.pace.step(metrics.seconds)
        others = sum(callback.time_left(state) for callback in self.callbacks)
        left = self.pace.left(state.max_train_steps - state.step, others)
        events.emit(
            events.StepDone(
                state.step,
                state.max_train_steps,
                metrics.loss,
                self.loss,
                metrics.gradient_norm,
                metrics.learning_rate,
                self.pace.seconds,
                left,
            )  # fmt: skip
        )

    def finish(self, state: State) -> None:
        events.emit(events.TrainingEnded(state.step))


class JsonlLogger(Callback):
    """Writes one line of JSON per step to log.jsonl, and one for each skipped draw.

    A resumed run first removes the lines after the step it resumes from.
    """

    def __init__(self, path: Path):
        self.path = path

    def start(self, state: State) -> None:
        self.file: TextIO | None = None
        with optional_file(f"{self.path.name} cannot be read or written"):
            record = ownership.record_for(self.path)
            earlier = read_log(self.path) if record is None or record.has(self.path) else []
            kept = [line for step, line in earlier if step is not None and step <= state.step]
            self.path = write_bytes(self.path, b"".join(line + b"\n" for line in kept), grows=True)
            self.file = open(self.path, "a", encoding="utf-8", buffering=1)
            self.is_empty = not kept
        self.time = time.perf_counter()

    def after_step(self, state: State, metrics: StepMetrics) -> None:
        now = time.perf_counter()
        entry = {
            "step": state.step,
            "loss": metrics.loss,
            "gradient_norm": metrics.gradient_norm,
            "learning_rate": metrics.learning_rate,
            "seconds": round(now - self.time, 4),
        }
        entry |= other_rates(state) | ({"gradient_norm": None, "skipped": True} if metrics.skipped else {})
        self.write(entry)
        self.time = now

    def draw_skipped(self, state: State, reason: str) -> None:
        self.write({"step": state.step, "left_out": reason})

    def write(self, entry: dict[str, Any]) -> None:
        """Appends a line."""
        if self.file:
            line = json.dumps(entry) + "\n"
            if self.is_empty and (record := ownership.record_for(self.path)):
                record.add_growing(self.path, line.encode())
            self.is_empty = False
            self.file.write(line)

    def finish(self, state: State) -> None:
        if self.file:
            self.file.close()


def other_rates(state: State) -> dict[str, float]:
    """The learning rates of a step that differ from the first: `learning_rate_2` is that of the optimizer's second parameter
    group. Each network has one, in the order of `Family.trainable`, and new words after them; LoRA+ and Muon have more."""
    first, *others = map(rate_of, state.optimizer.param_groups)
    return {f"learning_rate_{place}": rate for place, rate in enumerate(others, 2) if rate != first}


class Trackers(Callback):
    """Logs to the trackers of Accelerate: TensorBoard, Weights & Biases."""

    def start(self, state: State) -> None:
        self.accelerator = state.accelerator

    def after_step(self, state: State, metrics: StepMetrics) -> None:
        values = {"loss": metrics.loss, "learning_rate": metrics.learning_rate, "gradient_norm": metrics.gradient_norm}
        self.write({"step": state.step, **values, **other_rates(state)})

    def write(self, entry: Mapping[str, Any]) -> None:
        """Logs the numbers of a line of log.jsonl at its step."""
        done = False
        with optional_file("the trackers failed", Exception):
            if values := numbers_of(entry):
                self.accelerator.log(values, step=entry.get("step"))
            done = True
        if not done:
            self.accelerator.trackers = []

    def finish(self, state: State) -> None:
        for tracker in state.accelerator.trackers:
            with optional_file(f"{tracker.name} failed to finish", Exception):
                tracker.finish()


def trackers(settings) -> list[str]:
    """The trackers to report to; "all" means all installed ones."""
    if "all" in settings.report_to:
        return [name for name in ("tensorboard", "wandb") if importlib.util.find_spec(name)]
    return [name for name in settings.report_to if name != "none"]


def tracker_options(resume: checkpoint.Checkpoint | None, run_identity: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Options with which trackers continue a resumed run: TensorBoard drops entries after the step it resumes from, Weights &
    Biases continues the run with the same id."""
    purge_step = resume.step + 1 if resume else 0
    return {"tensorboard": {"purge_step": purge_step}, "wandb": {"id": run_identity["run"], "resume": "allow"}}


class Checkpoints(Callback):
    """Saves the state every `every` steps, and at the end of the run, whatever ended it, if the state is consistent.

    keep: the number of checkpoints kept, None for all; metadata: of the weights of a step.
    """

    def __init__(self, folder: Path, every: int, keep: int | None, metadata: Callable[[int], dict[str, str]] = lambda step: {}):
        self.folder, self.every, self.keep, self.metadata = folder, every, keep, metadata
        self.saved, self.seconds = -1, 0.0

    def start(self, state: State) -> None:
        """Raises disk.WriteError when a checkpoint and a result of the trained weights would not even fit on the disk."""
        self.saved = state.step
        if state.accelerator.is_main_process:
            room_for(self.folder, 2 * checkpoint.size(state.method.trainable_state_dict()))

    def after_step(self, state: State, metrics: StepMetrics) -> None:
        if state.step % self.every == 0:
            self.save(state)

    def draw_skipped(self, state: State, reason: str) -> None:
        self.save(state)

    def finish(self, state: State) -> None:
        if state.sound and state.step != self.saved and sharding.can_gather(state.model):
            self.save(state)

    def save(self, state: State) -> None:
        """Writes a checkpoint, and only when it is safe, removes old ones beyond the limit."""
        events.emit(events.Phase("saving a checkpoint"))
        begin, whole = time.perf_counter(), state.checkpoint()
        if state.accelerator.is_main_process:
            try:
                path = checkpoint.save(self.folder, whole, self.metadata(state.step))
            except NumericsError:
                self.saved = state.step  # such a state is not tried again
                raise
            checkpoint.prune(self.folder, self.keep)
            events.emit(events.CheckpointSaved(state.step, path))
        self.saved, self.seconds = state.step, time.perf_counter() - begin

    def time_left(self, state: State) -> float:
        return self.seconds * times_left(state, self.every)


class EveryNSteps(Callback):
    """Calls `action(state)` every so many steps and after the last one. at_start: also before the first step."""

    def __init__(self, steps: int, action: Callable[[State], None], at_start: bool = False):
        self.steps, self.action, self.at_start = steps, action, at_start
        self.seconds, self.last = 0.0, -1

    def start(self, state: State) -> None:
        if self.at_start and state.step == 0:
            self.act(state)

    def after_step(self, state: State, metrics: StepMetrics) -> None:
        if state.step % self.steps == 0 or state.step == state.max_train_steps:
            self.act(state)

    def finish(self, state: State) -> None:
        if state.stop and self.last != state.step:
            self.act(state)

    def act(self, state: State) -> None:
        """Calls the action and measures its time."""
        begin, self.last = time.perf_counter(), state.step
        self.action(state)
        self.seconds = time.perf_counter() - begin

    def time_left(self, state: State) -> float:
        return self.seconds * times_left(state, self.steps)


def times_left(state: State, every: int) -> int:
    """How often something is still due that is due every so many steps and after the last one; the present step is counted,
    because the progress bar comes first."""
    first, last = state.step, state.max_train_steps
    return last // every - (first - 1) // every + (last % every > 0)


class Signals(Callback):
    """On Ctrl-C, SIGTERM or SIGHUP: finishes the step, stops, and reports how to resume. A second signal stops at once."""

    NAMES = ("SIGINT", "SIGTERM", "SIGHUP")

    def __init__(self, resume_command: str):
        self.resume_command = resume_command
        self.received: signal.Signals | None = None
        self.previous: dict[signal.Signals, object] = {}

    def start(self, state: State) -> None:
        if threading.current_thread() is not threading.main_thread():  # no handler can be set elsewhere
            return
        for name in self.NAMES:
            if number := getattr(signal, name, None):  # Windows has no SIGHUP
                self.previous[number] = signal.signal(number, self.receive)

    def receive(self, number: int, frame: object) -> None:
        if self.received is not None:
            os._exit(128 + number)
        self.received = signal.Signals(number)
        with suppress(OSError):  # the reader of the output may have been stopped by the same Ctrl-C
            events.info(f"\n{self.received.name}: finishing this step, then saving; repeat to stop at once")

    def after_step(self, state: State, metrics: StepMetrics) -> None:
        received = torch.tensor(self.received or 0, device=state.accelerator.device)
        number = int(state.accelerator.gather(received).max())  # all processes stop after the same step
        if number and state.step < state.max_train_steps:
            raise Interrupted(signal.Signals(number), f"stopped after step {state.step}; to resume:\n    {self.resume_command}")

    def finish(self, state: State) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


class Pace:
    """The seconds per step, averaged over the last hundred; the first step, which includes setup, is not counted."""

    def __init__(self) -> None:
        self.begun = False
        self.last: deque[float] = deque(maxlen=100)

    def step(self, seconds: float) -> None:
        """Adds the time of one more step."""
        if self.begun:
            self.last.append(seconds)
        self.begun = True

    @property
    def seconds(self) -> float | None:
        """Seconds per step; None before the second step."""
        return sum(self.last) / len(self.last) if self.last else None

    def left(self, steps: int, others: float = 0.0) -> float | None:
        """Estimated seconds of so many more steps. others: seconds of other work between them."""
        return None if self.seconds is None else self.seconds * steps + others
