"""The terminal as a consumer of events: lines on standard output, warnings and progress on standard error."""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from customize.events import DenoisingStep, Event, Message, Progress, Summary, TimeEstimate
from customize.printable import printable
from customize.units import duration

if TYPE_CHECKING:
    from tqdm import tqdm

    from customize.progress import Bar

WIDTH = 10


class Terminal:
    """Prints events; within `with`, its bars are closed at the end."""

    def __init__(self) -> None:
        self.bar: Bar | None = None
        self.denoising: tqdm | None = None

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def close(self) -> None:
        """Ends the bars that are shown."""
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
            case TimeEstimate(number, measured, seconds):
                print(f"{number:,} images, about {duration(seconds)} (measured on the first {measured})", file=sys.stderr)
            case DenoisingStep():
                self.denoise(event)

    def progress(self, event: Progress) -> None:
        """A bar, or in a log a line now and then."""
        from customize.progress import Bar  # tqdm is slow to import

        if self.bar is None:
            self.bar = Bar(event.total, event.unit, event.description, initial=event.done)
        if event.done > self.bar.done:
            self.bar.update(event.done - self.bar.done)
        if event.done == event.total:
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
    """Rows of a heading and a text; an empty heading goes on with the row above."""
    return "\n".join(f"{heading:<{WIDTH}}{text}".rstrip() for heading, text in rows)
