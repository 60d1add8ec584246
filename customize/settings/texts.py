"""Validation of texts by kind: a line, a prompt, a path, a new word."""

import os
import re
import unicodedata
from typing import Literal

from customize.settings.scale import LARGEST, fits, path_and_scale
from customize.storage.untrusted_files import PICKLES

LARGEST_FACTOR = 1000
"""Of a learning rate, in `factors`."""
Kind = Literal["line", "any", "prompt", "path", "placeholder", "weights", "model", "modules", "ranks", "factors"]
PATHS = ("path", "weights", "model")
"""Kinds of texts that name a file or folder; ~ is expanded to the user's home."""


def text_fault(kind: Kind, value: str) -> str | None:
    """What is wrong with a text; None when nothing is."""
    if kind in ("any", "prompt"):  # line breaks and tabs count as blanks
        value = re.sub(r"[\r\n\t]", " ", value)
    if any(unicodedata.category(character) == "Cc" for character in value):
        return "contains a control character (a line break, a tab, ...)"
    if any(unicodedata.category(character) == "Cs" for character in value):
        return "contains bytes that are not UTF-8"
    if kind == "any":
        return None
    if not value.strip():
        return "is empty"
    if kind in PATHS and any(len(os.fsencode(part)) > 255 for part in re.split(r"[/\\]", value)):
        return "contains a name of more than 255 bytes"
    if kind in PATHS and len(os.fsencode(value)) > 4000:
        return "is longer than 4,000 bytes"
    faults = {"placeholder": _placeholder_fault, "weights": _weights_fault, "model": _pickle_fault}
    if kind == "modules":
        return None if re.fullmatch(r"[\w.*-]+", value) else "is not a group of modules or the name of a module"
    if kind == "ranks":
        return (
            None if re.fullmatch(r"[\w.*-]+=[1-9]\d{0,3}", value) else "is not PART=RANK, such as convolutions=8 or mid_block=4"
        )
    if kind == "factors":
        number = re.fullmatch(r"[\w.*-]+=([0-9]{1,4}(?:\.[0-9]{1,9})?)", value)
        fault = f"is not PART=FACTOR with a factor from 0 to {LARGEST_FACTOR}, such as mid_block=0.5"
        return None if number and float(number[1]) <= LARGEST_FACTOR else fault
    return faults[kind](value) if kind in faults else None


def model_and_assignments(text: str) -> list[str]:
    """The parts of `MODEL,name=value,name=value`; a comma inside a value stays."""
    return [part.strip() for part in re.split(r",\s*(?=[A-Za-z_-]+=)", text)]


def _placeholder_fault(value: str) -> str | None:
    if any(character.isspace() or not character.isprintable() for character in value):
        return "is not one token: it contains a blank or an invisible character"
    if "/" in value or "\\" in value or not value.strip("."):
        return "looks like a path"
    if "," in value or ";" in value:
        return "contains a comma: separate several words by blanks"
    return "is longer than 64 characters" if len(value) > 64 else None


def _pickle_fault(value: str) -> str | None:
    if value.lower().endswith(PICKLES):
        return "is a pickle, which can run arbitrary code when opened: convert it to .safetensors"
    return None


def _weights_fault(value: str) -> str | None:
    try:
        path, scale = path_and_scale(value)
    except ValueError as error:
        return str(error)
    if not path.strip():
        return "names no file"
    if not fits(scale):
        return f"has a scale that is not a number from -{LARGEST} to {LARGEST}"
    return _pickle_fault(path)
