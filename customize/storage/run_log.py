"""log.jsonl: one line of JSON per step. It is appended to, so a kill or a power cut may leave an incomplete line."""

import json
from pathlib import Path


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
