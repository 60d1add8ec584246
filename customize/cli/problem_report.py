"""The layout of a problem report; the same problem with many files is shown once."""

import re
from collections.abc import Iterator, Sequence

from customize.errors import Problem
from customize.printable import first_few, printable

SHOWN = re.compile(r"([^\n]*)\n    ([^\n]*)\n    ( *\^)")
"""What is wrong, the text concerned, and a caret below the position."""
VARYING = re.compile(r"""\d[\d,.]*|"[^"]*"|'[^']*'|\([^()]*\)""")
MANY = 5
"""Up to this many problems of a kind are shown one by one; if there are more, the first with the names of the others."""


def kinds(problems: Sequence[Problem]) -> list[list[Problem]]:
    """The problems by kind, in order. Problems of one kind differ only in names, numbers and quoted texts."""
    found: dict[tuple[str, str], list[Problem]] = {}
    for problem in dict.fromkeys(problems):
        found.setdefault((VARYING.sub("", problem.what), VARYING.sub("", problem.remedy)), []).append(problem)
    return [part for kind in found.values() for part in ([kind] if len(kind) > MANY else [[each] for each in kind])]


def lines(problems: Sequence[Problem], before: str = "  ") -> Iterator[str]:
    """The lines of a report, without control characters. before: the prefix of each problem."""
    for first, *others in kinds(problems):
        what, *place = match.groups() if (match := SHOWN.fullmatch(first.what)) else (first.what,)
        yield printable(f"{before}{first.where}: {what}")
        yield from (f"      {printable(line)}" for line in place)
        if others:
            yield f"      and {len(others):,} more with the same problem: {first_few([each.where for each in others])}"
        yield printable(f"      -> {first.remedy}")


def headline(command: str, problems: Sequence[Problem]) -> str:
    """The first line of a report."""
    count = len(kinds(problems))
    return f"{command}: {count} problem{'s' * (count > 1)} in the input; nothing was written"
