"""Callbacks of a run: progress bar, log, trackers, checkpoints, signals."""

import json
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import torch

from customize import events
from customize.errors import Interrupted
from customize.storage import checkpoint, ownership
from customize.storage.atomic import write_bytes
from customize.storage.disk import room_for
from customize.storage.resources import optional_file
from customize.storage.run_log import read_log
from customize.training.loop import Callback, State, StepMetrics


class Progress(Callback):
    """Reports each step as an event, with the time left.

    callbacks: all of the run, which tell how long they will take themselves.
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
    """One line of JSON per step in log.jsonl, and one for each draw that was left out.

    A resumed run goes on after the step that it resumes from.
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
        entry |= {"gradient_norm": None, "skipped": True} if metrics.skipped else {}
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


class Trackers(Callback):
    """TensorBoard, Weights & Biases: whatever Accelerate was told to report to."""

    def after_step(self, state: State, metrics: StepMetrics) -> None:
        values = {"loss": metrics.loss, "learning_rate": metrics.learning_rate, "gradient_norm": metrics.gradient_norm}
        done = False
        with optional_file("trackers fail", Exception):
            state.accelerator.log(values, step=state.step)
            done = True
        if not done:
            state.accelerator.trackers = []

    def finish(self, state: State) -> None:
        for tracker in state.accelerator.trackers:
            with optional_file(f"{tracker.name} does not end well", Exception):
                tracker.finish()


class Checkpoints(Callback):
    """Saves the state every `every` steps, and when the run ends, for whatever reason, with its state sound.

    metadata: what the weights of a step say of themselves.
    """

    def __init__(self, folder: Path, every: int, keep: int | None, metadata: Callable[[int], dict[str, str]] = lambda step: {}):
        self.folder, self.every, self.keep, self.metadata = folder, every, keep, metadata
        self.saved, self.seconds = -1, 0.0

    def start(self, state: State) -> None:
        """Raises disk.WriteError when there is not even room for a checkpoint and a result of what learns."""
        self.saved = state.step
        if state.accelerator.is_main_process:
            room_for(self.folder, 2 * checkpoint.size(state.method.trainable_state_dict()))

    def after_step(self, state: State, metrics: StepMetrics) -> None:
        if state.step % self.every == 0:
            self.save(state)

    def draw_skipped(self, state: State, reason: str) -> None:
        self.save(state)

    def finish(self, state: State) -> None:
        if state.sound and state.step != self.saved:
            self.save(state)

    def save(self, state: State) -> None:
        """Writes a checkpoint, then removes old ones beyond the limit; the new one is safe before an old one goes."""
        begin = time.perf_counter()
        if state.accelerator.is_main_process:
            path = checkpoint.save(self.folder, state.checkpoint(), self.metadata(state.step))
            checkpoint.prune(self.folder, self.keep)
            events.emit(events.CheckpointSaved(state.step, path))
        self.saved, self.seconds = state.step, time.perf_counter() - begin

    def time_left(self, state: State) -> float:
        return self.seconds * times_left(state, self.every)


class EveryNSteps(Callback):
    """Calls `action(state)` every so many steps and after the last one; at the start too, if asked to."""

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
        """Calls the action, and notes what it takes."""
        begin, self.last = time.perf_counter(), state.step
        self.action(state)
        self.seconds = time.perf_counter() - begin

    def time_left(self, state: State) -> float:
        return self.seconds * times_left(state, self.steps)


def times_left(state: State, every: int) -> int:
    """How often something still happens that happens every so many steps and after the last one; what is due at this step
    is counted, since it comes after the bar."""
    first, last = state.step, state.max_train_steps
    return last // every - (first - 1) // every + (last % every > 0)


class Signals(Callback):
    """Ctrl-C, SIGTERM and SIGHUP: finish the step, stop, say how to go on. A second Ctrl-C stops at once."""

    NAMES = ("SIGINT", "SIGTERM", "SIGHUP")

    def __init__(self, how_to_go_on: str):
        self.how_to_go_on = how_to_go_on
        self.received: signal.Signals | None = None
        self.previous: dict[signal.Signals, object] = {}

    def start(self, state: State) -> None:
        if threading.current_thread() is not threading.main_thread():  # where no handler can be set
            return
        for name in self.NAMES:
            if number := getattr(signal, name, None):  # Windows has no SIGHUP
                self.previous[number] = signal.signal(number, self.receive)

    def receive(self, number: int, frame: object) -> None:
        if self.received is not None:
            os._exit(128 + number)
        self.received = signal.Signals(number)
        with suppress(OSError):  # whoever read the output may be gone, by the same Ctrl-C
            events.info(f"\n{self.received.name}: finishing this step, then saving; once more to stop at once")

    def after_step(self, state: State, metrics: StepMetrics) -> None:
        received = torch.tensor(self.received or 0, device=state.accelerator.device)
        number = int(state.accelerator.gather(received).max())  # all processes stop after the same step
        if number and state.step < state.max_train_steps:
            raise Interrupted(signal.Signals(number), f"stopped after step {state.step}; to go on:\n    {self.how_to_go_on}")

    def finish(self, state: State) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


class Pace:
    """What a step takes, by the last hundred; the first one, in which much is set up, does not count."""

    def __init__(self) -> None:
        self.begun = False
        self.last: deque[float] = deque(maxlen=100)

    def step(self, seconds: float) -> None:
        """One more step took so long."""
        if self.begun:
            self.last.append(seconds)
        self.begun = True

    @property
    def seconds(self) -> float | None:
        """Seconds of a step; None before the second one."""
        return sum(self.last) / len(self.last) if self.last else None

    def left(self, steps: int, others: float = 0.0) -> float | None:
        """Seconds that so many more steps take. others: seconds of what is done between them."""
        return None if self.seconds is None else self.seconds * steps + others
