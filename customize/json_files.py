"""JSON that others wrote: an object or a ValueError, whatever the bytes."""

import json
from pathlib import Path
from typing import Any


def json_object(text: str) -> dict[str, Any]:
    """The object that a text is. Raises ValueError, with the cause, for everything else."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("brackets within brackets without end") from None
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")
    return value


def read_object(path: Path) -> dict[str, Any]:
    """The object in a file. Raises OSError where it cannot be read, ValueError where it holds something else."""
    return json_object(path.read_text(encoding="utf-8"))
