"""log.jsonl: one line of JSON per step. It is appended to, so a kill or a power cut may leave an incomplete line."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_log(path: Path) -> list[tuple[int | None, bytes]]:
    """The lines of a log with their steps; the step of an incomplete line is None. Empty if there is no log."""
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    return [(step_of(line), line) for line in lines if line]


def step_of(line: bytes) -> int | None:
    """The step of a line."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return step if isinstance(step, int) else None


def numbers_of(entry: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line of log.jsonl by name, those of a group as `GROUP/NAME`; of several numbers the mean."""
    found = {}
    for name, value in entry.items():
        if isinstance(value, Mapping):
            found |= {f"{name}/{key}": number for key, number in numbers_of(value).items()}
        elif isinstance(value, list | tuple) and value:
            found[name] = sum(value) / len(value)
        elif isinstance(value, int | float) and name != "step":
            found[name] = value
    return found
