"""JSON that others wrote: an object or a ValueError, whatever the bytes."""

import json
from pathlib import Path
from typing import Any

from customize.storage.untrusted_files import MIB, kind_of, read_text


def json_object(text: str) -> dict[str, Any]:
    """The object that a text is. Raises ValueError, with the cause, for everything else."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("brackets within brackets without end") from None
    except ValueError:
        if kind := kind_of(text[:512].encode(errors="replace")):
            raise ValueError(f"is {kind}") from None
        raise
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")
    return value


def read_object(path: Path, most: int = MIB) -> dict[str, Any]:
    """The object in a file of at most `most` bytes. Raises OSError where it cannot be read, ValueError where it holds something
    else."""
    return json_object(read_text(path, most))
