"""Numbers of pictures from features: against loops and formulas in float64."""

import math

import pytest
import torch
from torch.nn import functional as F

from customize.evaluation import measures
from customize.evaluation.scorers import Features


def features(count: int, seed: int, patches: int = 6, width: int = 5) -> Features:
    """Unit features of so many pictures."""
    numbers = torch.randn(count, patches, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Features(F.normalize(numbers.mean(1), dim=-1), F.normalize(numbers, dim=-1), numbers.mean(1))


PICTURES, PHOTOS, BASE = features(4, 1), features(3, 2), features(4, 3)
PROMPTS = torch.tensor([0, 0, 1, 1])


def cosine(one, other) -> float:
    return sum(a * b for a, b in zip(one.tolist(), other.tolist(), strict=True))


def test_patches_of_a_photo_are_searched_in_the_whole_picture():
    mask = torch.tensor([[0, 1, 1, 0, 0, 0.5]] * 3, dtype=torch.float64)
    found = measures.patch_similarity(PICTURES, PHOTOS, mask)
    best = [max(cosine(PHOTOS.patches[2, p], q) for q in PICTURES.patches[1]) for p in range(6)]
    assert found[1, 2].item() == pytest.approx((best[1] + best[2] + 0.5 * best[5]) / 2.5, abs=1e-12)
    assert measures.patch_similarity(PICTURES, PHOTOS)[1, 2].item() == pytest.approx(sum(best) / 6, abs=1e-12)
    moved = Features(PHOTOS.pooled, PHOTOS.patches.roll(1, 1))
    assert torch.allclose(measures.patch_similarity(moved, PHOTOS).diagonal(), torch.ones(3, dtype=torch.float64))


def test_likeness_is_0_at_the_floor_and_1_at_the_ceiling():
    floor, ceiling = torch.tensor([0.1, 0.3]), torch.tensor([0.7, 0.9])
    found = measures.anchored(torch.tensor([0.2, 0.8, 0.5, 1.1]), floor, ceiling)
    assert found.tolist() == pytest.approx([0, 1, 0.5, 1.5])
    assert measures.anchored(torch.tensor([0.2]), floor, floor + measures.LEAST_RANGE / 2).isnan().all()


def test_a_photo_is_not_compared_with_itself():
    similarity = torch.tensor([[1.0, 0.2, 0.5], [0.2, 1.0, 0.3], [0.5, 0.3, 1.0]])
    assert measures.without_itself(similarity).tolist() == pytest.approx([0.5, 0.3, 0.5])
    assert measures.without_itself(torch.ones(1, 1)).isnan().all()


def test_the_shift_of_a_style_is_that_along_the_way_to_the_photos():
    assert PICTURES.style is not None and BASE.style is not None and PHOTOS.style is not None
    way = PHOTOS.style.mean(0) - BASE.style.mean(0)
    found = measures.style_shift(BASE.style + 0.4 * way, BASE.style, PHOTOS.style)
    assert found.tolist() == pytest.approx([0.4] * 4)
    across = torch.linalg.svd(way[None]).Vh[-1]
    assert measures.style_shift(BASE.style + across, BASE.style, PHOTOS.style).abs().max() < 1e-12


def test_nearer_counts_comparisons_with_pictures_of_other_scenes():
    found = measures.nearer(PICTURES, PHOTOS, BASE, PROMPTS)

    def alike(one: Features, i: int, other: Features, j: int) -> float:
        there = [max(cosine(p, q) for q in one.patches[i]) for p in other.patches[j]]
        back = [max(cosine(p, q) for q in other.patches[j]) for p in one.patches[i]]
        return (sum(there) / 6 + sum(back) / 6) / 2

    for i in range(4):
        others = [alike(PICTURES, i, BASE, j) for j in range(4) if PROMPTS[j] != PROMPTS[i]]
        wins = [alike(PICTURES, i, PHOTOS, r) > other for r in range(3) for other in others]
        assert found[i].item() == pytest.approx(sum(wins) / len(wins))
    assert measures.nearer(PHOTOS, PHOTOS, features(3, 9), torch.arange(3)).min() >= 1 / 3  # itself is among the photos


def test_obedience_is_a_share_of_the_other_prompts():
    match = torch.tensor([[3.0, 1, 2], [1, 2, 3], [2, 2, 2]])
    assert measures.obedience(match, torch.tensor([0, 0, 1])).tolist() == [1.0, 0.0, 0.5]


def test_obedience_of_a_style_is_resemblance_to_the_base_models_picture_of_the_same_content():
    assert measures.obedience_of_style(BASE, BASE, PROMPTS).tolist() == [1.0] * 4
    swapped = Features(BASE.pooled[[2, 1, 0, 3]], BASE.patches[[2, 1, 0, 3]])
    assert measures.obedience_of_style(swapped, BASE, PROMPTS)[0] < 1


def test_drift_is_0_for_equal_pictures_and_1_for_unrelated_ones():
    assert measures.drift(BASE, BASE).abs().max() < 1e-12
    every = [measures.drift(Features(BASE.pooled.roll(k, 0), BASE.patches.roll(k, 0)), BASE) for k in (1, 2, 3)]
    assert torch.stack(every).mean().item() == pytest.approx(1)


def test_copying_is_1_for_a_photo_itself_and_0_for_what_is_no_nearer_than_photos_are():
    assert measures.copying(PHOTOS, PHOTOS).tolist() == pytest.approx([1] * 3)
    assert measures.copying(Features(PHOTOS.pooled, -PHOTOS.patches), PHOTOS).tolist() == [0] * 3
    one = Features(PHOTOS.pooled[:1], PHOTOS.patches[:1])
    assert measures.copying(PICTURES, one).isnan().all()


def test_variety_is_relative_to_that_of_the_base_model():
    assert measures.variety(BASE, PROMPTS, BASE).mean().item() == pytest.approx(1)
    distance = 1 - sum(cosine(PICTURES.patches[0, p], PICTURES.patches[1, p]) for p in range(6)) / 6
    assert measures.distance_to_others(PICTURES, PROMPTS)[0].item() == pytest.approx(distance)
    assert math.isnan(measures.distance_to_others(PICTURES, torch.arange(4))[0].item())
