"""New numbered folders for results, such as `runs/dreambooth-0003` and `images/0007-a-dog-in-the-snow`."""

import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from customize.storage.disk import make_folder

LONGEST = 40
"""Maximum length of a slug; far below the limit of any file system."""


def new_folder(parent: Path, stem: str = "", slug: str = "") -> Path:
    """Create `parent/STEM-NNNN-SLUG` with the number after the highest existing one, and return it.

    Concurrent processes get different numbers: only one of them can create the hidden folder for a number.
    """
    make_folder(parent)
    while True:
        number = 1 + max(numbers(parent, stem), default=0)
        claim = parent / f".{stem}{number:04d}"
        try:
            claim.mkdir()
        except FileExistsError:
            continue
        try:
            if number not in numbers(parent, stem, hidden=False):
                folder = parent / name(stem, number, slug)
                folder.mkdir()
                return folder
        finally:
            claim.rmdir()


def next_folder(parent: Path, stem: str = "", slug: str = "") -> Path:
    """The folder that `new_folder` would create."""
    return parent / name(stem, 1 + max(numbers(parent, stem), default=0), slug)


def name(stem: str, number: int, slug: str = "") -> str:
    """The name of a numbered folder."""
    return "-".join(filter(None, (stem, f"{number:04d}", slug)))


def numbers(parent: Path, stem: str = "", hidden: bool = True) -> list[int]:
    """The numbers that are taken by any file or folder."""
    return [number for number, _ in numbered(parent, stem, hidden)]


def numbered(parent: Path, stem: str = "", hidden: bool = False) -> Iterator[tuple[int, Path]]:
    """The numbered files and folders with their numbers. hidden: also numbers that are being claimed."""
    dash = f"{re.escape(stem)}-" if stem else ""
    pattern = re.compile(rf"{dash}([0-9]{{4,9}})(?:-.*)?" + (rf"|\.{re.escape(stem)}([0-9]{{4,9}})" if hidden else ""), re.DOTALL)
    for entry in os.listdir(parent) if parent.is_dir() else ():
        if match := pattern.fullmatch(entry):
            yield int(next(filter(None, match.groups()))), parent / entry


def slug(text: str) -> str:
    """A text as part of a name that is valid everywhere: lower-case ASCII letters, digits and dashes; may be empty."""
    plain = unicodedata.normalize("NFKD", text.casefold()).encode("ascii", "ignore").decode()
    words = re.sub(r"[^a-z0-9]+", "-", re.sub(r"['’]", "", plain)).strip("-")
    return words if len(words) <= LONGEST else words[: LONGEST + 1].rpartition("-")[0] or words[:LONGEST]
