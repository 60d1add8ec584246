"""A learning-rate range test: the loss on fixed samples while the rate rises, and the rate that follows from it. Without torch.

Smith 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.3. The suggestion is a tenth of the rate at which
the loss rises. That of new words rises at no rate, since text encoders normalize their vectors: where it only becomes flat, the
suggestion is the rate of the steepest fall, as in fastai's `lr_find`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log10
from typing import Literal, NamedTuple

RISE = 0.5
"""The loss has risen clearly when it is above its minimum by this part of its fall."""
FLAT, DECADES = 0.05, 1.0
"""It has become flat when these last powers of ten of the rate brought less than this part of its fall."""
FALL = 0.01
"""Below this fall, relative to the first loss, nothing follows from it."""
WINDOW = 5
"""Measurements over which a slope is measured."""


class Point(NamedTuple):
    """A measurement. factor: of the settings' learning rates; loss: mean over the fixed samples after a step at this rate."""

    factor: float
    loss: float


@dataclass(frozen=True)
class Curve:
    """What was measured. before: the loss before the first step; points: in rising order; ended: why there are no more."""

    before: float
    points: tuple[Point, ...] = ()
    ended: Literal["", "risen", "flat", "diverged", "interrupted"] = ""

    @property
    def lowest(self) -> float:
        """The lowest loss."""
        return min(self.before, *(point.loss for point in self.points)) if self.points else self.before

    @property
    def fall(self) -> float:
        """How far the loss fell below the one before the first step."""
        return self.before - self.lowest


class Suggestion(NamedTuple):
    """factor: of the settings' learning rates, None where nothing follows from the curve; reason: a sentence."""

    factor: float | None
    reason: str


def end_of(curve: Curve) -> Literal["", "risen", "flat"]:
    """Why the test may end after these measurements; empty if it may not."""
    last = curve.points[-1]
    if last.loss > curve.lowest + RISE * max(curve.fall, FALL * curve.before) + FALL * curve.before:
        return "risen"
    earlier = Curve(curve.before, tuple(each for each in curve.points if each.factor <= last.factor / 10**DECADES))
    is_flat = curve.fall > FALL * curve.before and earlier.lowest - curve.lowest < FLAT * curve.fall
    return "flat" if is_flat else ""


def suggestion(curve: Curve) -> Suggestion:
    """A tenth of the rate at which the loss rises; without a rise, the rate at which it falls most steeply."""
    if len(curve.points) < WINDOW:
        return Suggestion(None, "too little was measured")
    if curve.fall < FALL * curve.before:
        what = "the loss does not fall at any of these rates"
        return Suggestion(None, f"{what}: measure again with another --learning_rate, or look at images and captions")
    if curve.ended in ("risen", "diverged"):
        tenth = curve.points[-1].factor / 10
        if tenth < curve.points[0].factor:
            return Suggestion(None, "the loss rises near the lowest rate: measure again with a lower --learning_rate")
        return Suggestion(tenth, "a tenth of the rate at which the loss rises")
    return steepest(curve.points)


def steepest(points: Sequence[Point]) -> Suggestion:
    """The rate at which the loss falls most steeply over the logarithm of the rate."""
    half = WINDOW // 2
    places = range(half, len(points) - half)
    found = min(places, key=lambda place: slope(points[place - half : place + half + 1]))
    if found == places[-1]:
        return Suggestion(None, "the loss still falls at the highest rate: measure again with a higher --learning_rate")
    if found == places[0]:
        return Suggestion(None, "the loss falls most steeply at the lowest rate: measure again with a lower --learning_rate")
    return Suggestion(points[found].factor, "where the loss falls most steeply while the rate rises")


def slope(points: Sequence[Point]) -> float:
    """The slope of the least-squares line of the loss over log10 of the rate."""
    x, y = [log10(point.factor) for point in points], [point.loss for point in points]
    middle = sum(x) / len(x)
    return sum((a - middle) * b for a, b in zip(x, y, strict=True)) / sum((a - middle) ** 2 for a in x)
