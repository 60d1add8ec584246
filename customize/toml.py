"""Settings as TOML: a flat set of names under tables that are for reading only."""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from customize.errors import InputError, Problem
from customize.setting import Setting

MAX_BYTES = 1_000_000


def write(sections: Mapping[str, list[Setting]], values: Mapping[str, Any]) -> str:
    """TOML of the values, one table per section; what is None by default is left out."""
    tables = []
    for section, lines in sections.items():
        kept = [line for line in lines if line.name in values]
        kept = [line for line in kept if values[line.name] is not None or line.default is not None]
        tables.append("\n".join((f"[{section}]", *(f"{line.name} = {_literal(values[line.name])}" for line in kept))))
    return "\n\n".join(tables) + "\n"


def _literal(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_literal, value))}]"
    if value is None:
        return '"none"'
    if isinstance(value, bool | str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    return repr(value)


def read(path: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The values in a TOML file, and where each one stands (`FILE:LINE: name`), by name.

    Raises InputError with file and line.
    """
    text = _text(path)
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        line = re.search(r"\(at line (\d+), column \d+\)", str(error))
        where = f"{path}:{line[1]}" if line else path
        what = str(error).replace(line[0], "").strip() if line else str(error)
        raise InputError(Problem(where, f"is not TOML: {what}", "mend the line; texts stand in quotes")) from None
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    problems = []
    for name, value in _flat(document):
        where = f"{path}:{_line_of(name, text)}: {name}"
        if (key := name.replace("-", "_")) in values:
            problems.append(Problem(where, "is given twice", "keep one of the two"))
        values[key], origins[key] = value, where
    if problems:
        raise InputError(problems)
    return values, origins


def _text(path: str) -> str:
    file = Path(path)
    try:
        if not file.is_file():
            raise InputError(Problem(path, "is not a file", "name a TOML file; a text with blanks stands in quotes"))
        if (size := file.stat().st_size) > MAX_BYTES:
            raise InputError(Problem(path, f"has {size:,} bytes: too large for settings", "name a TOML file"))
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = file.read_bytes()[: error.start].count(b"\n") + 1
        raise InputError(Problem(f"{path}:{line}", "is not UTF-8 text", "save it as UTF-8")) from None
    except OSError as error:
        raise InputError(Problem(path, f"cannot be read: {error.strerror}", "mend its permissions")) from None


def _flat(document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        if isinstance(value, dict):
            yield from _flat(value)
        else:
            yield name, value


def _line_of(name: str, text: str) -> int:
    """The line on which `name` is set: tomllib does not tell."""
    assignment = re.compile(rf"""[\w.\s"'-]*\b{re.escape(name)}["']?\s*=""")
    return next((number for number, line in enumerate(text.splitlines(), 1) if assignment.match(line)), 1)
