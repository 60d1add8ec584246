"""The formulas against diffusers' own scheduler and against arithmetic in float64."""

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from customize import objective

SCHEDULER = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
TIMESTEPS = torch.tensor([0, 13, 500, 999])


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(4, 3, 5, 6, generator=generator) for _ in range(2))
    return clean, noise, SCHEDULER.alphas_cumprod[TIMESTEPS]


def test_noising_and_velocity_equal_the_scheduler(tensors):
    clean, noise, alphas_cumprod = tensors
    torch.testing.assert_close(objective.add_noise(*tensors), SCHEDULER.add_noise(clean, noise, TIMESTEPS), rtol=0, atol=1e-6)
    torch.testing.assert_close(objective.velocity(*tensors), SCHEDULER.get_velocity(clean, noise, TIMESTEPS), rtol=0, atol=1e-6)


def test_targets(tensors):
    clean, noise, _ = tensors
    assert objective.target(*tensors, "epsilon") is noise
    assert objective.target(*tensors, "sample") is clean
    assert torch.equal(objective.target(*tensors, "v_prediction"), objective.velocity(*tensors))
    with pytest.raises(ValueError, match="unknown prediction_type 'flow'"):
        objective.target(*tensors, "flow")


def test_loss_is_one_mean_per_sample(tensors):
    clean, noise, _ = tensors
    losses = objective.mean_squared_error(clean.half(), noise)
    assert losses.shape == (4,) and losses.dtype == torch.float32
    for i in range(4):
        torch.testing.assert_close(losses[i], torch.nn.functional.mse_loss(clean[i].half().float(), noise[i]))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_min_snr_makes_every_prediction_type_weigh_the_clean_sample_alike(prediction_type):
    """One error of the clean sample, told as an error of each target, must get the loss min(snr, gamma) * error^2."""
    alphas_cumprod = SCHEDULER.alphas_cumprod.double()[1:]
    alpha, sigma = alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()
    snr = compute_snr(SCHEDULER, torch.arange(1, 1000)).double()
    error = 0.3
    told = {"epsilon": alpha / sigma * error, "v_prediction": error / sigma, "sample": torch.full_like(alpha, error)}[
        prediction_type
    ]
    weights = objective.min_snr_weights(alphas_cumprod, 5.0, prediction_type)
    torch.testing.assert_close(weights * told**2, snr.clamp(max=5.0) * error**2, rtol=1e-5, atol=1e-9)


def test_min_snr_weights_are_finite_at_zero_terminal_snr():
    nothing_left = torch.tensor([0.0])
    assert objective.min_snr_weights(nothing_left, 5.0, "epsilon") == 1
    assert objective.min_snr_weights(nothing_left, 5.0, "v_prediction") == 0


def test_offset_noise_shifts_each_channel_by_one_number(tensors):
    _, noise, _ = tensors
    shift = torch.arange(12.0).view(4, 3)
    difference = objective.offset_noise(noise, shift, 0.1) - noise
    torch.testing.assert_close(difference, (0.1 * shift)[:, :, None, None].expand_as(noise), rtol=0, atol=1e-6)
    assert torch.equal(objective.offset_noise(noise, shift, 0.0), noise)
