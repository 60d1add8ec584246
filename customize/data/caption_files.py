"""Captions beside the images: in a text file for each (a.txt, a.png.txt, a.caption, a.json), or in a table for all.

The readers never raise on what a file holds: they add a `Problem` for each fault and return what was good. No file of
captions is passed over without a line that names it.
"""

import json
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from customize.data.caption_tables import DEFAULT_COLUMN, STRICT, SUFFIXES, caption_of, is_table, table_captions
from customize.data.caption_text import read_text
from customize.data.captions import Caption
from customize.data.file_names import FORMS, Names, stem
from customize.data.findings import Findings
from customize.printable import first_few, printable

SIDECARS = (".txt", ".caption", ".captions", ".cap", ".prompt", ".text", ".tags", ".json")
"""Extensions of the caption of one image, the first before the others."""
TEXTS = frozenset({*SIDECARS, *SUFFIXES})


@dataclass
class Captions:
    """What was found in a folder. of: captions by image, also of those in sub-folders that a table names."""

    of: dict[str, tuple[Caption, ...]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    """Names of the files that captions come from, or that are told of for another reason."""


def read_captions(
    folder: Path, pictures: Collection[str], others: Collection[str], column: str, found: Findings, folders: Sequence[str] = ()
) -> Captions:
    """The captions of a folder that holds `pictures`, `others` and the sub-folders `folders`.

    An image's captions are the lines of the text file of its name, or its rows in the folder's table.
    """
    earlier = len(found.problems)
    chosen, passed_over = sidecars(pictures, others, found, folder)
    result = Captions(used={*chosen.values()})
    tables: dict[str, dict[str, tuple[Caption, ...]]] = {}
    for name in others:
        if name not in result.used and is_table(name):
            scratch = Findings()
            rows = table_captions(folder / name, pictures, column, scratch, folders)
            if name.lower() in STRICT or rows:
                tables[name] = rows
                found.problems.extend(scratch.problems)
                found.notes.extend(scratch.notes)
    result.used |= tables.keys()
    same = len({tuple((key, *(each.text for each in rows[key])) for key in sorted(rows)) for rows in tables.values()}) <= 1
    if tables and (not same or any(Path(name).suffix.lower() != ".json" for name in chosen.values())):
        what = f"has captions in more than one place: {first_few(sorted(result.used))}"
        found.problem(folder, what, "keep one: a table such as metadata.csv, or a text file for each image")
    elif tables:
        result.of = dict(next(iter(tables.values())))
        result.used -= {*chosen.values()}
    else:
        read = {name: sidecar_captions(folder / name, column, found) for name in sorted(result.used)}
        result.of = {picture: texts for picture, name in chosen.items() if (texts := read[name])}
    if result.of and passed_over:
        found.note(folder, f"more than one caption file for an image; not read ({len(passed_over)}): {first_few(passed_over)}")
        result.used |= {*passed_over}
    if len(found.problems) > earlier:  # then who has no caption is not known
        result.of = {**dict.fromkeys(pictures, ()), **result.of}
    strays = [name for name in others if name not in result.used and os.path.splitext(name)[1].lower() in TEXTS]
    if strays:
        what = "text files that are no captions of an image here, by name or content, so not read"
        found.note(folder, f"{what} ({len(strays)}): {first_few(strays)}")
        result.used |= {*strays}
    return result


def sidecars(
    pictures: Collection[str], others: Collection[str], found: Findings, folder: Path
) -> tuple[dict[str, str], list[str]]:
    """(the caption file of each image that has one, files that others went before).

    a.png.txt goes before a.txt, a name that is the same before one in another Unicode form or case.
    """
    files: dict[str, list[str]] = {}
    for name in others:
        base, suffix = os.path.splitext(name)
        if suffix.lower() in SIDECARS:
            files.setdefault(base, []).append(name)
    bases = Names(files)
    taken = {each for picture in pictures for each in (picture, stem(picture)) if each in bases}
    chosen: dict[str, str] = {}
    passed_over: list[str] = []
    for picture in pictures if files else ():
        hits: list[str] = []
        for level in range(len(FORMS)):
            for wanted in (picture, stem(picture)):
                hits = [base for base in bases.at(level, wanted) if level == 0 or base not in taken]
                if hits:
                    break
            if hits:
                break
        mine = sorted((name for base in hits for name in files[base]), key=_order)
        if len(mine) > 1 and _order(mine[0]) == _order(mine[1]):
            what = f"could have one of several captions: {first_few(sorted(mine))}"
            found.problem(folder / picture, what, "keep the one that is meant, under the very name of the image")
        elif mine:
            chosen[picture] = mine[0]
            passed_over += [name for name in mine[1:] if name not in passed_over]
    _refuse_shared(chosen, found, folder)
    return chosen, [name for name in passed_over if name not in chosen.values()]


def _order(name: str) -> int:
    return SIDECARS.index(os.path.splitext(name)[1].lower())


def _refuse_shared(chosen: dict[str, str], found: Findings, folder: Path) -> None:
    """A file in another case cannot be the caption of two images whose names differ by more than their extension."""
    owners: dict[str, set[str]] = {}
    for picture, name in chosen.items():
        owners.setdefault(name, set()).add(stem(picture) if stem(name) != picture else picture)
    for name, bases in owners.items():
        if len(bases) > 1 and stem(name) not in bases:
            what = f"could be the caption of several images: {first_few(sorted(p for p, own in chosen.items() if own == name))}"
            found.problem(folder / name, what, "give it the very name of the image that is meant")


def sidecar_captions(path: Path, column: str, found: Findings) -> tuple[Caption, ...]:
    """The captions in a text file: each line that is not blank is one; of a .json what stands under `column` and the like."""
    where = printable(str(path))
    if path.suffix.lower() == ".json":
        return _json_captions(path, column, found)
    text = read_text(path, found)
    if text is None:
        return ()
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1)]
    captions = tuple(Caption(line, f"{where} line {number}") for number, line in lines if line)
    if not captions:
        found.problem(where, "holds no caption", "write one, or delete the file")
    return captions


def _json_captions(path: Path, column: str, found: Findings) -> tuple[Caption, ...]:
    """Programs of many kinds leave a .json beside an image: without a caption in it, it is a note and no problem."""
    text = read_text(path, found)
    try:
        row = json.loads(text or "")
    except (ValueError, RecursionError):
        row = None
    _, texts = caption_of(row, column) if isinstance(row, dict) else ("", ())
    if not texts and text is not None:
        found.note(path, f"holds no caption under {column if column != DEFAULT_COLUMN else 'text, caption, prompt or tags'}")
    return tuple(Caption(each, printable(str(path))) for each in texts)
