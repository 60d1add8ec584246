"""What came of a run, in words, with the next thing to do. torch is not imported.

The limits were set on runs whose outcome was made on purpose (`benchmarks/planted_runs.py`, the half "calibration"), and checked
on others: `docs/evaluation.md`.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from customize.evaluation.choice import trained
from customize.evaluation.record import BASE, BASE_MODEL, Candidate, Evaluation, Verdict
from customize.evaluation.statistics import mean_and_error

LEARNED = {"object": 0.3, "person": 0.3, "style": 0.45}
"""The likeness from which a concept is learned."""
NOT_LEARNED = {"object": 0.12, "person": 0.12, "style": 0.15}
"""The likeness below which it is not."""
LOSS_ON = {
    "training": "your images",
    "held out": "images of yours that were not trained on",
    "other crops": "other crops of your images",
    "class": "images of the class",
    "training as class": "your images under the prompt of the class",
}
"""What each probe set is."""
RAISE = "the loss on your photos hardly fell: raise the learning rate"
FIND = " (`customize find-lr` measures a good one)"
DRAW = "draw pictures, which show what was learned: `customize score RUN`"
LEAST_GAIN = 0.08
"""The likeness that is gained over the start, whose prompts have the trigger already, below which nothing was learned."""
BROKEN = -0.15
"""The likeness below which pictures are farther from the photos than the base model's own are: they fall apart."""


class Finding(NamedTuple):
    """Something else that can be said of weights. measure, limit: found where the mean of the measure is above the limit;
    reason: what that means; advice: what to do about it."""

    name: str
    measure: str
    limit: float
    reason: str
    advice: str


FINDINGS = (
    Finding(
        "copies your photos", "copying", 0.45, "pictures repeat one of your photos, with its surroundings",
        "use the weights of an earlier step or a smaller scale, such as `--weights RUN:0.7`; train on more varied photos",
    ),
    Finding(
        "learned the background", "background", 0.6, "pictures whose prompt names no place have the surroundings of your photos",
        "crop closer, use photos in different places, or write captions that name the surroundings",
    ),
    Finding(
        "forgot the class", "class likeness", 0.3, "the class word alone now gives the subject, too",
        "preserve the class: `--prior_preservation teacher` with an adapter, `--prior_preservation images` without; if the run "
        "did that, use a larger `--prior_loss_weight`, or the weights of an earlier step",
    ),
    Finding(
        "changed other things", "drift", 0.6, "pictures of other things changed",
        "lower the learning rate, or use a smaller scale, such as `--weights RUN:0.7`",
    ),
)  # fmt: skip
OVERRIDES = Finding(
    "overrides the prompt", "obedience", 0.25, "the rest of the prompt is followed less than by the base model",
    "use a smaller scale, such as `--weights RUN:0.7`, the weights of an earlier step, or a lower learning rate",
)  # fmt: skip


def verdict_of(evaluation: Evaluation) -> Verdict:
    """The verdict on the chosen weights; on the last ones if none are chosen."""
    found = trained(evaluation)
    if not found and not evaluation.pairs:
        return of_losses(evaluation)
    if evaluation.concepts:
        return of_several([(each.trigger, verdict_of(each)) for each in evaluation.each()])
    if not found:
        return Verdict("cannot tell", reasons=(cannot_measure(evaluation),))
    chosen = next((each for each in found if each.step == evaluation.chosen), found[-1])
    likeness, error, _ = mean_of(evaluation, chosen, "likeness")
    low, high = NOT_LEARNED[evaluation.subject], LEARNED[evaluation.subject]
    if likeness - error < low and likeness + error > high:
        why = f"likeness is between {likeness - error:.1f} and {likeness + error:.1f}: too few pictures"
        return Verdict("cannot tell", reasons=(why,), advice=("draw more: `--evaluation_seeds 4`",))
    if likeness < BROKEN:
        reason = "pictures are less like your photos than the base model's: they fall apart"
        return Verdict("not learned", reasons=(reason,), advice=("lower the learning rate, or use a smaller scale",))
    start = evaluation.candidate(BASE)
    if start and "likeness" in start.values and likeness - mean_of(evaluation, start, "likeness")[0] < LEAST_GAIN:
        reason = "pictures are hardly more like your photos than before the training, with the same prompts"
        return Verdict("not learned", reasons=(reason,), advice=(more(evaluation, found, chosen),))
    others = list(findings_of(evaluation, chosen)) if likeness >= low else []
    reasons = [likeness_in_words(likeness), *(each.reason for each in others)]
    advice = [each.advice for each in others]
    if likeness >= high:
        return Verdict("learned", names(others), tuple(reasons), tuple(advice))
    word = "partly learned" if likeness >= low else "not learned"
    return Verdict(word, names(others), tuple(reasons), (more(evaluation, found, chosen), *advice))


def of_several(verdicts: list[tuple[str, Verdict]]) -> Verdict:
    """The verdict on a run of several concepts: the reasons of each by its trigger words, as is advice that is not for all."""
    found = [verdict for _, verdict in verdicts]
    words = {verdict.word for verdict in found}
    word = words.pop() if len(words) == 1 else "cannot tell" if "cannot tell" in words else "partly learned"
    reasons = [
        f"{trigger} is {verdict.word}: {'; '.join([*verdict.findings, *verdict.reasons])}" for trigger, verdict in verdicts
    ]
    findings = dict.fromkeys(each for verdict in found for each in verdict.findings)
    advice = []
    for each in dict.fromkeys(each for verdict in found for each in verdict.advice):
        whose = [trigger for trigger, verdict in verdicts if each in verdict.advice]
        advice.append(each if len(whose) == len(verdicts) else f"{' and '.join(whose)}: {each}")
    return Verdict(word, tuple(findings), tuple(reasons), tuple(advice))


def of_losses(evaluation: Evaluation) -> Verdict:
    """What can be said where no pictures were drawn: how the losses changed, not whether the concept is recognised."""
    measured = [each for each in evaluation.candidates if each.losses]
    if not measured:
        return Verdict("cannot tell", reasons=("neither pictures nor losses were measured",), advice=(DRAW,))
    chosen = next((each for each in measured if each.step == evaluation.chosen), measured[-1])
    change = {name: 100 * (float(np.mean(numbers)) - 1) for name, numbers in chosen.losses.items()}
    told = [f"{abs(by):.1f} % {'higher' if by > 0 else 'lower'} on {LOSS_ON.get(name, name)}" for name, by in change.items()]
    reasons = [f"losses do not show what pictures look like; relative to {evaluation.start}, the loss is {', '.join(told)}"]
    has_base = evaluation.start == BASE_MODEL  # without one, neither command has anything to compare with
    advice = [DRAW] if has_base else []
    if hardly_fell(chosen):
        advice.insert(0, RAISE + FIND * has_base)
    elif any(change.get(name, 0) > 0 for name in ("held out", "other crops")):
        reasons.append("it fell on what was trained on alone: your images may be learned by heart")
    return Verdict("cannot tell", reasons=tuple(reasons), advice=tuple(advice))


def hardly_fell(candidate: Candidate) -> bool:
    """Whether the loss on the training images was measured, and is that of the base model in all noise bands."""
    losses = candidate.losses.get("training", ())
    return bool(losses) and max(losses) > 0.99 and min(losses) > 0.97


def names(findings: list[Finding]) -> tuple[str, ...]:
    """The names of findings."""
    return tuple(each.name for each in findings)


def mean_of(evaluation: Evaluation, candidate: Candidate, measure: str) -> tuple[float, float, int]:
    """The mean of a measure with its standard error and degrees of freedom: see `statistics.mean_and_error`."""
    return mean_and_error(candidate.values[measure], [pair.prompt for pair in evaluation.pairs_of(measure)])


def findings_of(evaluation: Evaluation, chosen: Candidate) -> Iterator[Finding]:
    """What else is to be said of the chosen weights."""
    for finding in FINDINGS:
        if finding.measure in chosen.values and mean_of(evaluation, chosen, finding.measure)[0] > finding.limit:
            yield finding
    base = evaluation.candidate(BASE)
    if base and "obedience" in base.values and "obedience" in chosen.values:
        lost = mean_of(evaluation, base, "obedience")[0] - mean_of(evaluation, chosen, "obedience")[0]
        if lost > OVERRIDES.limit:
            yield OVERRIDES


def likeness_in_words(likeness: float) -> str:
    """The likeness in a sentence."""
    if likeness > 1:
        return "pictures are as like your photos as these are to each other"
    return f"pictures are {max(100 * likeness, 0):.0f} % of the way from what the base model draws to your photos"


def more(evaluation: Evaluation, found: list[Candidate], chosen: Candidate) -> str:
    """What to do where too little was learned."""
    rising = chosen.step == found[-1].step and not evaluation.stopped
    if hardly_fell(chosen):
        return RAISE + FIND
    if len(found) == 1:
        longer = f"train longer, for instance `--max_train_steps {2 * evaluation.steps}`"
        return f"{longer}, or raise the learning rate{FIND}"
    if evaluation.steps < 2:  # of a file, whose run is unknown
        return "train it longer, or with a higher learning rate"
    if rising:
        return f"likeness was still rising: train longer, for instance `--max_train_steps {2 * evaluation.steps}`"
    return "more steps gave nothing: raise the learning rate or the rank, or check that the photos show the subject clearly"


def cannot_measure(evaluation: Evaluation) -> str:
    """Why there is no likeness."""
    if not any(each.values for each in evaluation.candidates if each.step != BASE):
        return "no pictures of the trained weights were measured"
    if evaluation.photos < 2 and evaluation.subject != "style":
        return "one photo does not show how alike your photos are"
    return "the base model already draws pictures as like your photos as these are to each other"
