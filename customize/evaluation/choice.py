"""Which of the candidates is the result, and whether more steps would help. torch is not imported."""

from collections.abc import Sequence

import numpy as np

from customize.evaluation.record import BASE, Candidate, Evaluation
from customize.evaluation.statistics import mean_and_error

LIMITS = {"drift": 0.75, "copying": 0.45}
"""Means above which a candidate is chosen only if no other learned enough."""
ENOUGH = 2 / 3
"""The share of the best score that is enough for a candidate to be taken before better ones beyond the limits."""
TIE = 0.05
"""The largest loss of the score that counts as none: with few pictures a standard error may be larger."""
GAIN = 0.03
"""The gain of the score from which a run goes on."""
REACHED = 0.3
"""The score below which a run does not stop by itself: it may not have begun to learn."""


def scores(candidate: Candidate) -> np.ndarray:
    """The score of each pair: the geometric mean of likeness and obedience, each in 0..1; without obedience the likeness."""
    likeness = np.clip(candidate.values["likeness"], 0, 1)
    obeys = np.clip(candidate.values.get("obedience", np.ones_like(likeness)), 0, 1)
    return np.sqrt(likeness * obeys)


def trained(evaluation: Evaluation) -> list[Candidate]:
    """The candidates with pictures at full scale after the start, by step."""
    return [each for each in evaluation.candidates if each.step != BASE and each.scale == 1 and "likeness" in each.values]


def within_limits(candidate: Candidate) -> bool:
    """Whether a candidate neither drifted nor copies too much."""
    return all(np.mean(candidate.values[name]) <= most for name, most in LIMITS.items() if name in candidate.values)


def choose(evaluation: Evaluation) -> int | None:
    """The step of the best candidate: of those within limits (of all if none of them learned enough), the earliest whose score is
    within one standard error of the best one's, by paired differences. None without candidates that have pictures."""
    found = trained(evaluation)
    if not found:
        return None
    enough = ENOUGH * max(scores(each).mean() for each in found)
    candidates = [each for each in found if within_limits(each) and scores(each).mean() >= enough] or found
    best = max(candidates, key=lambda each: scores(each).mean())
    return next(each.step for each in candidates if as_good(evaluation, each, best))


def as_good(evaluation: Evaluation, one: Candidate, best: Candidate) -> bool:
    """Whether the score of one is within one standard error of that of the best, by paired differences, and within `TIE`."""
    prompts = [pair.prompt for pair in evaluation.pairs_of("likeness")]
    lost, error, freedom = mean_and_error((scores(best) - scores(one)).tolist(), prompts)
    return lost <= min(error if freedom else 0.0, TIE)


def done(evaluation: Evaluation) -> str | None:
    """Why a run may stop now: its last candidate gained hardly anything over an earlier one. None if it should go on."""
    *earlier, last = trained(evaluation) or [None]
    if last is None or not earlier:
        return None
    best = max(earlier, key=lambda each: scores(each).mean())
    if scores(best).mean() < REACHED or scores(last).mean() > scores(best).mean() + GAIN:
        return None
    return f"no gain since step {best.step:,}"


def spread_over(steps: int, number: int) -> Sequence[int]:
    """`number` steps at equal distances, of which the last is `steps`; without duplicates."""
    return sorted({max(1, round(steps * place / number)) for place in range(1, number + 1)})
