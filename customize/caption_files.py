"""Captions from files beside the pictures: NAME.txt, metadata.jsonl, metadata.csv.

The readers never raise on what a file holds: they add a `Problem` for each fault and return what was good.
"""

import csv
import io
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath

from customize.captions import Caption
from customize.findings import Findings, first_few, printable
from customize.reading import regular_file

TABLES = ("metadata.jsonl", "metadata.csv")
MAX_BYTES = 1 << 26


def read_captions(
    folder: Path, pictures: Collection[str], others: Collection[str], column: str, found: Findings
) -> tuple[dict[str, tuple[Caption, ...]], set[str]]:
    """(captions by picture, names of the files they come from) for a folder that holds `pictures` and `others`.

    A picture's captions are the lines of the .txt file of its name, or its rows in the folder's table.
    """
    texts = {name[: -len(".txt")]: name for name in others if name.lower().endswith(".txt")}
    sidecars = {picture: texts[stem] for picture in pictures if (stem := picture.rpartition(".")[0]) in texts}
    tables = [name for name in others if name.lower() in TABLES]
    used = {*tables, *sidecars.values()}
    earlier = len(found.problems)
    captions: dict[str, tuple[Caption, ...]] = {}
    if len(tables) > 1 or (tables and sidecars):
        what = f"has captions in more than one place: {first_few(sorted(used))}"
        found.problem(folder, what, f"keep one: {', '.join(TABLES)}, or .txt files")
    elif tables:
        captions = table_captions(folder / tables[0], pictures, column, found)
    else:
        read = {name: sidecar_captions(folder / name, found) for name in sorted(used)}
        captions = {picture: read[name] for picture, name in sidecars.items()}
    if len(found.problems) > earlier:  # then who has no caption is not known
        captions = {**dict.fromkeys(pictures, ()), **captions}
    return captions, used


def sidecar_captions(path: Path, found: Findings) -> tuple[Caption, ...]:
    """The captions in a .txt file: each line that is not blank is one."""
    text = _read_text(path, found)
    if text is None:
        return ()
    where = printable(str(path))
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1)]
    captions = tuple(Caption(line, f"{where} line {number}") for number, line in lines if line)
    if not captions:
        found.problem(where, "holds no caption", "write one, or delete the file")
    return captions


def table_captions(path: Path, pictures: Collection[str], column: str, found: Findings) -> dict[str, tuple[Caption, ...]]:
    """The captions in a table by the convention of datasets' ImageFolder: the columns file_name and `column`.

    A caption is a string or, in JSON, a list of strings; several rows for one picture are several captions.
    """
    text = _read_text(path, found)
    rows = _csv_rows if path.suffix.lower() == ".csv" else _jsonl_rows
    captions: dict[str, tuple[Caption, ...]] = {}
    for where, row in () if text is None else rows(text, printable(str(path)), found):
        name = row.get("file_name")
        name = name if isinstance(name, str) else ""
        if fault := _name_fault(name, pictures):
            found.problem(where, fault, "name a picture in the folder itself, or delete the row")
        elif texts := caption_texts(row.get(column)):
            picture = str(PurePosixPath(name))
            captions[picture] = captions.get(picture, ()) + tuple(Caption(text, where) for text in texts)
        else:
            columns = first_few([str(key) for key in row])
            what = f"has no caption in the column {printable(column)!r} (its columns: {columns})"
            found.problem(where, what, "write one there, or name the right column with --caption_column")
    return captions


def caption_texts(value: object) -> tuple[str, ...]:
    """The captions in a cell: a string or a list of strings, none of them blank. Of anything else none."""
    texts = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(text, str) and text.strip() and _is_unicode(text) for text in texts):
        return ()
    return tuple(text.strip() for text in texts)


def _is_unicode(text: str) -> bool:
    """JSON can write one half of a surrogate pair, which no tokenizer takes."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _read_text(path: Path, found: Findings) -> str | None:
    """The text of a UTF-8 file, with or without byte-order mark, its line ends as \\n; None and a problem otherwise."""
    where, remedy = printable(str(path)), "save the file as UTF-8"
    try:
        with regular_file(path) as stream:
            data = stream.read(MAX_BYTES + 1)
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        what = f"is not UTF-8 in line {line} (byte 0x{error.object[error.start]:02x})"
    except OSError as error:
        what, remedy = f"cannot be read: {error.strerror or error}", "put a readable text file there, or take it out"
    else:
        if "\0" in text:
            what = "holds zero bytes, as UTF-16 does"
        elif len(data) > MAX_BYTES:
            what, remedy = f"is larger than {MAX_BYTES:,} bytes", "put a file of captions there, or take it out"
        else:
            return text.replace("\r\n", "\n").replace("\r", "\n")
    found.problem(where, what, remedy)
    return None


def _jsonl_rows(text: str, where: str, found: Findings) -> Iterator[tuple[str, Mapping[str, object]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            what = None if isinstance(row, dict) else "is JSON, but no object"
        except (ValueError, RecursionError) as error:
            what = f"is not JSON ({printable(str(error))})"
        if what:
            found.problem(f"{where} line {number}", what, 'write {"file_name": "a.png", "text": "..."}')
        else:
            yield f"{where} line {number}", row


def _csv_rows(text: str, where: str, found: Findings) -> Iterator[tuple[str, Mapping[str, object]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        if "file_name" not in (reader.fieldnames or ()):
            what = f"has no column file_name (its columns: {first_few(list(reader.fieldnames or ()))})"
            found.problem(f"{where} line 1", what, "begin it with the line file_name,text")
            return
        for row in reader:
            if None in row:
                what = "has more fields than line 1 has columns"
                found.problem(f"{where} line {reader.line_num}", what, 'put "quotes" around the caption')
            else:
                yield f"{where} line {reader.line_num}", row
    except csv.Error as error:
        found.problem(f"{where} line {reader.line_num}", f"is not CSV ({error})", "mend the line")


def _name_fault(name: str, pictures: Collection[str]) -> str | None:
    """What is wrong with a row's file_name. It is looked up in the folder's listing: no path in a table is followed."""
    if not name.strip():
        return "has no file_name"
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    if "://" in name:
        kind = "a URL"
    elif posix.is_absolute() or windows.drive or windows.root:
        kind = "an absolute path"
    elif ".." in posix.parts or ".." in windows.parts:
        kind = "a path that leaves the folder"
    elif str(posix) in pictures:
        return None
    else:
        kind = "a file in a sub-folder" if len(posix.parts) > 1 else "a picture that is not there"
    return f"names {kind}: {printable(name)!r}"
