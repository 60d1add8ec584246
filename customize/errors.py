"""What can go wrong, by who can mend it. Each kind has its own exit status (see `customize.cli.main`)."""

import signal as _signal
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the user's input: the setting or file, what is wrong with it, what to do."""

    where: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}\n    -> {self.remedy}"


class InputError(ValueError):
    """The user's input cannot be used. Carries every problem found, not only the first. Exit status 2."""

    def __init__(self, problems: Problem | Iterable[Problem]):
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class ResourceError(RuntimeError):
    """Disk or memory gave out; the last good state is saved. Exit status 3."""


class NumericsError(ArithmeticError):
    """A loss, gradient or weight is NaN or infinite; the last good state is saved. Exit status 4."""


class Interrupted(Exception):
    """A signal asked the run to stop, and it did so after a checkpoint. Exit status 128 + the signal's number."""

    def __init__(self, signal: _signal.Signals, message: str):
        self.signal = signal
        super().__init__(message)
