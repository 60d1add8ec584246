"""How strongly learned weights count, as users write it: `PATH`, `PATH:0.8`, or `PATH:0@0,1@0.3`, which changes on the way.

SCALE@AT holds from the part AT of the denoising steps on, until the next one: at step 0, 1, ... of N it is the last one
whose AT * N, rounded down, is not beyond the step (as in prompts that change). So of 10 steps `0@0,1@0.3` leaves the first
three without the weights. torch is not needed here.
"""

import math
import re
from dataclasses import dataclass

LARGEST = 100
LIKE_A_SCHEDULE = re.compile(r"[^/\\]*@[^/\\]*|[-+.\d][^/\\]*,[^/\\]*")
"""What follows the last colon and cannot be the rest of a path (`C:\\me@home\\cat` can)."""


@dataclass(frozen=True)
class Schedule:
    """A scale that changes on the way. pieces: (AT, SCALE) pairs; the first AT is 0, and each is larger than the one before."""

    pieces: tuple[tuple[float, float], ...]

    def __str__(self) -> str:
        return ",".join("@".join(str(number).removesuffix(".0") for number in (scale, at)) for at, scale in self.pieces)


Scale = float | Schedule


def path_and_scale(weights: str) -> tuple[str, Scale]:
    """`PATH[:SCALE]` in two, such as `("cat.safetensors", 0.8)`; the scale is 1 where none is given.

    Raises ValueError, in words that follow the text, for what looks like a schedule and is none.
    """
    path, colon, scale = weights.rpartition(":")
    if not colon:
        return weights, 1.0
    if LIKE_A_SCHEDULE.fullmatch(scale):
        return path, read_schedule(scale)
    try:
        return path, float(scale)
    except ValueError:
        return weights, 1.0


def read_schedule(text: str) -> Schedule:
    """`SCALE@AT,SCALE@AT,...` as a schedule. Raises ValueError, in words that follow the text."""
    pieces = []
    for part in text.split(","):
        try:
            scale, at = map(float, part.split("@"))
        except ValueError:
            raise ValueError(f'has the scale "{part}" where SCALE@AT is needed, as in 0@0,1@0.3') from None
        pieces.append((at, scale))
    starts = [at for at, _ in pieces]
    if starts[0] != 0:
        raise ValueError(f"has no scale for the first steps: begin with SCALE@0, not @{starts[0]}")
    if not all(0 <= at < 1 for at in starts):
        raise ValueError("has a scale at a place that is not a part of the steps, from 0 to below 1")
    if not all(before < after for before, after in zip(starts, starts[1:], strict=False)):
        raise ValueError("has scales that do not come in the order of their places, each place once")
    return Schedule(tuple(pieces))


def fits(scale: Scale) -> bool:
    """Whether all its numbers are from -100 to 100."""
    numbers = [number for _, number in scale.pieces] if isinstance(scale, Schedule) else [scale]
    return all(math.isfinite(number) and abs(number) <= LARGEST for number in numbers)


def times(scale: Scale, factor: float) -> Scale:
    """A scale multiplied."""
    if isinstance(scale, Schedule):
        return Schedule(tuple((at, number * factor) for at, number in scale.pieces))
    return scale * factor


def at(scale: Scale, step: int, steps: int) -> float:
    """What the scale is at step 0, 1, ... of `steps`."""
    if not isinstance(scale, Schedule):
        return scale
    return [number for at, number in scale.pieces if int(at * steps + 1e-9) <= step][-1]
