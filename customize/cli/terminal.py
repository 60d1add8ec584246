"""The terminal as a consumer of events: lines on standard output, warnings and progress on standard error."""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from customize.events import (
    DenoisingStep,
    Event,
    Message,
    Progress,
    StepDone,
    Summary,
    TimeEstimate,
    TrainingEnded,
    TrainingStarted,
)
from customize.printable import printable
from customize.units import about, duration, each

if TYPE_CHECKING:
    from tqdm import tqdm

    from customize.cli.progress_bar import Bar

WIDTH = 10


class Terminal:
    """Prints events. As a context manager, it closes its bars at the end."""

    def __init__(self) -> None:
        self.bar: Bar | None = None
        self.knows_time = False
        self.denoising: tqdm | None = None

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def close(self) -> None:
        """Close the bars that are shown."""
        for bar in filter(None, (self.bar, self.denoising)):
            bar.close()
        self.bar = self.denoising = None

    def __call__(self, event: Event) -> None:
        match event:
            case Message(text, level):
                prefix = "" if level == "info" else "note: "
                file = sys.stderr if level == "warning" else sys.stdout
                print("\n".join(map(printable, f"{prefix}{text}".split("\n"))), file=file, flush=True)
            case Summary(stage):
                if stage == "finished":
                    self.close()
                print(table(event.rows), flush=True)
            case Progress():
                self.progress(event)
            case TrainingStarted() | StepDone() | TrainingEnded():
                self.train(event)
            case TimeEstimate(number, measured, seconds):
                print(f"{number:,} images, {about(seconds)} (measured on the first {measured})", file=sys.stderr)
            case DenoisingStep():
                self.denoise(event)

    def progress(self, event: Progress) -> None:
        """A bar; in a log, an occasional line."""
        from customize.cli.progress_bar import Bar  # tqdm is slow to import

        if self.bar is None:
            self.bar = Bar(event.total, event.unit, event.description, initial=event.done)
        if event.done > self.bar.done:
            self.bar.update(event.done - self.bar.done)
        if event.done == event.total:
            self.bar.close()
            self.bar = None

    def train(self, event: TrainingStarted | StepDone | TrainingEnded) -> None:
        """A bar with loss, learning rate, seconds per step and the time left; in a log, an occasional line."""
        from customize.cli.progress_bar import Bar

        match event:
            case TrainingStarted(step, max_train_steps):
                self.bar, self.knows_time = Bar(max_train_steps, "step", initial=step), False
            case StepDone() if self.bar:
                text = f"loss {event.smoothed_loss:.4f}, lr {event.learning_rate:.2e}"
                left = time_left(event.seconds_per_step, event.seconds_left)
                self.bar.update(text=f"{text}, {left}" if left else text, line=bool(left) and not self.knows_time)
                self.knows_time = bool(left)
            case TrainingEnded() if self.bar:
                self.bar.close()
                self.bar = None

    def denoise(self, event: DenoisingStep) -> None:
        """A bar on a terminal; nothing in a log."""
        from tqdm import tqdm

        if self.denoising is None:
            self.denoising = tqdm(desc="denoising", unit="step", dynamic_ncols=True, disable=None)
        self.denoising.total = event.total
        self.denoising.update(event.done - self.denoising.n)


def table(rows: Iterable[tuple[str, str]]) -> str:
    """Rows of a heading and a text; an empty heading continues the row above."""
    return "\n".join(f"{heading:<{WIDTH}}{text}".rstrip() for heading, text in rows)


def time_left(seconds_per_step: float | None, seconds_left: float | None) -> str:
    """`0.31 s per step, 1 min 20 s left`; empty before the second step."""
    if seconds_per_step is None or seconds_left is None:
        return ""
    return f"{each(seconds_per_step)} per step, {duration(seconds_left)} left"
