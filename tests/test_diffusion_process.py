"""The table of predictions and the noise schedules against formulas in float64, diffusers and scipy."""

import subprocess
import sys

import pytest
import scipy.special
import scipy.stats
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from customize.diffusion.predictions import (
    DISCRETE_PREDICTIONS,
    PREDICTIONS,
    add_noise,
    determines_clean,
    output_of,
    split,
    target,
)
from customize.diffusion.process import DiscreteSchedule, FlowSchedule

SCHEDULER = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
TIMESTEPS = torch.tensor([0, 13, 500, 999])
DISCRETE, FLOW = DiscreteSchedule(SCHEDULER.alphas_cumprod), FlowSchedule()
BY_HAND = {  # target, noise, clean, output of clean; x clean, e noise, z noisy, y output
    "epsilon": (lambda x, e, a, s: e, lambda y, z, a, s: (y, (z - s * y) / a), lambda x, z, a, s: (z - a * x) / s),
    "sample": (lambda x, e, a, s: x, lambda y, z, a, s: ((z - a * y) / s, y), lambda x, z, a, s: x),
    "v_prediction": (
        lambda x, e, a, s: a * e - s * x,
        lambda y, z, a, s: (s * z + a * y, a * z - s * y),
        lambda x, z, a, s: (a * z - x) / s,
    ),
    "flow_prediction": (lambda x, e, a, s: e - x, lambda y, z, a, s: (z + a * y, z - s * y), lambda x, z, a, s: (z - x) / s),
}


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(4, 3, 5, 6, generator=generator, dtype=torch.float64) for _ in range(2)]


def levels(prediction_type):
    """Numbers (alpha, sigma) of the kind of schedule that goes with the prediction type."""
    sigmas = [0.01, 0.3, 0.77, 0.999]
    flows = prediction_type == "flow_prediction"
    return [(1 - sigma if flows else (1 - sigma**2) ** 0.5, sigma) for sigma in sigmas]


def test_the_table_has_the_four_types():
    assert PREDICTIONS.keys() == BY_HAND.keys()
    assert DISCRETE_PREDICTIONS == ("epsilon", "v_prediction", "sample")


@pytest.mark.parametrize("kind", BY_HAND)
def test_every_row_equals_the_formulas_and_inverts(kind, tensors):
    clean, noise = tensors
    target_of, split_of, output_by_hand = BY_HAND[kind]
    for alpha, sigma in levels(kind):
        noisy = add_noise(clean, noise, alpha, sigma)
        torch.testing.assert_close(noisy, alpha * clean + sigma * noise, rtol=0, atol=0)
        output = target(clean, noise, alpha, sigma, kind)
        torch.testing.assert_close(output, target_of(clean, noise, alpha, sigma), rtol=0, atol=1e-15)
        for found, true in zip(split(output, noisy, alpha, sigma, kind), (noise, clean), strict=True):
            torch.testing.assert_close(found, true, rtol=0, atol=1e-11)
        other = noise.roll(1, 0)  # any output, not only the right one
        for found, by_hand in zip(split(other, noisy, alpha, sigma, kind), split_of(other, noisy, alpha, sigma), strict=True):
            torch.testing.assert_close(found, by_hand, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(
            output_of(other, noisy, alpha, sigma, kind), output_by_hand(other, noisy, alpha, sigma), rtol=1e-13, atol=1e-13
        )
        torch.testing.assert_close(split(output_of(clean, noisy, alpha, sigma, kind), noisy, alpha, sigma, kind)[1], clean)


@pytest.mark.parametrize("kind", BY_HAND)
def test_levels_of_a_batch_equal_those_of_each_sample(kind, tensors):
    clean, noise = tensors
    alpha, sigma = torch.tensor(levels(kind), dtype=torch.float64).T
    noisy, output = add_noise(clean, noise, alpha, sigma), target(clean, noise, alpha, sigma, kind)
    both, back = split(output, noisy, alpha, sigma, kind), output_of(clean, noisy, alpha, sigma, kind)
    for i, level in enumerate(zip(alpha.tolist(), sigma.tolist(), strict=True)):
        x, e = clean[i : i + 1], noise[i : i + 1]
        z = add_noise(x, e, *level)
        one = target(x, e, *level, kind)
        expected = [z, one, *split(one, z, *level, kind), output_of(x, z, *level, kind)]
        for found, single in zip([noisy, output, *both, back], expected, strict=True):
            torch.testing.assert_close(found[i : i + 1], single, rtol=1e-13, atol=1e-13)


def test_what_a_network_predicts_is_the_tensor_itself(tensors):
    clean, noise = tensors
    alpha, sigma = (level.double() for level in DISCRETE.alpha_sigma(TIMESTEPS))
    assert target(clean, noise, alpha, sigma, "epsilon") is noise
    assert target(clean, noise, alpha, sigma, "sample") is clean
    assert split(noise, clean, alpha, sigma, "epsilon")[0] is noise
    assert split(clean, noise, alpha, sigma, "sample")[1] is clean
    assert output_of(clean, noise, alpha, sigma, "sample") is clean


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", DISCRETE_PREDICTIONS)
def test_reading_an_output_rounds_as_the_formulas_do(kind, dtype, tensors):
    """The division by alpha^2 + sigma^2 of the velocity changes no bit."""
    output, noisy = (tensor.to(dtype) for tensor in tensors)
    for a in SCHEDULER.alphas_cumprod[::97].tolist():
        alpha, sigma = a**0.5, (1 - a) ** 0.5
        expected = BY_HAND[kind][1](output, noisy, alpha, sigma)
        assert all(map(torch.equal, split(output, noisy, alpha, sigma, kind), expected))
        assert torch.equal(output_of(output, noisy, alpha, sigma, kind), BY_HAND[kind][2](output, noisy, alpha, sigma))


def test_an_unknown_type_is_refused(tensors):
    for function in (target, split, output_of):
        with pytest.raises(ValueError, match="unknown prediction_type 'flow'"):
            function(*tensors, 0.6, 0.8, "flow")


def test_epsilon_does_not_determine_the_clean_sample_at_pure_noise():
    assert [kind for kind in PREDICTIONS if not determines_clean(0, 1, kind)] == ["epsilon"]
    assert all(determines_clean(0.1, 0.99, kind) for kind in PREDICTIONS)


def test_noising_and_velocity_equal_the_scheduler(tensors):
    clean, noise = (tensor.float() for tensor in tensors)
    level = DISCRETE.alpha_sigma(TIMESTEPS)
    torch.testing.assert_close(add_noise(clean, noise, *level), SCHEDULER.add_noise(clean, noise, TIMESTEPS), rtol=0, atol=1e-6)
    velocity = SCHEDULER.get_velocity(clean, noise, TIMESTEPS)
    torch.testing.assert_close(target(clean, noise, *level, "v_prediction"), velocity, rtol=0, atol=1e-6)


def test_flow_noising_equals_the_scheduler(tensors):
    clean, noise = (tensor.float() for tensor in tensors)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    timesteps = scheduler.timesteps[[0, 13, 500, 999]]
    expected = scheduler.scale_noise(clean, timesteps, noise)
    torch.testing.assert_close(add_noise(clean, noise, *FLOW.alpha_sigma(timesteps)), expected, rtol=0, atol=1e-6)


def test_levels_of_the_schedules():
    alpha, sigma = DISCRETE.alpha_sigma(TIMESTEPS)
    a = SCHEDULER.alphas_cumprod[TIMESTEPS].double()
    torch.testing.assert_close(alpha.double() ** 2, a, rtol=1e-6, atol=0)
    torch.testing.assert_close(sigma.double() ** 2, 1 - a, rtol=1e-6, atol=0)
    torch.testing.assert_close(DISCRETE.snr(TIMESTEPS).double(), a / (1 - a), rtol=1e-4, atol=0)
    timesteps = torch.tensor([0.0, 250.0, 1000.0])
    assert torch.equal(torch.stack(FLOW.alpha_sigma(timesteps)), torch.tensor([[1, 0.75, 0], [0, 0.25, 1]]))
    assert torch.equal(FLOW.snr(timesteps), torch.tensor([torch.inf, 9.0, 0.0]))


@pytest.mark.parametrize("levels", [1, 7, 1000, 10_000])
def test_timesteps_of_a_discrete_schedule_are_uniform(levels):
    schedule, numbers = DiscreteSchedule(torch.ones(levels)), torch.arange(levels)
    assert schedule.num_levels == levels
    assert torch.equal(schedule.timesteps((numbers + 0.5) / levels), numbers)
    assert int(schedule.timesteps(torch.tensor(1 - 2**-24))) == levels - 1


def test_timesteps_of_a_flow_are_those_of_the_distributions():
    uniform = torch.arange(0.005, 1, 0.01, dtype=torch.float64)
    assert FLOW.num_levels is None
    torch.testing.assert_close(FLOW.timesteps(uniform), 1000 * uniform)
    shifted = FlowSchedule(shift=3.0).timesteps(uniform)
    torch.testing.assert_close(shifted, 1000 * 3 * uniform / (1 + 2 * uniform))
    for mean, deviation in ((0.0, 1.0), (-0.5, 0.8)):
        t = FlowSchedule(logit_normal=(mean, deviation)).timesteps(uniform) / 1000
        quantiles = scipy.special.expit(scipy.stats.norm.ppf(uniform.numpy(), mean, deviation))
        torch.testing.assert_close(t, torch.from_numpy(quantiles), rtol=1e-9, atol=1e-12)
    both = FlowSchedule(3.0, (0.0, 1.0)).timesteps(uniform)
    assert bool((both.diff() > 0).all()) and 0 <= both.min() and both.max() <= 1000


def test_the_shift_is_that_of_diffusers():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    t = torch.linspace(1, 1000, 1000) / 1000
    torch.testing.assert_close(FlowSchedule(shift=3.0).timesteps(t).flip(0), scheduler.timesteps, rtol=1e-5, atol=1e-3)


def test_fractions_of_the_schedules():
    assert torch.equal(DISCRETE.fraction(torch.tensor([0, 250, 999])), torch.tensor([0, 0.25, 0.999]))
    assert torch.equal(FLOW.fraction(torch.tensor([0.0, 250.0, 1000.0])), torch.tensor([0, 0.25, 1.0]))


def test_the_tables_are_read_without_torch():
    tables = "predictions, loss_weights, distances, timestep_sampling"
    code = f"import sys; from customize.diffusion import {tables}; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
