"""One setting of a TOML text is changed; every other line stays as it is, with comments, order and blank lines."""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from customize.settings.files.toml_file import ASSIGNMENT

MOST_LINES, MOST_SIGNS = 200, 100
"""Lines of one value, and number signs in it, that are looked at, as each is read as TOML."""


@dataclass(frozen=True)
class Assignment:
    """The lines `[first, last)` that set a name. head: up to the equals sign; comment: after the value, with its blanks."""

    name: str
    first: int
    last: int
    head: str
    comment: str


def assigned(text: str, section: str, name: str, value: str) -> str:
    """A valid TOML text in which `name` has this value; "" takes it out. The result is to be read again: a value of more than
    `MOST_LINES` lines, and one in a line with others, are not found.

    value: as TOML. section: the table that gets the line if the name is not set yet; "" for none.
    """
    lines = text.strip("\n").split("\n") if text.strip() else []
    if own := next((each for each in assignments(lines) if each.name == name), None):
        kept = [f"{own.head} {value}{own.comment}"] if value else [own.comment.strip()] if own.comment else []
        lines[own.first : own.last] = kept
    elif value:
        line, table = f"{name} = {value}", re.compile(rf"\s*\[\s*{re.escape(section)}\s*\]\s*(#.*)?")
        head = next((number for number, each in enumerate(lines) if table.fullmatch(each)), None) if section else None
        if head is not None:
            lines.insert(head + 1, line)
        else:
            lines += [*[""] * bool(lines), f"[{section}]", line] if section else [line]
    return "\n".join([*lines, ""]) if lines else ""


def assignments(lines: list[str]) -> Iterator[Assignment]:
    """The names that the lines set, but for those in arrays of tables."""
    number, in_rows = 0, False
    while number < len(lines):
        line, first = lines[number].strip(), number
        number += 1
        if not (found := ASSIGNMENT.match(lines[first])):
            in_rows = line.startswith("[[") if line.startswith("[") else in_rows
            continue
        ends = range(number, min(len(lines), first + MOST_LINES) + 1)
        number = next((end for end in ends if is_toml("\n".join(lines[first:end]))), number)
        if not in_rows:
            whole = "\n".join(lines[first:number])
            yield Assignment(found[1].replace("-", "_"), first, number, found[0], comment_of(whole, found.end()))


def comment_of(assignment: str, start: int) -> str:
    """The comment behind the value that begins at `start`, with the blanks before it."""
    for found in islice(re.finditer("#", assignment[start:]), MOST_SIGNS):
        before = assignment[: start + found.start()]
        if is_toml(before):
            return assignment[len(before.rstrip()) :]
    return ""


def is_toml(text: str) -> bool:
    """Whether a text is valid TOML."""
    try:
        tomllib.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
