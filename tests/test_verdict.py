"""The best candidate, the early stop and the verdict, from records with known numbers."""

from dataclasses import replace

import pytest

from customize.evaluation.choice import choose, done, scores
from customize.evaluation.record import Candidate, Evaluation, Pair, ProbePrompt, Verdict
from customize.evaluation.verdict import BROKEN, FINDINGS, LEARNED, NOT_LEARNED, OVERRIDES, verdict_of

KINDS = ("concept", "concept", "concept", "concept", "bare", "class", "other")
PROMPTS = tuple(ProbePrompt(kind, f"sks {n}", f"toy {n}") for n, kind in enumerate(KINDS))
PAIRS = tuple(Pair(place, seed) for place in range(len(KINDS)) for seed in (1, 2))


def candidate(step: int, likeness: float, obedience: float = 1.0, spread: float = 0.02, **others: float) -> Candidate:
    """A candidate whose numbers have these means; those of likeness differ by `spread` from pair to pair."""
    wave = [spread * (-1) ** place for place in range(8)]
    values = {"likeness": tuple(likeness + each for each in wave), "obedience": (obedience,) * 8}
    return Candidate(step, values=values | {name.replace("_", " "): (value,) * 2 for name, value in others.items()})


def evaluation(*candidates: Candidate, **values) -> Evaluation:
    base = candidate(0, 0.0)
    return Evaluation("object", "sks", "toy", "", 6, PROMPTS, PAIRS, (base, *candidates), steps=100, **values)


def test_the_score_is_the_geometric_mean_of_likeness_and_obedience_within_0_and_1():
    assert scores(candidate(1, 0.49, 0.25, 0.0)).tolist() == pytest.approx([0.35] * 8)
    assert (
        scores(candidate(1, 3.0, 1.0, 0.0)).tolist() == [1.0] * 8 and scores(candidate(1, -1.0, 1.0, 0.0)).tolist() == [0.0] * 8
    )


def test_the_best_is_chosen_and_a_tie_goes_to_the_earlier():
    assert choose(evaluation(candidate(10, 0.3), candidate(20, 0.6), candidate(30, 0.5))) == 20
    assert choose(evaluation(candidate(10, 0.3), candidate(20, 0.6), candidate(30, 0.6))) == 20
    noisy = Candidate(30, values={"likeness": (0.2, 1.0) * 4, "obedience": (1.0,) * 8})
    assert choose(evaluation(candidate(10, 0.3), candidate(20, 0.75), noisy)) == 20
    assert choose(evaluation()) is None


def test_a_candidate_beyond_the_limits_is_chosen_only_if_there_is_no_other():
    copies = candidate(30, 0.9, copying=0.9)
    assert choose(evaluation(candidate(20, 0.5), copies)) == 20
    assert choose(evaluation(copies)) == choose(evaluation(candidate(20, 0.2), copies)) == 30  # the other learned too little


def test_losses_alone_give_no_verdict_and_are_told():
    """Relative to the base model, with what they can say: hardly anything, or something that may be learned by heart."""
    lower, higher = {"training": (0.9, 0.8, 0.9, 1.0)}, {"held out": (1.0, 1.0, 1.1, 1.1)}
    at = lambda losses: verdict_of(replace(evaluation(), pairs=(), candidates=(Candidate(100, losses=losses),)))  # noqa: E731
    found = at(lower | higher)
    assert found.word == "cannot tell" and len(found.reasons) == 2 and "by heart" in found.reasons[1]
    assert "10.0 % lower on your images, 5.0 % higher on images of yours that were not trained on" in found.reasons[0]
    assert "customize score" in found.advice[0] and len(at(lower).reasons) == 1
    assert "hardly fell" in at({"training": (1.0, 0.98, 1.0, 1.01)} | higher).advice[0]
    assert verdict_of(replace(evaluation(), pairs=(), candidates=())).reasons == ("neither pictures nor losses were measured",)


def test_a_run_stops_when_a_candidate_brings_nothing():
    first, second = candidate(10, 0.3), candidate(20, 0.6)
    assert done(evaluation()) is done(evaluation(first)) is done(evaluation(first, second)) is None
    assert "step 20" in (done(evaluation(first, second, candidate(30, 0.6))) or "")
    assert "step 20" in (done(evaluation(first, second, candidate(30, 0.5))) or "")
    assert done(evaluation(first, second, candidate(30, 0.75))) is None
    assert done(evaluation(*(candidate(step, 0.05, spread=0.0) for step in (10, 20, 30)))) is None  # may not have begun to learn


@pytest.mark.parametrize(
    "likeness, word",
    [
        (LEARNED["object"] + 0.05, "learned"), (LEARNED["object"] - 0.05, "partly learned"),
        (NOT_LEARNED["object"] - 0.05, "not learned"), (BROKEN - 0.1, "not learned"),
    ],
)  # fmt: skip
def test_words_follow_from_likeness(likeness, word):
    found = verdict_of(evaluation(candidate(100, likeness), chosen=100))
    assert found.word == word and found.reasons and (word == "learned" or found.advice)


def test_what_was_there_before_the_training_was_not_learned():
    before, after = candidate(0, 0.4), candidate(100, 0.45)
    assert verdict_of(replace(evaluation(after), candidates=(before, after))).word == "not learned"
    assert verdict_of(replace(evaluation(after), candidates=(candidate(0, 0.3), after))).word == "learned"


def test_the_verdict_is_on_the_chosen_weights():
    both = evaluation(candidate(50, 0.8), candidate(100, 0.0))
    assert verdict_of(replace(both, chosen=50)).word == "learned"
    assert verdict_of(replace(both, chosen=100)).word == "not learned"


@pytest.mark.parametrize("finding", FINDINGS, ids=lambda finding: finding.name)
def test_a_finding_is_made_above_its_limit(finding):
    name = finding.measure.replace(" ", "_")
    above = verdict_of(evaluation(candidate(100, 0.8, **{name: finding.limit + 0.01})))
    assert above.findings == (finding.name,) and finding.reason in above.reasons and above.advice == (finding.advice,)
    assert verdict_of(evaluation(candidate(100, 0.8, **{name: finding.limit - 0.01}))).findings == ()


def test_obedience_counts_relative_to_the_base_model():
    weak = candidate(100, 0.8, 1 - OVERRIDES.limit - 0.05)
    assert verdict_of(evaluation(weak)).findings == (OVERRIDES.name,)
    also_weak = replace(evaluation(weak), candidates=(candidate(0, 0.0, 0.7), weak))
    assert verdict_of(also_weak).findings == ()


def test_nothing_is_said_of_what_was_not_learned_or_not_measured():
    assert verdict_of(evaluation(candidate(100, 0.0, copying=0.9))).findings == ()
    assert verdict_of(evaluation()) == Verdict("cannot tell", reasons=("no pictures of the trained weights were measured",))
    wide = Candidate(100, values={"likeness": (-0.5, -0.5, 1.0, 1.0, -0.4, -0.4, 0.9, 0.9)})
    assert verdict_of(evaluation(wide)).word == "cannot tell"


def test_advice_after_too_little_depends_on_what_was_seen():
    rising = verdict_of(evaluation(candidate(50, 0.1), candidate(100, 0.2), chosen=100))
    assert "--max_train_steps 200" in rising.advice[0]
    once = verdict_of(evaluation(candidate(100, 0.02), chosen=100))
    assert "--max_train_steps 200" in once.advice[0] and "rising" not in once.advice[0]
    flat = verdict_of(evaluation(candidate(50, 0.2), candidate(100, 0.2), chosen=50))
    assert "more steps gave nothing" in flat.advice[0]
    still = replace(candidate(100, 0.0), losses={"training": (1.0, 1.0, 0.999, 1.0)})
    assert "find-lr" in verdict_of(evaluation(still, chosen=100)).advice[0]
