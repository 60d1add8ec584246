"""Settings as TOML: a flat set of names; tables only group them for readers."""

import json
import os
import re
import tomllib
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from customize.errors import InputError, Problem
from customize.settings.field import Setting
from customize.settings.files import toml_faults
from customize.storage.untrusted_files import NotText, TooLarge, read_bytes, read_text, reason

MAX_BYTES = 1_000_000
MOST_VALUES = 1000
PART = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+"""
DEEP = re.compile(rf"""(?<![\w-])(?:{PART}\.[ \t]*+){{16}}""")
"""A name with more parts than any setting; tomllib takes minutes for thousands of parts."""
ASSIGNMENT = re.compile(r"""\s*(?:[\w-]{1,99}\s*\.\s*){0,16}["']?([\w-]{1,99})["']?\s*=""")


def write(sections: Mapping[str, list[Setting]], values: Mapping[str, Any], explicit: Collection[str] = ()) -> str:
    """TOML of the values, one table per section; those that are tables come last. A value that is None by default is left out,
    unless it is in `explicit`."""
    tables, last = [], []
    for section, lines in sections.items():
        kept = [line for line in lines if line.name in values and line.type is not dict]
        last += [(line.name, own) for line in lines if line.type is dict for own in values.get(line.name, ())]
        kept = [line for line in kept if values[line.name] is not None or line.default is not None or line.name in explicit]
        if kept:
            tables.append("\n".join((f"[{section}]", *(f"{line.name} = {literal(values[line.name])}" for line in kept))))
    tables += ["\n".join((f"[[{name}]]", *(f"{key} = {literal(value)}" for key, value in own.items()))) for name, own in last]
    return "\n\n".join(tables) + "\n"


def literal(value: Any) -> str:
    """A value as TOML."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(literal, value))}]"
    if value is None:
        return '"none"'
    if isinstance(value, bool | str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    return repr(value)


def read(path: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The values in a TOML file and their locations (`FILE:LINE: name`), by name.

    Raises InputError with file and line.
    """
    return of_text(_text(path), path)


def of_text(text: str, path: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The same of a text; `path` is what its problems name as the file."""
    if len(text) > MAX_BYTES:
        raise InputError(Problem(path, f"has {len(text):,} characters, too many for settings", "give settings alone"))
    if found := DEEP.search(text):
        where = f"{path}:{text.count(chr(10), 0, found.start()) + 1}"
        raise InputError(Problem(where, "nests tables too deeply", "put settings into one table, such as [train]"))
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(toml_faults.not_toml(path, text, error)) from None
    if found := toml_faults.dataset_configuration(path, document):
        raise InputError(found)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    problems = []
    lines = _lines_of_names(text)
    for number, (name, value) in enumerate(_flat(document)):
        if number == MOST_VALUES:
            raise InputError(Problem(path, f"contains more than {MOST_VALUES:,} values", "give a TOML file of settings"))
        where = f"{path}:{lines.get(name, 1)}: {name}"
        if (key := name.replace("-", "_")) in values:
            problems.append(Problem(where, "is given twice", "keep one of the two"))
        values[key], origins[key] = value, where
    if problems:
        raise InputError(problems)
    return values, origins


def _text(path: str) -> str:
    try:
        return read_text(Path(os.path.expanduser(path)), MAX_BYTES)
    except TooLarge as error:
        what, remedy = f"{reason(error)}: too large for settings", "give a TOML file"
    except PermissionError as error:
        what, remedy = f"cannot be read: {reason(error)}", "fix its permissions"
    except OSError:
        raise InputError(toml_faults.no_file(path)) from None
    except NotText as error:
        data = read_bytes(os.path.expanduser(path), MAX_BYTES)
        with suppress(UnicodeDecodeError):
            if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):  # written by PowerShell
                return data.decode("utf-16")
        remedy = "give a TOML file, saved as UTF-8"
        if "image" in str(error):
            remedy = "give a TOML file; give a folder of images as --instance_data_dir or --train_data_dir"
        raise InputError(Problem(f"{path}:{error.line}", str(error), remedy)) from None
    raise InputError(Problem(path, what, remedy))


def _flat(document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The values in all tables, in order."""
    waiting = [iter(document.items())]
    while waiting:
        for name, value in waiting[-1]:
            if isinstance(value, dict):
                waiting.append(iter(value.items()))
                break
            yield name, value
        else:
            waiting.pop()


def _lines_of_names(text: str) -> dict[str, int]:
    """The line on which each name is first set, which tomllib does not report."""
    lines: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if found := ASSIGNMENT.match(line):
            lines.setdefault(found[1], number)
    return lines
