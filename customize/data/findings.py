"""Problems and notes found while reading data."""

from dataclasses import dataclass, field

from customize.errors import InputError, Problem
from customize.printable import printable


@dataclass(frozen=True)
class Findings:
    """Problems stop the run, all in one report. Notes are shown to the user, followed by remarks, which matter less."""

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
