"""Losses and their weights against torch, diffusers and arithmetic in float64."""

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from customize.diffusion.losses import mean_squared_error, min_snr_weights
from customize.diffusion.predictions import DISCRETE_PREDICTIONS
from customize.diffusion.process import DiscreteSchedule, FlowSchedule

SCHEDULER = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


def test_loss_is_one_mean_per_sample():
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(4, 3, 5, 6, generator=generator) for _ in range(2))
    losses = mean_squared_error(clean.half(), noise)
    assert losses.shape == (4,) and losses.dtype == torch.float32
    for i in range(4):
        torch.testing.assert_close(losses[i], torch.nn.functional.mse_loss(clean[i].half().float(), noise[i]))


@pytest.mark.parametrize("prediction_type", DISCRETE_PREDICTIONS)
def test_min_snr_makes_every_prediction_type_weigh_the_clean_sample_alike(prediction_type):
    """An error of the clean sample, expressed as an error of each target, must have the loss min(snr, gamma) * error^2."""
    alphas_cumprod = SCHEDULER.alphas_cumprod.double()[1:]
    alpha, sigma = alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()
    snr = compute_snr(SCHEDULER, torch.arange(1, 1000)).double()
    error = 0.3
    output_error = {"epsilon": alpha / sigma * error, "v_prediction": error / sigma, "sample": torch.full_like(alpha, error)}[
        prediction_type
    ]
    weights = min_snr_weights(DiscreteSchedule(alphas_cumprod).snr(torch.arange(999)), 5.0, prediction_type)
    torch.testing.assert_close(weights * output_error**2, snr.clamp(max=5.0) * error**2, rtol=1e-5, atol=1e-9)


def test_min_snr_of_a_flow_weighs_the_clean_sample_alike():
    """x_t = (1 - t) x + t e and the output e - x: an error of x is that of the output times t."""
    t = torch.linspace(0.02, 1, 50, dtype=torch.float64)
    error = 0.3
    weights = min_snr_weights(FlowSchedule().snr(1000 * t).double(), 5.0, "flow_prediction")
    expected = (((1 - t) / t) ** 2).clamp(max=5.0) * error**2
    torch.testing.assert_close(weights * (error / t) ** 2, expected, rtol=1e-5, atol=1e-9)


def test_min_snr_weights_are_finite_at_zero_terminal_snr():
    nothing_left = DiscreteSchedule(torch.tensor([0.0])).snr(torch.tensor([0]))
    assert min_snr_weights(nothing_left, 5.0, "epsilon") == 1
    assert min_snr_weights(nothing_left, 5.0, "v_prediction") == 0
