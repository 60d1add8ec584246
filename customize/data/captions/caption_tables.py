"""Captions in a table for all images of a folder: CSV, TSV, JSON lines, or JSON, as other programs write them.

metadata.jsonl and metadata.csv are the format of datasets' ImageFolder; meta_cap.json and similar files are kohya's.
"""

import csv
import io
import json
import ntpath
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from customize.data.captions.caption_rule import Caption
from customize.data.captions.caption_text import read_text
from customize.data.file_names import Names, composed, stem
from customize.data.findings import Findings
from customize.printable import first_few, printable

DEFAULT_COLUMN = "text"
"""The default; another name was chosen by the user, and every table must have it."""
STRICT = ("metadata.jsonl", "metadata.csv", "metadata.tsv")
"""Files that are always treated as tables of captions."""
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")
TABLE_STEMS = ("captions", "caption", "prompts", "metadata", "labels", "meta_cap", "meta_lat")
"""Names, without extension, of .txt files that may be tables."""
FILE_COLUMNS = "file_name filename file image image_file image_name image_path path file_path filepath img name key".split()
CAPTION_COLUMNS = "text caption captions prompt prompts description tags tag_string".split()
"""Tried in this order if the user chose no column."""
DELIMITERS = ",;\t|"
Row = tuple[str, str, Mapping[str, object]]
"""The location of the row, the name of the image, the columns."""


def is_table(name: str) -> bool:
    """Whether a file with this name may be a table of captions."""
    base, suffix = os.path.splitext(name.lower())
    return suffix in SUFFIXES or (suffix == ".txt" and base in TABLE_STEMS)


def table_captions(
    path: Path, images: Collection[str], column: str, found: Findings, folders: Sequence[str] = ()
) -> dict[str, tuple[Caption, ...]]:
    """The captions in a table, by image; images in the subfolders `folders` are named subfolder/name.

    Several rows for one image, or a list in JSON, are several captions.
    """
    text = read_text(path, found)
    where, lookup = printable(str(path)), Lookup(path.parent, images, folders)
    captions: dict[str, dict[str, Caption]] = {}
    columns: dict[str, None] = {}
    twice = 0
    for place, name, row in _rows(path, text, where, lookup, found) if text is not None else ():
        image, fault, remedy = lookup.find(name)
        used, texts = caption_of(row, column)
        if fault:
            found.problem(place, fault, remedy)
        elif texts:
            columns[used] = None
            mine = captions.setdefault(image, {})
            twice += any(each in mine for each in texts)
            for each in texts:
                mine.setdefault(each, Caption(each, place))
        else:
            what = f"has no caption in the column {printable(column)!r} (its columns: {first_few(list(map(str, row)))})"
            found.problem(place, what, "add one, or give the right column as --caption_column")
    if column == DEFAULT_COLUMN and columns.keys() - {DEFAULT_COLUMN}:
        found.note(path, f"captions are read from the column {first_few(list(columns))}; --caption_column selects another")
    if twice:
        found.note(path, f"{twice} rows repeat the caption of another row for the same image and are ignored")
    return {image: tuple(each.values()) for image, each in captions.items()}


def caption_of(row: Mapping[str, object], column: str) -> tuple[str, tuple[str, ...]]:
    """(column, its captions) of the first column with captions; only `column` is tried unless it is the default.

    As in kohya's programs, tags are appended to the caption if there are both and no text.
    """
    plain = {_plain(key): value for key, value in row.items()}
    for name in CAPTION_COLUMNS if column == DEFAULT_COLUMN else [_plain(column)]:
        value = plain.get(name)
        if name.startswith("tag") and isinstance(value, list) and all(isinstance(each, str) for each in value):
            value = ", ".join(each.strip() for each in value)
        if texts := caption_texts(value):
            tags = caption_texts(plain.get("tags")) if name == "caption" else ()
            return (name, (f"{texts[0]}, {tags[0]}",)) if len(texts) == len(tags) == 1 else (name, texts)
    return "", ()


def caption_texts(value: object) -> tuple[str, ...]:
    """The captions in a cell: a string or a list of strings, none of them blank. Anything else gives no captions."""
    texts = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(text, str) and text.strip() and _is_unicode(text) for text in texts):
        return ()
    return tuple(text.strip() for text in texts)


class Lookup:
    """Finds the image that a row refers to. Paths are never followed: names are looked up in the folder's listing."""

    def __init__(self, folder: Path, images: Collection[str], folders: Sequence[str]):
        self.folder, self.names, self.stems = folder, Names(images), Names(map(stem, images))
        self.folders, self.within = Names(folders), {}
        self.of_stem = {stem(image): image for image in reversed(tuple(images))}
        self.here = os.path.realpath(folder)

    def find(self, name: str) -> tuple[str, str, str]:
        """(the image, "", "") or ("", what is wrong with the name, the remedy)."""
        remedy = "give the name of an image in the folder, or delete the row"
        if not name.strip():
            return "", "has no file_name", remedy
        posix, windows = PurePosixPath(name.strip()), PureWindowsPath(name.strip())
        if "://" in name:
            return "", f"contains a URL: {printable(name)!r}", remedy
        if posix.is_absolute() or windows.drive or windows.root:
            own = windows.name
            if posix.is_absolute() and os.path.normpath(posix.parent) in (self.here, os.path.abspath(self.folder)):
                return self.find(posix.name)
            hint = f"write only {printable(own)!r}" if self.names.find(own) else remedy
            return "", f"contains an absolute path: {printable(name)!r}", hint
        if ".." in posix.parts or ".." in windows.parts:
            return "", f"contains a path outside the folder: {printable(name)!r}", remedy
        hits = self.names.find(str(posix)) or self.inside(posix.parts)
        if not hits and "\\" in name:
            hits = self.names.find(windows.as_posix()) or self.inside(windows.parts)
        if len(hits) == 1:
            return hits[0], "", ""
        if hits:
            return "", f"matches several images: {first_few(hits)}", "write the exact name of one"
        kind = "file in a subfolder" if len(windows.parts) > 1 else "image"
        return "", f"refers to a missing {kind}: {printable(name)!r}", remedy

    def inside(self, parts: tuple[str, ...]) -> list[str]:
        """The matching images of a subfolder, as subfolder/name."""
        if not 1 < len(parts) < 6 or len(found := self.folders.find(parts[0])) != 1:
            return []
        subfolder = "/".join((found[0], *parts[1:-1]))
        if subfolder not in self.within:
            try:
                self.within[subfolder] = Names(entry.name for entry in os.scandir(self.folder / subfolder) if not entry.is_dir())
            except (OSError, ValueError):
                self.within[subfolder] = Names(())
        return [f"{subfolder}/{name}" for name in self.within[subfolder].find(parts[-1])]

    def by_key(self, key: str) -> str:
        """The name of the image for kohya's key, which may lack the extension and may contain folders."""
        name = ntpath.basename(key)
        if self.names.find(name):
            return name
        intended = self.stems.find(name)
        return self.of_stem[intended[0]] if intended else key

    def is_there(self, name: str) -> bool:
        """Whether the name refers to an image."""
        return bool(name) and not self.find(name)[1]


def _plain(key: object) -> str:
    return composed(str(key)).strip().casefold().replace(" ", "_").replace("-", "_")


def _is_unicode(text: str) -> bool:
    """JSON can contain half of a surrogate pair, which no tokenizer accepts."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _file_of(row: Mapping[str, object]) -> str:
    plain = {_plain(key): value for key, value in row.items()}
    return next((value for name in FILE_COLUMNS if isinstance(value := plain.get(name), str)), "")


def _rows(path: Path, text: str, where: str, lookup: Lookup, found: Findings) -> Iterator[Row]:
    suffix = path.suffix.lower()
    readers: dict[str, Callable[..., Iterator[Row]]] = {".json": _json_rows, ".jsonl": _jsonl_rows, ".ndjson": _jsonl_rows}
    yield from readers.get(suffix, _csv_rows)(text, where, lookup, found)


def _jsonl_rows(text: str, where: str, lookup: Lookup, found: Findings) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            what = None if isinstance(row, dict) else "is JSON but not an object"
        except (ValueError, RecursionError) as error:
            what = f"is not JSON ({printable(str(error))})"
        if what:
            found.problem(f"{where} line {number}", what, 'write {"file_name": "a.png", "text": "..."}')
        else:
            yield f"{where} line {number}", _file_of(row), row


def _json_rows(text: str, where: str, lookup: Lookup, found: Findings) -> Iterator[Row]:
    """A list of objects, or an object with image names as keys: {"a.png": {"caption": ..., "tags": ...}}."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        found.problem(where, f"is not JSON ({printable(str(error))})", "fix or remove the file")
        return
    if isinstance(whole, list):
        for number, row in enumerate(whole, start=1):
            if isinstance(row, dict):
                yield f"{where} entry {number}", _file_of(row), row
    elif isinstance(whole, dict) and any(lookup.is_there(lookup.by_key(key)) for key in whole):
        for key, row in whole.items():
            columns = row if isinstance(row, dict) else {"text": row}
            yield f"{where} entry {printable(key)!r}", lookup.by_key(key), columns


def _csv_rows(text: str, where: str, lookup: Lookup, found: Findings) -> Iterator[Row]:
    """Rows of a table with a header, also from Excel, or without one if the first field is the name of an image."""
    skipped = text[:4].casefold() == "sep="
    body = text.partition("\n")[2] if skipped else text
    head = body.lstrip("\n").partition("\n")[0]
    delimiter = max(DELIMITERS, key=lambda each: _fit(head, each, lookup))
    reader = csv.reader(io.StringIO(body, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    fields: list[str] | None = None
    try:
        for cells in reader:
            place = f"{where} line {reader.line_num + skipped}"
            if not any(cell.strip() for cell in cells):
                continue
            if fields is None:
                fields = cells
                if not {_plain(cell) for cell in cells} & {*FILE_COLUMNS}:
                    if not lookup.is_there(cells[0]):
                        what = f"has no column file_name (its columns: {first_few(cells)})"
                        found.problem(place, what, "add the first line file_name,text")
                        return
                    fields = ["file_name", DEFAULT_COLUMN]
                else:
                    continue
            if len(cells) > len(fields) and any(cell.strip() for cell in cells[len(fields) :]):
                found.problem(place, "has more fields than line 1 has columns", 'put "quotes" around the caption')
                continue
            row = dict(zip(fields, cells, strict=False))
            yield place, _file_of(row), row
    except csv.Error as error:
        found.problem(f"{where} line {reader.line_num + skipped}", f"is not CSV ({error})", "fix the line")
    if fields is None:
        found.problem(f"{where} line 1", "has no column file_name (the file is empty)", "add the first line file_name,text")


def _fit(head: str, delimiter: str, lookup: Lookup) -> int:
    """How well a delimiter splits the first line: into known columns, or into an image and its caption."""
    cells = [cell.strip().strip('"') for cell in head.split(delimiter)]
    if {_plain(cell) for cell in cells} & {*FILE_COLUMNS}:
        return 2 + len(cells)
    return 1 if len(cells) > 1 and lookup.is_there(cells[0]) else 0
