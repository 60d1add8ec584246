"""Which timesteps are drawn, how often: quantiles of scipy, bounds, strata."""

import pytest
import scipy.special
import scipy.stats
import torch

from customize.diffusion import rng
from customize.diffusion.process import DiscreteSchedule, FlowSchedule
from customize.diffusion.timestep_sampling import DISTRIBUTIONS, TimestepSampling

FLOW = FlowSchedule()
EVEN = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000


def discrete(levels):
    return DiscreteSchedule(torch.linspace(0.999, 0.01, levels))


def timesteps(sampling, schedule, uniform=EVEN):
    return schedule.timesteps(sampling.mapped(uniform, schedule.num_levels))


def test_the_default_changes_no_draw():
    uniform = torch.rand(10)
    assert TimestepSampling().mapped(uniform, 1000) is uniform and TimestepSampling().mapped(uniform, None) is uniform
    assert TimestepSampling(stratified_timesteps=True).mapped(uniform, 1000) is uniform


@pytest.mark.parametrize("mean, deviation", [(0.0, 1.0), (-1.2, 0.6), (2.0, 3.0)])
def test_logit_normal_by_the_quantiles_of_scipy(mean, deviation):
    sampling = TimestepSampling("logit_normal", mean, deviation)
    quantiles = scipy.special.expit(scipy.stats.norm.ppf(EVEN.numpy(), mean, deviation))
    torch.testing.assert_close(timesteps(sampling, FLOW), 1000 * torch.from_numpy(quantiles), rtol=1e-9, atol=0)
    found = timesteps(sampling, discrete(1000))
    assert found.min() >= 0 and found.max() <= 999
    # the probability of each level is the integral of the density over its interval
    edges = scipy.special.logit(torch.arange(1001).double().div(1000).numpy())
    expected = torch.from_numpy(scipy.stats.norm.cdf(edges, mean, deviation)).diff()
    torch.testing.assert_close(found.bincount(minlength=1000) / len(EVEN), expected.float(), rtol=0, atol=2.1e-5)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize(
    "levels, low, high", [(1000, 100, 137), (1000, 0, 1), (1000, 999, 1000), (1000, 57, 1000), (300, 20, 1000)]
)
def test_bounds_are_exact(distribution, levels, low, high):
    """No timestep below the lower bound, none at or above the upper one, and each between them, for any draw."""
    for uniform in (EVEN, torch.tensor([0.0, 2**-24, 0.5, 1 - 2**-24])):
        found = timesteps(TimestepSampling(distribution, min_timestep=low, max_timestep=high), discrete(levels), uniform)
        assert found.dtype == torch.int64 and low <= found.min() and found.max() < min(high, levels)
    if distribution == "uniform":
        counts = timesteps(TimestepSampling(min_timestep=low, max_timestep=high), discrete(levels)).bincount(minlength=levels)
        chosen = counts[low:high]
        assert counts.sum() == chosen.sum() and chosen.max() - chosen.min() <= 1


def test_bounds_of_a_flow_are_thousandths():
    for low, high in ((100, 137), (0, 1), (500, 1000)):
        found = timesteps(TimestepSampling(min_timestep=low, max_timestep=high), FLOW, EVEN.float())
        assert found.dtype == torch.float32 and low <= found.min() < low + 0.01 and high - 0.01 < found.max() <= high
    mapped = TimestepSampling("logit_normal", 9.0, 3.0).mapped(EVEN.float(), None)
    assert 0 <= mapped.min() and mapped.max() < 1


@pytest.mark.parametrize("size", [1, 4, 7])
def test_strata_of_a_step_are_spread_evenly(size):
    draws = torch.stack([rng.stratified(size, 5, "timestep", step, range(size)) for step in range(2000)])
    assert draws.min() >= 0 and draws.max() < 1
    gaps = draws.sort(1).values.diff()
    torch.testing.assert_close(gaps, torch.full_like(gaps, 1 / size), rtol=0, atol=1e-6)
    for position in range(size):  # each position alone is uniform
        assert scipy.stats.kstest(draws[:, position].numpy(), "uniform").pvalue > 1e-3
    parts = torch.cat([rng.stratified(size, 5, "timestep", 3, [position]) for position in range(size)])
    assert torch.equal(parts, draws[3])


def test_stratified_timesteps_of_a_discrete_schedule_are_uniform():
    sampling = TimestepSampling(stratified_timesteps=True)
    draws = torch.cat([rng.stratified(4, 5, "timestep", step, range(4)) for step in range(2500)])
    counts = timesteps(sampling, discrete(10), draws).bincount(minlength=10)
    assert counts.sum() == 10_000 and counts.min() > 900 and counts.max() < 1100
