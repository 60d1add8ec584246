"""What came of a run, in words, with the next thing to do. torch is not imported."""

from collections.abc import Iterator

import numpy as np

from customize.evaluation.choice import trained
from customize.evaluation.record import BASE, Candidate, Evaluation, Verdict

LEARNED, NOT_LEARNED = 0.55, 0.2
"""Means of likeness from which a concept is learned, and below which it is not."""
FLAGS = {"copies your photos": ("copying", 0.1), "forgot the class": ("class likeness", 0.5)}
"""Findings: the measure and the mean above which it is found."""
OBEYS = 0.7
"""Mean obedience, relative to that of the base model's pictures, below which the concept overrides the prompt."""


def verdict_of(evaluation: Evaluation) -> Verdict:
    """The verdict on the chosen weights."""
    found = trained(evaluation)
    if not found:
        return Verdict("cannot tell", reasons=("no pictures were measured",))
    chosen = next((each for each in found if each.step == evaluation.chosen), found[-1])
    likeness = float(np.mean(chosen.values["likeness"]))
    findings = tuple(findings_of(chosen, evaluation.candidate(BASE)))
    if likeness < NOT_LEARNED:
        steps = evaluation.steps
        return Verdict("not learned", findings, (f"likeness {likeness:.2f}",), (f"train longer than {steps:,} steps",))
    return Verdict("learned" if likeness >= LEARNED else "partly learned", findings, (f"likeness {likeness:.2f}",))


def findings_of(chosen: Candidate, base: Candidate | None) -> Iterator[str]:
    """What else is to be said of the chosen weights."""
    for finding, (measure, most) in FLAGS.items():
        if measure in chosen.values and np.mean(chosen.values[measure]) > most:
            yield finding
    if "obedience" in chosen.values and np.mean(chosen.values["obedience"]) < OBEYS:
        yield "overrides the prompt"
