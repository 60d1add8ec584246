"""Intervals contain the true mean as often as they say, and equal textbook formulas."""

import math

import numpy as np
import pytest
from evaluated_run import evaluation
from scipy import stats

from customize.evaluation.record import Candidate
from customize.evaluation.statistics import Interval, compare, difference, interval, mean_and_error, number_of


@pytest.mark.parametrize("prompts, seeds", [(4, 2), (4, 4), (8, 4)])
@pytest.mark.parametrize("prompt_variance", [0.0, 0.5, 2.0])
def test_the_interval_of_a_difference_contains_the_true_one_in_nine_of_ten_cases(prompts, seeds, prompt_variance):
    generator = np.random.default_rng(prompts * seeds)
    groups = np.repeat(range(prompts), seeds).tolist()
    inside = 0
    for _ in range(500):
        shared, noise = generator.normal(size=(prompts, 1)), generator.normal(size=(2, prompts, seeds))
        effect = 0.3 + math.sqrt(prompt_variance) * generator.normal(size=(prompts, 1))
        found = difference((3 * shared + noise[0] + effect).ravel(), (3 * shared + noise[1]).ravel(), groups)
        inside += found.low <= 0.3 <= found.high
    assert 0.87 <= inside / 500 <= 0.93


def test_the_interval_is_students_of_the_means_of_prompts():
    values = np.random.default_rng(0).normal(size=(5, 3))
    found = interval(values.ravel().tolist(), np.repeat(list("edcba"), 3).tolist())
    expected = stats.ttest_1samp(values.mean(1), 0).confidence_interval(0.9)
    assert found == pytest.approx((values.mean(), *expected))
    shuffled = np.random.default_rng(1).permutation(15)
    again = interval(values.ravel()[shuffled].tolist(), np.repeat(list("edcba"), 3)[shuffled].tolist())
    assert again == pytest.approx(found)


def test_prompts_of_unequal_numbers_of_pictures_count_by_their_share():
    values, groups = [1.0, 2.0, 3.0, 8.0, 4.0, 4.5], [0, 0, 0, 1, 2, 2]
    design = np.eye(3)[groups]  # the cluster-robust variance of a regression on a constant, with P / (P - 1)
    residuals = np.array(values) - 3.75
    variance = 3 / 2 * ((design.T @ residuals) ** 2).sum() / 6**2
    assert mean_and_error(values, groups) == pytest.approx((3.75, math.sqrt(variance), 2))


def test_one_prompt_is_judged_by_its_seeds_and_one_picture_not_at_all():
    expected = stats.ttest_1samp([1.0, 2.0, 4.0], 0).confidence_interval(0.9)
    assert interval([1.0, 2.0, 4.0], [7, 7, 7]) == pytest.approx((7 / 3, *expected))
    assert interval([0.5], [7]) == (0.5, -math.inf, math.inf) and str(interval([0.5], [7])) == "0.50 (a single picture)"


def test_the_interval_of_a_share_is_within_its_limits():
    """Of a change it ends at 0, and that of likeness has no limits; a single picture has none either."""
    values = {"obedience": (1.0, 1.0, 1.0, 0.5), "likeness": (1.0, 1.0, 1.0, 0.5), "drift": (0.0,)}
    found = {name: number_of(evaluation(), Candidate(10, 1.0, values), name) for name in values}
    free = interval(values["obedience"], [0, 0, 1, 1])
    assert free.high > 1.2 and found["obedience"] == (0.875, free.low, 1) and found["likeness"] == free
    assert number_of(evaluation(), Candidate(10), "nearer") is None
    assert found["drift"] == (0.0, -math.inf, math.inf), "there is one picture of other things"
    assert Interval(0.2, -0.1, 0.5).within(0, math.inf) == (0.2, 0, 0.5)


def test_comparisons_in_words_and_numbers_in_text():
    groups = [0, 0, 1, 1, 2, 2]
    others = [0.1, 0.9, 0.5, 0.4, 0.3, 0.8]
    higher = [0.3, 1.0, 0.65, 0.6, 0.45, 1.0]
    assert compare(higher, others, groups, "high") == compare(others, higher, groups, "low") == "better"
    assert compare(higher, others, groups, "low") == compare(others, higher, groups, "high") == "worse"
    assert compare(others, others, groups, "low") == "not distinguishable"
    assert compare([0.2, 0.8, *others[2:]], others, groups, "high") == "not distinguishable"
    assert str(Interval(0.8249, -0.001, 0.876)) == "0.82 (0.00 to 0.88)"
