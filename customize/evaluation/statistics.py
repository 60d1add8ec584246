"""How certain a mean over pictures is: 90 % intervals, paired differences, and comparisons in words. Without torch.

Pictures of one prompt are alike, so the prompts are the sample: y[p, s] = mean + effect of prompt p + effect of seed s in it.
The interval is Student's, of the means of the prompts: for P prompts with equally many pictures, half its width is
t(P - 1) * standard deviation of the P means / sqrt(P). This covers for any share of the variance that prompts have, and assumes
that the means are about normal. It speaks of other prompts and seeds of the same kind, with the same training images.
A bootstrap over so few prompts is too narrow: with 4 prompts of 4 seeds, prompts with half of the seeds' variance, its 90 %
interval contained the true mean in 84 % of cases, with twice their variance in 78 %; this one in 90 and 89 %
(`benchmarks/interval_coverage.py`). With skewed numbers this one has 85 to 88 %.
"""

import math
from collections.abc import Hashable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from customize.evaluation.record import MEASURES, Candidate, Evaluation

LEVEL = 0.9
"""The share of intervals that contain the true mean."""
Outcome = Literal["better", "not distinguishable", "worse"]


class Interval(NamedTuple):
    """A mean and its 90 % interval, infinite if there is a single number."""

    value: float
    low: float
    high: float

    def within(self, least: float, most: float) -> "Interval":
        """The part of it between these limits, which no number of its kind can pass; that of a single number stays infinite."""
        return self if math.isinf(self.low) else self._replace(low=max(self.low, least), high=min(self.high, most))

    def __str__(self) -> str:
        """Such as "0.82 (0.74 to 0.88)"."""
        if math.isinf(self.low):
            return f"{two_decimals(self.value)} (a single picture)"
        return f"{two_decimals(self.value)} ({two_decimals(self.low)} to {two_decimals(self.high)})"


def interval(values: Sequence[float], groups: Sequence[Hashable]) -> Interval:
    """The mean of numbers with its interval. groups: the prompt of each; if all are of one, the interval speaks of other seeds of
    that prompt only. Numbers that are all equal have an interval without width, however few they are."""
    from scipy.special import stdtrit  # takes a second

    mean, error, freedom = mean_and_error(values, groups)
    reach = float(stdtrit(freedom, (1 + LEVEL) / 2)) * error if freedom else math.inf
    return Interval(mean, mean - reach, mean + reach)


def number_of(evaluation: Evaluation, candidate: Candidate, measure: str) -> Interval | None:
    """The mean of a measure of a candidate with its interval, within the limits of the measure; None if it was not measured."""
    pairs = zip(candidate.values.get(measure, ()), evaluation.pairs_of(measure), strict=False)
    known = [(value, pair.prompt) for value, pair in pairs if math.isfinite(value)]
    return interval(*zip(*known, strict=True)).within(MEASURES[measure].least, MEASURES[measure].most) if known else None


def difference(values: Sequence[float], others: Sequence[float], groups: Sequence[Hashable]) -> Interval:
    """The mean of values - others, number by number: both are of the same pairs of prompt and seed, in the same order."""
    return interval(np.subtract(values, others).tolist(), groups)


def compare(
    values: Sequence[float], others: Sequence[float], groups: Sequence[Hashable], better: Literal["high", "low"]
) -> Outcome:
    """Whether values are better than others, pair by pair: the interval of their difference is on one side of 0."""
    low, high = difference(values, others, groups)[1:]
    if low <= 0 <= high:
        return "not distinguishable"
    return "better" if (low > 0) == (better == "high") else "worse"


def mean_and_error(values: Sequence[float], groups: Sequence[Hashable]) -> tuple[float, float, int]:
    """The mean of numbers, its standard error, and the degrees of freedom of that, 0 for a single number.

    Prompts count by their share w of the numbers: the error is sqrt(P / (P - 1) * sum of (w * (mean of prompt - mean))^2)
    (Cameron & Miller 2015, "A Practitioner's Guide to Cluster-Robust Inference", section II).
    """
    numbers = np.asarray(values, dtype=float)
    names = list(dict.fromkeys(groups))
    if len(names) == 1:
        groups, names = range(len(numbers)), list(range(len(numbers)))
    places = {name: place for place, name in enumerate(names)}
    index = [places[group] for group in groups]
    deviations = np.bincount(index, numbers - numbers.mean()) / len(numbers)
    freedom = len(names) - 1
    error = math.sqrt((freedom + 1) / freedom * (deviations**2).sum()) if freedom else math.inf
    return float(numbers.mean()), error, freedom


def two_decimals(number: float) -> str:
    """A number with two decimals, without a minus before zero."""
    return f"{round(number, 2) + 0.0:.2f}"
