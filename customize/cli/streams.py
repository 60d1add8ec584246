"""Standard streams that cannot be written to: on a full disk, closed, without a reader, or in an encoding that lacks characters.

Text that cannot be printed is dropped or escaped; it does not stop a command.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO


class Forgiving:
    """A text stream that drops all text after the first failed write."""

    def __init__(self, stream: TextIO):
        self.stream, self.broken = stream, False
        with suppress(AttributeError, OSError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[attr-defined]

    def write(self, text: str) -> int:
        """Write the text if possible; always report success."""
        self._attempt(lambda: self.stream.write(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write each line."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush the buffer."""
        self._attempt(self.stream.flush)

    def _attempt(self, action: Any) -> None:
        if not self.broken:
            try:
                action()
            except (OSError, ValueError):  # ValueError: it is closed
                self.broken = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def forgiving() -> Iterator[None]:
    """Within this context, printing to standard output and error never fails."""
    fill_closed()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = streams = tuple(map(Forgiving, before))  # type: ignore[assignment]
    try:
        yield
    finally:
        for stream in streams:
            stream.flush()
            if stream.broken:
                forget(stream.stream)
        sys.stdout, sys.stderr = before


def fill_closed() -> None:
    """Open closed standard streams on the null device, so that no output file gets their descriptors."""
    with suppress(OSError):
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(descriptor)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def forget(stream: TextIO) -> None:
    """Redirect a broken stream to the null device, so that flushing it when the interpreter exits does not fail."""
    if stream in (sys.__stdout__, sys.__stderr__):
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
