"""Problems of invalid TOML files: the likely mistake instead of the parser's message."""

import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from customize import missing_path
from customize.errors import Problem
from customize.printable import printable
from customize.settings.files.shipped_configs import config_names

EXAMPLE = "settings are lines such as: max_train_steps = 500"
IMPORT = "customize import-config {} reads the file of another trainer"
QUOTES = {
    '"': '"', "'": "'", "`": "`", "\u201c": "\u201d\u201c", "\u201d": "\u201d",
    "\u201e": "\u201c\u201d", "\u2018": "\u2019\u2018",
    "\u2019": "\u2019", "\u201a": "\u2018\u2019", "\u00ab": "\u00bb", "\u00bb": "\u00ab", "\u2039": "\u203a", "\u300c": "\u300d",
    "\uff02": "\uff02",
}  # fmt: skip
"""Opening quote -> the quotes that may close it."""
ESCAPES = re.compile(r'=\s*"[^"]*\\')
CURLY = re.compile("[" + "".join(quote for quote in QUOTES if not quote.isascii()) + "]")
QUOTED = re.compile(r"^\s*([\w-]+)\s*=\s*(.*?)\s*[,;]?\s*$")
MOST = 10_000  # characters of a line that are examined


def not_toml(path: str, text: str, error: Exception) -> Problem:
    """The problem of a text that is not TOML."""
    if isinstance(error, RecursionError):
        return Problem(path, "is not TOML: brackets are nested too deeply", "fix the line; texts need quotes")
    place = re.search(r"\(at line (\d+), column \d+\)", str(error))
    message = str(error).replace(place[0], "").strip() if place else str(error)
    whole = _other_format(text)
    if whole:
        return Problem(path, f"is not TOML: {whole}", f"{EXAMPLE}; {IMPORT.format(printable(path))}")
    lines = text.splitlines()
    number = int(place[1]) if place else _twice(text) if "Cannot overwrite" in message else None
    line = lines[number - 1][:MOST] if number and number <= len(lines) else ""
    what, remedy = _of_line(line, message)
    return Problem(f"{path}:{number}" if number else path, f"is not TOML: {what}", remedy)


def _other_format(text: str) -> str:
    """What a text in another format is; empty if it may be TOML with a mistake."""
    start = text.lstrip()[:MOST]
    if start.startswith("{") or re.match(r"\[\s*\{", start):
        return "it is JSON"
    lines = [line for line in start.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    pairs = sum(bool(re.match(r"\s*(- )?[\w-]+\s*:(\s|$)", line)) or line.strip() in ("---", "...") for line in lines)
    if pairs and pairs * 2 > len(lines) and not any("=" in line.split("#")[0] for line in lines):
        return "it is YAML"
    if lines and sum(line.lstrip().startswith(("--", "python ", "accelerate ", "export ")) for line in lines) * 2 > len(lines):
        return "it is a command"
    return ""


def _of_line(line: str, message: str) -> tuple[str, str]:
    """What is wrong with a line, and the corrected line if it is known."""
    pair = QUOTED.match(line)
    name, value = (pair[1], pair[2]) if pair else ("", "")
    if ESCAPES.search(line):
        slashes = re.sub(r"\\+", "/", re.sub(r'^"|"$', "", value))
        remedy = "use forward slashes or single quotes" + (f": {name} = '{printable(slashes)}'" if name else "")
        return "a backslash in double quotes starts an escape", remedy
    if "Illegal character '\\n'" in message or "Unterminated" in message or message.startswith('Expected "\'"'):
        return "a quote is not closed", "close it on the same line"
    if "Cannot overwrite" in message:
        return f"{printable(name) or 'a name'} is given twice", "keep one of the two"
    if name and CURLY.search(value):
        plain = CURLY.sub("", value).replace('"', "")
        return "the quotes are typographic quotes", f'use plain quotes: {name} = "{printable(plain)}"'
    if name and value in ("True", "False", "Yes", "No", "On", "Off", "yes", "no", "on", "off"):
        return f"{value} is not a TOML value", f"write {name} = {'true' if value.lower() in ('true', 'yes', 'on') else 'false'}"
    if name and value.lower() in ("none", "null", "nil", ""):
        return f"{name} has no value", f'write {name} = "none", or leave the line out'
    if (colon := re.match(r"\s*([\w-]+)\s*:\s*(.+)$", line)) and "=" not in line:
        return "there is a colon instead of =", f"write {colon[1]} = {printable(colon[2])}"
    if name and re.fullmatch(r"[-+]?[\d.][\d.,]*", value):
        return f"{value} is not a TOML number", f"write {name} = {_number(value)}"
    if name and line.rstrip()[-1:] in (",", ";") and not value.startswith(("[", "{")):
        return f"the line ends with {line.rstrip()[-1]}", f"remove it: {name} = {printable(value)}"
    if name and re.match(r"[^\"'\[{\d]", value):
        quote = '"' if not set(value) & set('"\\') else "'"
        return message, f"texts need quotes: {name} = {quote}{printable(value)}{quote}"
    return message, "fix the line; texts need quotes"


def _number(value: str) -> str:
    plain = value.replace(",", ".") if value.count(",") == 1 and "." not in value else value.replace(",", "")
    plain = f"0{plain}" if plain.startswith(".") else f"{plain}0" if plain.endswith(".") else plain
    return re.sub(r"^([-+]?)0+(?=\d)", r"\1", plain)


def _twice(text: str) -> int | None:
    """The line on which a name is given for the second time in its table, otherwise None."""
    seen: set[str] = set()
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("["):
            seen = set()
        if pair := QUOTED.match(line[:MOST]):
            if pair[1] in seen:
                return number
            seen.add(pair[1])
    return None


def no_file(path: str) -> Problem:
    """The problem of a CONFIG.toml that does not exist or is a folder."""
    folder = Path(os.path.expanduser(path))
    otherwise = f"give a TOML file, or an included configuration: {', '.join(config_names())}"
    if folder.is_dir():
        inside = [name for name in missing_path.names(folder) if name.lower().endswith(".toml")]
        remedy = f"did you mean {printable(os.path.join(path, inside[0]))}?" if len(inside) == 1 else otherwise
        return Problem(path, "is a folder, not a file", remedy)
    ours = get_close_matches(folder.stem, config_names(), 1, 0.7)
    otherwise = f"did you mean {ours[0]}? (an included configuration)" if ours else otherwise
    return Problem(path, "does not exist", missing_path.remedy_for_missing(path, otherwise))


def dataset_configuration(path: str, values: dict[str, Any]) -> Problem | None:
    """The problem of a dataset configuration of sd-scripts, which does not describe a run; otherwise None."""
    sets = values.get("datasets")
    if not (isinstance(sets, list) and sets and all(isinstance(each, dict) for each in sets)):
        return None
    subsets = [subset for each in sets for subset in each.get("subsets", ()) if isinstance(subset, dict)]
    folders = [subset["image_dir"] for subset in subsets if isinstance(subset.get("image_dir"), str)]
    remedy = f"give the folder: --instance_data_dir {printable(folders[0])}" if folders else "give the folder of images"
    what = "is a dataset configuration of sd-scripts and does not describe a run"
    return Problem(path, what, f"{remedy}; {IMPORT.format(printable(path))}")
