"""What a run says of its evaluation: the last lines, and the section of the model card."""

from collections.abc import Iterator
from pathlib import Path

from customize.evaluation.record import MEASURES, Candidate, Evaluation
from customize.evaluation.statistics import Interval, number_of
from customize.inference.run.base_summary import Rows
from customize.printable import markdown, printable


def sentence(evaluation: Evaluation) -> str:
    """The verdict: its word, what else was found, and why."""
    verdict = evaluation.verdict
    if verdict is None:
        return ""
    words = "; ".join([verdict.word, *verdict.findings])
    return f"{words}: {'; '.join(verdict.reasons)}" if verdict.reasons else words


def rows(evaluation: Evaluation | None, folder: Path) -> Rows:
    """The rows of the last lines: the verdict, what to do next, and which weights are the result. None without measurements."""
    if evaluation is None:
        return
    yield "verdict", printable(sentence(evaluation))
    for advice in evaluation.verdict.advice if evaluation.verdict else ():
        yield "advice", printable(advice)
    last = max((each.step for each in evaluation.candidates), default=0)
    if evaluation.chosen is not None and evaluation.chosen < last:
        others = f"those of the last step: --weights {folder}@{last}"
        yield "result", printable(f"the weights of step {evaluation.chosen:,}, the best of those measured; {others}")


def card(evaluation: Evaluation | None) -> Iterator[str]:
    """The lines of the model card: the verdict and its numbers."""
    chosen = evaluation.candidate(evaluation.chosen) if evaluation and evaluation.chosen is not None else None
    if evaluation is None or chosen is None:
        return
    drawn = f" {evaluation.scorer}; {len(evaluation.pairs)} pictures." if chosen.values else ""
    yield "## Evaluation"
    yield ""
    yield markdown(f"{sentence(evaluation)}.{drawn}")
    for each in evaluation.each() if chosen.values else ():
        yield ""
        if evaluation.concepts:
            yield from (f"### {markdown(each.trigger)}", "")
        yield "| measure | 90 % interval | meaning |"
        yield "|---|---|---|"
        for name, number in numbers(each, each.candidate(chosen.step) or chosen).items():
            yield f"| {name} | {number} | {MEASURES[name].meaning} |"


def numbers(evaluation: Evaluation, candidate: Candidate) -> dict[str, Interval]:
    """The mean of each measure of a candidate, with its interval."""
    found = {name: number_of(evaluation, candidate, name) for name in candidate.values}
    return {name: number for name, number in found.items() if number}
