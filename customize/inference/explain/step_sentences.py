"""What happens in each step of a trace, in plain sentences that state measured numbers only. No torch."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

NUMBERS = ("alpha", "sigma", "clean_norm", "noise_norm", "guidance_norm", "clean_change")


def sentences(rows: Sequence[Mapping[str, Any]], guidance_scale: object = None) -> list[str]:
    """One text for each evaluation of an image. rows: its lines of trace.jsonl, of which older ones lack `clean_change`.

    guidance_scale: of the image, where it is known. What is not a finite number, of it or of a row, is not mentioned.
    """
    numbers = [{name: number for name in NUMBERS if (number := _finite(row.get(name))) is not None} for row in rows]
    changes = [_ratio(each, "clean_change", "clean_norm") for each in numbers]
    known = [change for change in changes if change is not None]
    texts = []
    for at, (each, change) in enumerate(zip(numbers, changes, strict=True)):
        parts = [
            _noise(each),
            _change(change, bool(known) and change == max(known), at),
            _guidance(each, _finite(guidance_scale)),
        ]
        texts.append(" ".join(filter(None, parts)))
    return texts


def _noise(numbers: Mapping[str, float]) -> str:
    """The part of the noise in what the network is given, as a part of the variance."""
    if not {"alpha", "sigma"} <= numbers.keys() or not (numbers["alpha"] or numbers["sigma"]):
        return ""
    part = numbers["sigma"] ** 2 / (numbers["alpha"] ** 2 + numbers["sigma"] ** 2)
    return f"Of what the network is given, {_percent(part)} is noise."


def _change(change: float | None, is_largest: bool, at: int) -> str:
    if change is None:
        return "Here it makes its first guess of the image." if at == 0 else ""
    most = ", the most of all steps" if is_largest else ""
    return f"Its guess of the image changes by {_percent(change)} of its size{most}."


def _guidance(numbers: Mapping[str, float], scale: float | None) -> str:
    """How far the prompt moves the predicted noise, before guidance multiplies that."""
    part = _ratio(numbers, "guidance_norm", "noise_norm")
    if part is None:
        return ""
    times = "" if scale is None else f", and guidance takes this {scale:g} times"
    return f"The prompt shifts the predicted noise by {_percent(part)} of its size{times}."


def _ratio(numbers: Mapping[str, float], above: str, below: str) -> float | None:
    return numbers[above] / numbers[below] if above in numbers and numbers.get(below) else None


def _percent(part: float) -> str:
    percent = 100 * part
    return "less than 1 %" if 0 < percent < 0.5 else f"{percent:.0f} %"


def _finite(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None
