"""Captions beside the images: one text file per image (a.txt, a.png.txt, a.caption, a.json), or one table for all.

The readers never raise because of a file's contents: they add a `Problem` for each fault and return the valid captions.
A line names every caption file that is not used.
"""

import json
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from customize.data.captions.caption_rule import Caption
from customize.data.captions.caption_tables import DEFAULT_COLUMN, STRICT, SUFFIXES, caption_of, is_table, table_captions
from customize.data.captions.caption_text import read_text
from customize.data.file_names import FORMS, Names, stem
from customize.data.findings import Findings
from customize.printable import first_few, printable

SIDECARS = (".txt", ".caption", ".captions", ".cap", ".prompt", ".text", ".tags", ".json")
"""Extensions of caption files for one image, in order of precedence."""
TEXTS = frozenset({*SIDECARS, *SUFFIXES})
MANY = 5
"""Notes on single files; of more, only the first is shown."""


@dataclass
class Captions:
    """The captions of a folder. of: captions by image, including images in subfolders that a table lists."""

    of: dict[str, tuple[Caption, ...]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    """Names of files that hold captions or that a note already mentions."""


def read_captions(
    folder: Path, images: Collection[str], others: Collection[str], column: str, found: Findings, folders: Sequence[str] = ()
) -> Captions:
    """The captions of a folder with the files `images` and `others` and the subfolders `folders`.

    An image's captions are the lines of the text file with its name, or its rows in the folder's table.
    """
    earlier = len(found.problems)
    chosen, passed_over = sidecars(images, others, found, folder)
    result = Captions(used={*chosen.values()})
    tables: dict[str, dict[str, tuple[Caption, ...]]] = {}
    for name in others:
        if name not in result.used and is_table(name):
            scratch = Findings()
            rows = table_captions(folder / name, images, column, scratch, folders)
            if name.lower() in STRICT or rows:
                tables[name] = rows
                found.problems.extend(scratch.problems)
                found.notes.extend(scratch.notes)
    result.used |= tables.keys()
    same = len({tuple((key, *(each.text for each in rows[key])) for key in sorted(rows)) for rows in tables.values()}) <= 1
    if tables and (not same or any(Path(name).suffix.lower() != ".json" for name in chosen.values())):
        what = f"has captions in more than one place: {first_few(sorted(result.used))}"
        found.problem(folder, what, "keep one: a table such as metadata.csv, or one text file per image")
    elif tables:
        result.of = dict(next(iter(tables.values())))
        result.used -= {*chosen.values()}
    else:
        scratch = Findings()
        read = {name: sidecar_captions(folder / name, column, scratch) for name in sorted(result.used)}
        found.problems.extend(scratch.problems)
        found.notes.extend(scratch.notes if len(scratch.notes) <= MANY else [several(scratch.notes)])
        result.of = {image: texts for image, name in chosen.items() if (texts := read[name])}
    if result.of and passed_over:
        found.note(folder, f"some images have several caption files; not used ({len(passed_over)}): {first_few(passed_over)}")
        result.used |= {*passed_over}
    if len(found.problems) > earlier:  # then missing captions are not reported as well
        result.of = {**dict.fromkeys(images, ()), **result.of}
    strays = [name for name in others if name not in result.used and os.path.splitext(name)[1].lower() in TEXTS]
    if strays:
        what = "text files that do not belong to an image in this folder, not used"
        found.note(folder, f"{what} ({len(strays)}): {first_few(strays)}")
        result.used |= {*strays}
    return result


def several(notes: Sequence[str]) -> str:
    """One note for many files with the same fault."""
    return f"{notes[0]}; so do {len(notes) - 1:,} more"


def sidecars(images: Collection[str], others: Collection[str], found: Findings, folder: Path) -> tuple[dict[str, str], list[str]]:
    """(image -> its caption file, caption files that another one takes precedence over).

    a.png.txt takes precedence over a.txt, and an identical name over one in another Unicode form or case.
    """
    files: dict[str, list[str]] = {}
    for name in others:
        base, suffix = os.path.splitext(name)
        if suffix.lower() in SIDECARS:
            files.setdefault(base, []).append(name)
    bases = Names(files)
    taken = {each for image in images for each in (image, stem(image)) if each in bases}
    chosen: dict[str, str] = {}
    passed_over: dict[str, None] = {}
    for image in images if files else ():
        hits: list[str] = []
        for level in range(len(FORMS)):
            for base_name in (image, stem(image)):
                hits = [base for base in bases.at(level, base_name) if level == 0 or base not in taken]
                if hits:
                    break
            if hits:
                break
        mine = sorted((name for base in hits for name in files[base]), key=_order)
        if len(mine) > 1 and _order(mine[0]) == _order(mine[1]):
            what = f"matches several caption files: {first_few(sorted(mine))}"
            found.problem(folder / image, what, "keep one, with exactly the image's name")
        elif mine:
            chosen[image] = mine[0]
            passed_over |= dict.fromkeys(mine[1:])
    _refuse_shared(chosen, found, folder)
    used = {*chosen.values()}
    return chosen, [name for name in passed_over if name not in used]


def _order(name: str) -> int:
    return SIDECARS.index(os.path.splitext(name)[1].lower())


def _refuse_shared(chosen: dict[str, str], found: Findings, folder: Path) -> None:
    """A caption file in another case must not match images whose names differ in more than the extension."""
    owners: dict[str, set[str]] = {}
    for image, name in chosen.items():
        owners.setdefault(name, set()).add(stem(image) if stem(name) != image else image)
    for name, bases in owners.items():
        if len(bases) > 1 and stem(name) not in bases:
            what = f"matches several images: {first_few(sorted(p for p, own in chosen.items() if own == name))}"
            found.problem(folder / name, what, "give it exactly the name of its image")


def sidecar_captions(path: Path, column: str, found: Findings) -> tuple[Caption, ...]:
    """The captions in a file: the non-blank lines of a text file, or the value of `column` or a similar name in a .json."""
    where = printable(str(path))
    if path.suffix.lower() == ".json":
        return _json_captions(path, column, found)
    text = read_text(path, found)
    if text is None:
        return ()
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1)]
    captions = tuple(Caption(line, f"{where} line {number}") for number, line in lines if line)
    if not captions:
        found.problem(where, "contains no caption", "write one, or delete the file")
    return captions


def _json_captions(path: Path, column: str, found: Findings) -> tuple[Caption, ...]:
    """Many programs write a .json beside an image: one without a caption is only noted."""
    text = read_text(path, found)
    try:
        row = json.loads(text or "")
    except (ValueError, RecursionError):
        row = None
    _, texts = caption_of(row, column) if isinstance(row, dict) else ("", ())
    if not texts and text is not None:
        found.note(path, f"contains no caption under {column if column != DEFAULT_COLUMN else 'text, caption, prompt or tags'}")
    return tuple(Caption(each, printable(str(path))) for each in texts)
