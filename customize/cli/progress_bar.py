"""Progress of a long job: a bar on a terminal, a line every `EVERY` seconds in a log."""

import sys
import time
from contextlib import suppress
from typing import Any

from tqdm import tqdm

EVERY = 30.0
"""Seconds between two lines in a log."""


class Bar:
    """A progress bar, used as a context manager. A closed standard error does not stop the job.

    unit: what is counted, in the singular; initial: the count to start from.
    """

    def __init__(self, total: int, unit: str, description: str = "", initial: int = 0):
        self.total, self.unit, self.description, self.done = total, unit, description, initial
        self.last, self.shown, self.tqdm = time.perf_counter(), initial, None
        if sys.stderr is not None and sys.stderr.isatty():
            layout = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
            self.tqdm = tqdm(
                total=total, initial=initial, unit=unit, desc=description or None, dynamic_ncols=True, bar_format=layout
            )

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def update(self, number: int = 1, text: str = "", line: bool = False) -> None:
        """Add `number` to the count; text: shown beside it. line: write a line to a log now, without waiting for its turn."""
        self.done += number
        self.text = text
        with suppress(OSError):
            if self.tqdm is not None:
                self.tqdm.set_postfix_str(text, refresh=False)
                self.tqdm.update(number)
            elif line or time.perf_counter() - self.last >= EVERY:
                self.say()

    def say(self) -> None:
        """Write a line, unless nothing changed since the last one."""
        if self.shown != self.done and sys.stderr is not None:
            self.last, self.shown = time.perf_counter(), self.done
            text = f": {self.text}" if self.text else ""
            head = f"{self.description}: " if self.description else ""
            print(f"{head}{self.unit} {self.done:,} of {self.total:,}{text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        with suppress(OSError):
            if self.tqdm is not None:
                self.tqdm.close()
            elif self.done > self.shown:
                self.say()
