"""What follows from the runs of a comparison: a table, and which way of training is best. torch is not imported.

The score of a picture is that by which a run chooses its weights: the geometric mean of likeness and obedience.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from customize import units
from customize.evaluation import statistics
from customize.evaluation.choice import scores, within_limits
from customize.evaluation.record import Candidate, Evaluation
from customize.evaluation.statistics import Interval

MEASURES = ("likeness", "obedience", "drift")
HEADINGS = ("method", "rate", "seed", "steps", "verdict", *MEASURES, "time", "size")
Place = tuple[int, int]
"""A picture of the concept: the place of its prompt among those of the concept, which all runs share, and its seed."""


@dataclass(frozen=True)
class Result:
    """One run. way: method and learning rate, which its other seeds share; evaluation: None where there is none; steps, seconds:
    of its training; size: of its learned weights in bytes; failed: why it has no result."""

    way: str
    method: str
    rate: float
    seed: int
    evaluation: Evaluation | None = None
    steps: int | None = None
    seconds: float | None = None
    size: int | None = None
    failed: str = ""

    @property
    def chosen(self) -> Candidate | None:
        """The measurements of the weights that are the result."""
        found = self.evaluation
        return found.candidate(found.chosen) if found and found.chosen is not None else None

    def score_of(self) -> dict[Place, float]:
        """The score of each picture of the concept."""
        if not self.evaluation or not (chosen := self.chosen) or "likeness" not in chosen.values:
            return {}
        return dict(zip(places(self.evaluation), scores(chosen).tolist(), strict=True))


def places(evaluation: Evaluation) -> list[Place]:
    """The place of each picture of the concept, in the order of its numbers."""
    own = [number for number, prompt in enumerate(evaluation.prompts) if prompt.kind == "concept"]
    return [(own.index(pair.prompt), pair.seed) for pair in evaluation.pairs_of("likeness")]


def cells(result: Result) -> list[str]:
    """The row of a run."""
    evaluation, chosen = result.evaluation, result.chosen
    verdict = "failed" if result.failed else "not measured"
    steps = result.steps if chosen is None else chosen.step
    if evaluation:
        verdict = ", ".join((evaluation.verdict.word, *evaluation.verdict.findings)) if evaluation.verdict else verdict
    measured = [str(statistics.number_of(evaluation, chosen, name) or "") if evaluation and chosen else "" for name in MEASURES]
    time = units.duration(result.seconds) if result.seconds else ""
    return [
        result.method, f"{result.rate:g}", str(result.seed), "" if steps is None else f"{steps:,}", verdict, *measured, time,
        units.size(result.size) if result.size is not None else "",
    ]  # fmt: skip


def markdown(results: Sequence[Result]) -> str:
    """The table of all runs; its columns are aligned, so that it can be read as text too."""
    rows = [list(HEADINGS), *map(cells, results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


class Way(NamedTuple):
    """A method at a learning rate, with the scores of each picture, by training seed and place."""

    name: str
    seeds: tuple[int, ...]
    scores: dict[tuple[int, Place], float]
    fits: bool

    @property
    def mean(self) -> float:
        """The mean score."""
        return sum(self.scores.values()) / len(self.scores)


def ways(results: Sequence[Result]) -> list[Way]:
    """The ways that were measured with every seed. fits: none of its runs drifted or copied beyond the limits."""
    found = []
    for name, group in groupby(results, key=lambda result: result.way):
        runs = list(group)
        scored = {(run.seed, place): score for run in runs for place, score in run.score_of().items()}
        if scored and all(run.score_of() for run in runs):
            fits = all(within_limits(run.chosen) for run in runs if run.chosen)
            found.append(Way(name, tuple(run.seed for run in runs), scored, fits))
    return found


def conclusion(results: Sequence[Result]) -> list[str]:
    """Which way is best, and how the others differ from it, in sentences; by paired differences of the same prompts and seeds."""
    measured = ways(results)
    if not measured:
        return ["cannot tell which is best: no run was measured"]
    if len(scorers := {result.evaluation.scorer for result in results if result.evaluation}) > 1:
        return [f"cannot tell which is best: the runs were measured by different scorers: {', '.join(sorted(scorers))}"]
    best = max([way for way in measured if way.fits] or measured, key=lambda way: way.mean)
    others = [way for way in measured if way is not best]
    compared = {way.name: apart(best, way) for way in others}
    alike = [way.name for way in others if way.fits and not compared[way.name].low > 0]
    first = f"best for these photos: {best.name}, score {score_of(best)}"
    if alike:
        first = f"cannot be told apart from the best, {best.name} with score {score_of(best)}: {', '.join(alike)}"
    lines = [first, *("  " + line for line in told(best, others, compared))]
    if missing := sorted({result.way for result in results} - {way.name for way in measured}):
        lines.append(f"not compared, since not all of their runs were measured: {', '.join(missing)}")
    lines += several_classes(results)
    if len(best.seeds) == 1:
        lines.append("one training seed each: another seed may change the order; --seeds 3 shows how much")
    return lines


def told(best: Way, others: Sequence[Way], compared: Mapping[str, Interval]) -> Iterator[str]:
    """A line for each other way."""
    for way in sorted(others, key=lambda way: -way.mean):
        beyond = "" if way.fits else "; it drifts or copies too much"
        yield f"{way.name}: score {score_of(way)}; the best is higher by {compared[way.name]}{beyond}"


def several_classes(results: Sequence[Result]) -> Iterator[str]:
    """A line where the ways call the class by different words: 0 of their likeness is another picture of the base model then."""
    words: dict[str, dict[str, None]] = {}
    for result in results:
        if result.evaluation:
            words.setdefault(result.evaluation.class_word, {})[result.way] = None
    if len(words) > 1:
        told = "; ".join(f"of {word or 'a style'}: {', '.join(own)}" for word, own in words.items())
        yield f"likeness counts from different pictures of the base model, so compare the pictures too: {told}"


def score_of(way: Way) -> str:
    """The mean score with its interval over prompts."""
    return str(statistics.interval([*way.scores.values()], [place[0] for _, place in way.scores]).within(0, 1))


def apart(best: Way, other: Way) -> Interval:
    """By how much the scores of one way are higher than those of another, of the same training seeds, prompts and seeds.

    The interval is the wider of two: one speaks of other prompts, the other, with several training seeds, of other training
    seeds, which change a result as much.
    """
    shared = [key for key in best.scores if key in other.scores]
    values = [best.scores[key] - other.scores[key] for key in shared]
    if not values:
        return Interval(best.mean - other.mean, float("-inf"), float("inf"))
    of_prompts = statistics.interval(values, [place[0] for _, place in shared])
    if len({seed for seed, _ in shared}) == 1:
        return of_prompts
    of_seeds = statistics.interval(values, [seed for seed, _ in shared])
    return max(of_prompts, of_seeds, key=lambda interval: interval.high - interval.low)
