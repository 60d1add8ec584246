"""Standard streams that take no text: on a full disk, to a reader that is gone, closed, or in an encoding without the letters.

What cannot be printed is dropped or escaped; no command ends for it.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO


class Forgiving:
    """A text stream that drops what cannot be written, from the first failure on."""

    def __init__(self, stream: TextIO):
        self.stream, self.broken = stream, False
        with suppress(AttributeError, OSError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[attr-defined]

    def write(self, text: str) -> int:
        """Writes what can be written; says that all was."""
        self._attempt(lambda: self.stream.write(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Writes each line."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Hands on what is buffered."""
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
    """Within it standard output and error take whatever is printed."""
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
    """Opens standard streams that were closed on nothing, so that no file that is written gets their numbers."""
    with suppress(OSError):
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(descriptor)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def forget(stream: TextIO) -> None:
    """Leads what is still buffered nowhere, so that the interpreter does not stumble over it when it ends."""
    if stream in (sys.__stdout__, sys.__stderr__):
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
