"""How problems are shown: each on its lines, and what is wrong with many files in the same way as one problem."""

import re
from collections.abc import Iterator, Sequence

from customize.errors import Problem
from customize.printable import first_few, printable

SHOWN = re.compile(r"([^\n]*)\n    ([^\n]*)\n    ( *\^)")
"""What is wrong, the place in a text, and a caret under it."""
VARYING = re.compile(r"""\d[\d,.]*|"[^"]*"|'[^']*'|\([^()]*\)""")
MANY = 5
"""So many problems of a kind are shown one by one; of more, the first with the names of the others."""


def kinds(problems: Sequence[Problem]) -> list[list[Problem]]:
    """The problems by kind, in their order: those of one kind differ in names, numbers and quoted texts only."""
    found: dict[tuple[str, str], list[Problem]] = {}
    for problem in dict.fromkeys(problems):
        found.setdefault((VARYING.sub("", problem.what), VARYING.sub("", problem.remedy)), []).append(problem)
    return [part for kind in found.values() for part in ([kind] if len(kind) > MANY else [[each] for each in kind])]


def lines(problems: Sequence[Problem], before: str = "  ") -> Iterator[str]:
    """The lines of a report, each harmless to a terminal; before: what stands before a problem."""
    for first, *others in kinds(problems):
        what, *place = match.groups() if (match := SHOWN.fullmatch(first.what)) else (first.what,)
        yield printable(f"{before}{first.where}: {what}")
        yield from (f"      {printable(line)}" for line in place)
        if others:
            yield f"      and {len(others):,} more in the same way: {first_few([each.where for each in others])}"
        yield printable(f"      -> {first.remedy}")


def headline(command: str, problems: Sequence[Problem]) -> str:
    """The first line of a report."""
    count = len(kinds(problems))
    return f"{command}: {count} problem{'s' * (count > 1)} with what was given; nothing was written"
