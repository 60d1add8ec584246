"""Questions to the user, where a terminal can be asked."""

import sys

from customize.errors import InputError, Problem
from customize.printable import printable
from customize.teach import bases


def can_ask() -> bool:
    """Whether input and output are a terminal."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()


def yes(question: str) -> bool:
    """Whether the user says yes; the end of the input means no."""
    try:
        return input(printable(f"{question} [Y/n] ")).strip().casefold() in ("", "y", "yes")
    except EOFError:
        return False


def choose_base() -> str:
    """The base model that the user chooses from those that fit this machine. Raises InputError without an answer."""
    offered = [base for base in bases.found() if base.offered]
    print("On which base model? None is on this machine yet.")
    for number, base in enumerate(offered, 1):
        print(printable(f"  {number}  {base.title}: {base.why}"))
    try:
        answer = input(f"1 to {len(offered)}, or the name, folder or file of another: ").strip()
    except EOFError:
        answer = ""
    if answer.isdecimal() and 1 <= int(answer) <= len(offered):
        return offered[int(answer) - 1].name
    if not answer:
        raise InputError(Problem("--base", "no base model was chosen", "give one as --base NAME"))
    return answer
