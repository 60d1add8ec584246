"""Scales of learned weights, as users write them: `PATH`, `PATH:0.8`, or `PATH:0@0,1@0.3`, which changes during denoising.

`PATH:0.8:0.5` gives the UNet the first scale and the text encoder the second; learned words use the second.

SCALE@AT applies from the fraction AT of the denoising steps until the next one: at step 0, 1, ... of N the scale is the
last one whose AT * N, rounded down, is at most the step (as in scheduled prompts). With 10 steps, `0@0,1@0.3` runs the
first three without the weights. No torch.
"""

import math
import re
from dataclasses import dataclass

LARGEST = 100
LIKE_A_SCHEDULE = re.compile(r"[^/\\]*@[^/\\]*|[-+.\d][^/\\]*,[^/\\]*")
"""Text after the last colon that cannot be the rest of a path (`C:\\me@home\\cat` can)."""


@dataclass(frozen=True)
class Schedule:
    """A scale that changes during denoising. pieces: (AT, SCALE) pairs; the first AT is 0, and AT increases."""

    pieces: tuple[tuple[float, float], ...]

    def __str__(self) -> str:
        return ",".join("@".join(str(number).removesuffix(".0") for number in (scale, at)) for at, scale in self.pieces)


@dataclass(frozen=True)
class Apart:
    """Separate scales for the UNet and the text encoder."""

    unet: float | Schedule
    text_encoder: float | Schedule

    def __str__(self) -> str:
        return f"{self.unet}:{self.text_encoder}"


Scale = float | Schedule | Apart
Now = float | tuple[float, float]
"""A scale at one step: of the UNet and of the text encoder, or one for both."""


def path_and_scale(weights: str) -> tuple[str, Scale]:
    """Split `PATH[:SCALE[:SCALE]]`, for example into `("cat.safetensors", 0.8)`; the default scale is 1.

    Raises ValueError, with a message that continues the quoted text, for an invalid schedule.
    """
    path, last = path_and_one(weights)
    if last is None:
        return weights, 1.0
    before, first = path_and_one(path)
    return (path, last) if first is None or not before else (before, Apart(first, last))


def path_and_one(weights: str) -> tuple[str, float | Schedule | None]:
    """Split a text at the last colon if a scale follows it. Raises ValueError like `path_and_scale`."""
    path, colon, scale = weights.rpartition(":")
    if not colon:
        return weights, None
    if LIKE_A_SCHEDULE.fullmatch(scale):
        return path, read_schedule(scale)
    try:
        return path, float(scale)
    except ValueError:
        return weights, None


def read_scale(text: str) -> Scale:
    """Parse a scale that is more than a number. Raises ValueError, with a message that continues the quoted text."""
    first, colon, second = text.partition(":")
    return (
        Apart(*(read_schedule(each) if "@" in each else float(each) for each in (first, second)))
        if colon
        else read_schedule(text)
    )


def read_schedule(text: str) -> Schedule:
    """Parse `SCALE@AT,SCALE@AT,...`. Raises ValueError, with a message that continues the quoted text."""
    pieces = []
    for part in text.split(","):
        try:
            scale, at = map(float, part.split("@"))
        except ValueError:
            raise ValueError(f'has the scale "{part}" instead of SCALE@AT, as in 0@0,1@0.3') from None
        pieces.append((at, scale))
    starts = [at for at, _ in pieces]
    if starts[0] != 0:
        raise ValueError(f"has no scale for the first steps: start with SCALE@0, not @{starts[0]}")
    if not all(0 <= at < 1 for at in starts):
        raise ValueError("has an AT outside the range from 0 to below 1 (a fraction of the steps)")
    if not all(before < after for before, after in zip(starts, starts[1:], strict=False)):
        raise ValueError("has scales whose AT values do not increase")
    return Schedule(tuple(pieces))


def fits(scale: Scale) -> bool:
    """Whether all its numbers are from -100 to 100."""
    if isinstance(scale, Apart):
        return fits(scale.unet) and fits(scale.text_encoder)
    numbers = [number for _, number in scale.pieces] if isinstance(scale, Schedule) else [scale]
    return all(math.isfinite(number) and abs(number) <= LARGEST for number in numbers)


def times(scale: Scale, factor: float) -> Scale:
    """A scale multiplied by a factor."""
    if isinstance(scale, Apart):
        return Apart(*(one_times(each, factor) for each in (scale.unet, scale.text_encoder)))
    return one_times(scale, factor)


def one_times(scale: float | Schedule, factor: float) -> float | Schedule:
    """The scale of one network multiplied by a factor."""
    if isinstance(scale, Schedule):
        return Schedule(tuple((at, number * factor) for at, number in scale.pieces))
    return scale * factor


def at(scale: Scale, step: int, steps: int) -> Now:
    """The scale at step 0, 1, ... of `steps`."""
    if isinstance(scale, Apart):
        return one_at(scale.unet, step, steps), one_at(scale.text_encoder, step, steps)
    return one_at(scale, step, steps)


def one_at(scale: float | Schedule, step: int, steps: int) -> float:
    """The scale of one network at step 0, 1, ... of `steps`."""
    if not isinstance(scale, Schedule):
        return scale
    return [number for at, number in scale.pieces if int(at * steps + 1e-9) <= step][-1]


def changes(scale: Scale) -> bool:
    """Whether the scale changes during denoising."""
    return any(
        isinstance(each, Schedule) for each in ((scale.unet, scale.text_encoder) if isinstance(scale, Apart) else (scale,))
    )


def apart(now: Now) -> tuple[float, float]:
    """The scale of the UNet and that of the text encoder."""
    return now if isinstance(now, tuple) else (now, now)
