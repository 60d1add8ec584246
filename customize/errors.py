"""Exceptions, by who can fix the cause. Each has its own exit status (see `customize.cli.main`)."""

import signal as _signal
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """A problem of the user's input: the setting or file, what is wrong with it, what to do."""

    where: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}\n    -> {self.remedy}"


class InputError(ValueError):
    """The user's input is invalid. Has all problems, not only the first. Exit status 2."""

    def __init__(self, problems: Problem | Iterable[Problem]):
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class ResourceError(RuntimeError):
    """Out of disk space or memory; the last good state is saved. Exit status 3."""


class NumericsError(ArithmeticError):
    """A loss, gradient or weight is NaN or infinite; the last good state is saved. Exit status 4."""


class Interrupted(Exception):
    """The run was stopped by a signal, after saving a checkpoint. Exit status 128 + the signal's number."""

    def __init__(self, signal: _signal.Signals, message: str):
        self.signal = signal
        super().__init__(message)
