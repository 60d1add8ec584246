"""The noise of training samples against formulas in float64; each sample's is its own."""

import pytest
import torch

from customize.diffusion import rng
from customize.diffusion.noise import Noise, offset_noise

SHAPE, DRAW, POSITIONS = (4, 24, 16), (3, "instance", 7), (0, 1, 5)
ALL = Noise(0.1, 6, 0.4, 0.2)


def stretching(short, long):
    """The matrix [long, short] of linear interpolation between the centers of pixels, in float64."""
    matrix = torch.zeros(long, short, dtype=torch.float64)
    for i in range(long):
        place = min(max((i + 0.5) * short / long - 0.5, 0), short - 1)
        first = min(int(place), short - 1)
        matrix[i, first] += 1 - (place - first)
        matrix[i, min(first + 1, short - 1)] += place - first
    return matrix


def test_plain_noise_is_the_stream_itself():
    assert torch.equal(Noise().draw(SHAPE, *DRAW, POSITIONS), rng.normal(SHAPE, 3, "instance/noise", 7, POSITIONS))
    assert torch.equal(Noise().perturbation(SHAPE, *DRAW, POSITIONS), torch.zeros(3, 1, 1, 1))


@pytest.mark.parametrize("iterations, discount", [(1, 0.3), (6, 0.4), (10, 0.9)])
def test_multi_resolution_noise_by_its_formula(iterations, discount):
    """The sum over levels of coarser noise, stretched, times discount^level; divided by its standard deviation."""
    found = Noise(0.0, iterations, discount).draw(SHAPE, *DRAW, POSITIONS)
    plain = Noise().draw(SHAPE, *DRAW, POSITIONS).double()
    coarsest = []
    for row, position in enumerate(POSITIONS):
        total = plain[row]
        for i in range(iterations):
            ratio = 2 + 2 * rng.uniform(3, f"instance/multires_size_{i}", 7, [position]).item()
            height, width = max(1, int(24 / ratio**i)), max(1, int(16 / ratio**i))
            coarse = rng.normal((4, height, width), 3, f"instance/multires_noise_{i}", 7, [position])[0].double()
            total = total + discount**i * stretching(height, 24) @ coarse @ stretching(width, 16).T
            if height == 1 or width == 1:
                break
        coarsest.append((height, width))
        torch.testing.assert_close(found[row].double(), total / total.std(), rtol=0, atol=1e-5)
    assert iterations == 1 or all(1 in size for size in coarsest), "levels end with the first of one row or column"
    assert found.dtype == torch.float32 and all(abs(each.std() - 1) < 1e-5 for each in found)


def test_coarse_noise_raises_low_frequencies():
    """The variance of the means of channels, which is 1 / (H W) for plain noise, is many times as large."""
    means = Noise(0.0, 8, 0.8).draw(SHAPE, *DRAW, range(64)).mean((2, 3))
    assert means.var() > 10 / (24 * 16)


def test_offset_noise_shifts_each_channel_by_one_number():
    noise = torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    shift = torch.arange(12.0).view(4, 3)
    difference = offset_noise(noise, shift, 0.1) - noise
    torch.testing.assert_close(difference, (0.1 * shift)[:, :, None, None].expand_as(noise), rtol=0, atol=1e-6)
    assert torch.equal(offset_noise(noise, shift, 0.0), noise)


def test_perturbation_is_independent_noise_of_its_strength():
    found, noise = (kind(SHAPE, *DRAW, range(32)) for kind in (ALL.perturbation, Noise().draw))
    assert found.shape == noise.shape and abs(found.std() - 0.2) < 0.003
    assert abs((found * noise).mean()) < 0.003


def test_noise_does_not_depend_on_the_batch():
    for kind in ALL.draw, ALL.perturbation:
        parts = torch.cat([kind(SHAPE, *DRAW, [position]) for position in POSITIONS])
        assert torch.equal(kind(SHAPE, *DRAW, POSITIONS), parts)
        assert not torch.equal(parts[0], parts[1]) and not torch.equal(parts, kind(SHAPE, 3, "instance", 8, POSITIONS))
