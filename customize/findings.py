"""What comes to light while the data are read: problems, notes, and names in a form that fits on one line."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from customize import memory
from customize.errors import InputError, Problem
from customize.printable import printable


@dataclass(frozen=True)
class Findings:
    """Problems stop the run, all at once; notes are told to the user, and remarks, of less weight, after them."""

    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def problem(self, where: object, what: str, remedy: str) -> None:
        self.problems.append(Problem(printable(str(where)), what, remedy))

    def note(self, where: object, what: str) -> None:
        self.notes.append(f"{printable(str(where))}: {what}")

    def remark(self, where: object, what: str) -> None:
        self.remarks.append(f"{printable(str(where))}: {what}")

    def raise_problems(self) -> None:
        """Raise InputError with all problems, if there are any."""
        if self.problems:
            raise InputError(self.problems)


def first_few(names: Sequence[str], most: int = 10) -> str:
    """The first names, printable, and how many more there are."""
    listed = ", ".join(printable(name) for name in names[:most])
    return listed if len(names) <= most else f"{listed} and {len(names) - most} more"


@contextmanager
def refusing(where: object, remedy: str, what: str = "cannot be loaded") -> Iterator[None]:
    """Turns whatever a library raises on a stranger's file into InputError with its first line; full memory stays what it is."""
    try:
        yield
    except (InputError, MemoryError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of tokenizers, written in Rust, is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        if memory.gave_out(error):
            raise
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise InputError(Problem(printable(str(where)), printable(f"{what} ({cause})"), remedy)) from error


def unreadable(error: OSError) -> Problem:
    """The problem of a file or folder that the system does not let us look at."""
    where = printable(str(error.filename or "a file"))
    return Problem(where, f"cannot be read ({error.strerror or error})", "mend its rights, or name another one")
