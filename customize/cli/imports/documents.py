"""Reads a stranger's configuration: TOML, JSON or YAML as plain values, or the command line in a script as words."""

import json
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from customize.errors import InputError, Problem
from customize.printable import printable
from customize.settings.files import toml_faults
from customize.settings.files.toml_file import DEEP, MAX_BYTES
from customize.storage.untrusted_files import NotText, read_text, reason

SCRIPTS = (".sh", ".bash", ".bat", ".cmd", ".ps1", ".txt")
KINDS = (".toml", ".json", ".yaml", ".yml", *SCRIPTS)
MOST_VALUES = 5000
CONTINUED = re.compile(r"[ \t]*[\\^`][ \t]*\r?\n")
ASSIGNED = re.compile(r"^\s*(?:export\s+|set\s+|\$(?:env:)?)?\"?(\w+)\s*=\s*(.*?)\s*$", re.MULTILINE | re.IGNORECASE)
VARIABLE = re.compile(r"\$\{?(?:env:)?(\w+)\}?|%(\w+)%")


def document(path: Path) -> Mapping[str, Any]:
    """The tables of a TOML, JSON or YAML file. Raises InputError."""
    text = text_of(path)
    suffix = path.suffix.lower()
    try:
        if suffix == ".toml":
            if DEEP.search(text):
                raise InputError(Problem(printable(str(path)), "nests tables too deeply", "give a TOML file of settings"))
            found = tomllib.loads(text)
        elif suffix == ".json":
            found = json.loads(text)
        else:
            import yaml

            found = yaml.safe_load(text)
    except InputError:
        raise
    except Exception as error:
        if suffix == ".toml":
            raise InputError(toml_faults.not_toml(printable(str(path)), text, error)) from None
        what = f"is not {suffix[1:].upper()}: {printable((str(error).splitlines() or [type(error).__name__])[0], 100)}"
        raise InputError(Problem(printable(str(path)), what, "give the file as the other program wrote it")) from None
    if not isinstance(found, dict) or sum(1 for _ in zip(range(MOST_VALUES), values_in(found), strict=False)) == MOST_VALUES:
        what = "holds no table of settings" if not isinstance(found, dict) else f"holds more than {MOST_VALUES:,} values"
        raise InputError(Problem(printable(str(path)), what, "give the file of settings of a run"))
    return found


def text_of(path: Path) -> str:
    """The text of a file of settings. Raises InputError."""
    where, remedy = printable(str(path)), f"give a file of settings: {' '.join(KINDS)}"
    try:
        return read_text(path, MAX_BYTES)
    except NotText as error:
        raise InputError(Problem(f"{where}:{error.line}", str(error), remedy)) from None
    except (OSError, ValueError) as error:
        what = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {reason(error)}"
        raise InputError(Problem(where, what, remedy)) from None


def values_in(whole: Any) -> Iterator[Any]:
    """Every value, however deep; a value that several places share counts each time."""
    waiting = [whole]
    while waiting:
        value = waiting.pop()
        yield value
        waiting += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def commands(path: Path) -> Iterator[list[str]]:
    """The words of each command in a script that has flags, with the variables that the script sets in their places."""
    text = CONTINUED.sub(" ", text_of(path))
    assigned = {name: value.strip("\"'") for name, value in ASSIGNED.findall(text)}
    for line in text.splitlines():
        if " --" not in line or line.lstrip().startswith(("#", "::", "rem ", "REM ")):
            continue
        try:
            words = shlex.split(line.replace("\\", "\\\\") if path.suffix.lower() in (".bat", ".cmd", ".ps1") else line)
        except ValueError:
            raise InputError(Problem(printable(f"{path}: {line[:60]}"), "has a quote that is not closed", "close it")) from None
        yield [VARIABLE.sub(lambda found: assigned.get(found[1] or found[2], found[0]), word) for word in words]
