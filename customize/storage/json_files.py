"""Reads untrusted JSON: an object, or a ValueError."""

import json
from pathlib import Path
from typing import Any

from customize.storage.untrusted_files import MIB, kind_of, read_text


def json_object(text: str) -> dict[str, Any]:
    """Parse a JSON object. Raises ValueError, with the cause, for anything else."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("brackets are nested too deeply") from None
    except ValueError:
        if kind := kind_of(text[:512].encode(errors="replace")):
            raise ValueError(f"is {kind}") from None
        raise
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    return value


def read_object(path: Path, most: int = MIB) -> dict[str, Any]:
    """The JSON object in a file of at most `most` bytes. Raises OSError if it cannot be read, ValueError for other content."""
    return json_object(read_text(path, most))
