"""Losses and their weights against torch, diffusers, the formulas of kohya's sd-scripts, and arithmetic in float64."""

import math

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from customize.diffusion.distances import DISTANCES, SCHEDULES
from customize.diffusion.loss_weights import WEIGHTINGS, Weighting
from customize.diffusion.losses import Distance, direct_consistency, mean_squared_error
from customize.diffusion.predictions import DISCRETE_PREDICTIONS, PREDICTIONS
from customize.diffusion.process import DiscreteSchedule, FlowSchedule
from customize.methods import DreamBoothSettings
from customize.settings.field import table

SCHEDULER = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
DISCRETE, FLOW = DiscreteSchedule(SCHEDULER.alphas_cumprod), FlowSchedule()


def pair(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(4, 3, 5, 6, generator=generator) for _ in range(2)]


def test_loss_is_one_mean_per_sample():
    clean, noise = pair()
    losses = mean_squared_error(clean.half(), noise)
    assert losses.shape == (4,) and losses.dtype == torch.float32
    for i in range(4):
        torch.testing.assert_close(losses[i], torch.nn.functional.mse_loss(clean[i].half().float(), noise[i]))


def level(prediction_type, sigma):
    """(alpha, sigma) of the kind of schedule that goes with the prediction type."""
    return (1 - sigma if prediction_type == "flow_prediction" else (1 - sigma**2) ** 0.5), sigma


def squared_errors(prediction_type, sigma):
    """The squared errors of clean sample, noise, velocity and output that are the same mistake, for an output that is off by 1.

    From noisy = alpha x + sigma e: an error dx of the clean sample is one of -alpha dx / sigma of the noise, of the velocity
    alpha e - sigma x, and of the output.
    """
    alpha, sigma = level(prediction_type, sigma)
    noise = -alpha / sigma
    outputs = {"epsilon": noise, "sample": 1, "v_prediction": alpha * noise - sigma, "flow_prediction": noise - 1}
    of_clean = 1 / outputs[prediction_type] ** 2
    return of_clean, of_clean * noise**2, of_clean * (noise**2 + 1), alpha**2 / sigma**2


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_every_weighting_by_its_formula(prediction_type):
    """Weight times squared error of the output is what the paper says of the clean sample, of the noise, or of both."""
    for sigma in (0.03, 0.2, 0.5, 0.77, 0.998):
        clean, noise, velocity, snr = squared_errors(prediction_type, sigma)
        expected = {
            ("min_snr", 5.0): min(snr, 5) * clean,
            ("min_snr", 1.0): min(snr, 1) * clean,
            ("soft_min_snr", 5.0): clean / (1 / snr + 1 / 5),
            ("p2", 1.0): noise / (1 + snr),
            ("p2", 0.5): noise / (1 + snr) ** 0.5,
            ("debiased", 0.0): clean**0.5,  # the geometric mean of the unweighted loss, 1, and that of the clean sample
            ("noise", 0.0): noise,
            ("noise", 0.25): noise + 0.25 * velocity,
        }
        assert {name for name, _ in expected} == set(WEIGHTINGS)
        for (name, strength), value in expected.items():
            if name == "debiased":
                value = min(max(value, 1000**-0.5), 0.001**-0.5)
            found = Weighting(name, strength).weights(torch.tensor([snr], dtype=torch.float64), prediction_type)
            assert found.item() == pytest.approx(value, rel=1e-12), name


def test_the_weights_are_those_of_kohya():
    """Of sd-scripts, for all timesteps; it differs in the debiased weight of a velocity, where it divides by SNR + 1."""
    snr = compute_snr(SCHEDULER, torch.arange(1000)).double()
    capped = snr.clamp(max=1000)
    cases = [
        ("min_snr", 5.0, "epsilon", snr.clamp(max=5) / snr),
        ("min_snr", 5.0, "v_prediction", snr.clamp(max=5) / (snr + 1)),
        ("debiased", 0.0, "epsilon", 1 / capped.sqrt()),
        ("noise", 0.0, "v_prediction", snr / (snr + 1)),  # scale_v_pred_loss_like_noise_pred
        ("noise", 0.5, "epsilon", 1 + 0.5 * (snr + 1) / snr),  # v_pred_like_loss
    ]
    for name, strength, prediction_type, expected in cases:
        weights = Weighting(name, strength).weights(DISCRETE.snr(torch.arange(1000)), prediction_type)
        assert weights.dtype == torch.float32
        torch.testing.assert_close(weights.double(), expected, rtol=2e-5, atol=0)


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
    weights = Weighting("min_snr", 5.0).weights(DiscreteSchedule(alphas_cumprod).snr(torch.arange(999)), prediction_type)
    torch.testing.assert_close(weights * output_error**2, snr.clamp(max=5.0) * error**2, rtol=1e-5, atol=1e-9)


def test_min_snr_of_a_flow_weighs_the_clean_sample_alike():
    """x_t = (1 - t) x + t e and the output e - x: an error of x is that of the output times t."""
    t = torch.linspace(0.02, 1, 50, dtype=torch.float64)
    error = 0.3
    weights = Weighting("min_snr", 5.0).weights(FLOW.snr(1000 * t).double(), "flow_prediction")
    expected = (((1 - t) / t) ** 2).clamp(max=5.0) * error**2
    torch.testing.assert_close(weights * (error / t) ** 2, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_weights_are_finite_at_the_ends_of_a_schedule(name):
    """At zero terminal SNR, and without any noise."""
    nothing_left = DiscreteSchedule(torch.tensor([0.0])).snr(torch.tensor([0]))
    no_noise = FLOW.snr(torch.tensor([0.0]))
    assert nothing_left == 0 and no_noise == torch.inf
    for prediction_type, snr in (*((each, nothing_left) for each in PREDICTIONS), ("flow_prediction", no_noise)):
        weights = Weighting(name, 2.0).weights(snr, prediction_type)
        assert weights.isfinite().all() and (weights >= 0).all()


def test_min_snr_at_zero_terminal_snr_is_its_limit():
    nothing_left = torch.zeros(1)
    assert Weighting("min_snr", 5.0).weights(nothing_left, "epsilon") == 1
    assert Weighting("min_snr", 5.0).weights(nothing_left, "v_prediction") == 0
    assert Weighting("soft_min_snr", 5.0).weights(nothing_left, "epsilon") == 1


@pytest.mark.parametrize("of_flow", [False, True])
@pytest.mark.parametrize("huber_schedule", SCHEDULES)
@pytest.mark.parametrize("loss_type", DISTANCES)
def test_every_distance_by_its_formula(loss_type, huber_schedule, of_flow):
    """Each sample has its own threshold; thresholds and factors are those of kohya's sd-scripts."""
    output, target = pair(1)
    timesteps = torch.tensor([1.0, 250.0, 500.0, 999.0] if of_flow else [0, 250, 500, 999])
    found = Distance(loss_type, huber_schedule, 0.2).losses(output, target, FLOW if of_flow else DISCRETE, timesteps)
    assert found.shape == (4,) and found.dtype == torch.float32
    for i, t in enumerate(timesteps.tolist()):
        if of_flow:
            noise_to_signal = t / (1000 - t)
        else:
            a = SCHEDULER.alphas_cumprod[int(t)].double().item()
            noise_to_signal = ((1 - a) / a) ** 0.5
        c = {
            "constant": 0.2,
            "exponential": math.exp(math.log(0.2) * t / 1000),
            "snr": (1 - 0.2) / (1 + noise_to_signal) ** 2 + 0.2,
        }[huber_schedule]
        d = output[i].double() - target[i].double()
        root = (d**2 + c**2).sqrt()
        elements = {
            "l2": d**2,
            "l1": d.abs(),
            "huber": 2 * c * (root - c),
            "smooth_l1": 2 * (root - c),
            "log_cosh": 2 * c**2 * (d / c).cosh().log(),
        }[loss_type]
        assert found[i].item() == pytest.approx(elements.mean().item(), rel=1e-5)


@pytest.mark.parametrize("huber_c", [table(DreamBoothSettings)["huber_c"].ge, 0.1])
@pytest.mark.parametrize("loss_type", DISTANCES)
def test_gradients_of_distances_are_finite_for_equal_and_for_distant_values(loss_type, huber_c):
    """Also with the least threshold: a teacher's target equals the output before the first step."""
    output = torch.tensor([[0.0, 1e-4, 1e3]], requires_grad=True)
    Distance(loss_type, "constant", huber_c).losses(output, torch.zeros(1, 3), DISCRETE, torch.tensor([999])).sum().backward()
    assert output.grad is not None and output.grad.isfinite().all() and (output.grad >= 0).all() and output.grad[0, 2] > 0


def test_the_squared_distance_is_the_mean_squared_error():
    output, target = pair(2)
    for dtype in (torch.float16, torch.float32, torch.float64):
        found = Distance().losses(output.to(dtype), target, DISCRETE, torch.arange(4))
        assert torch.equal(found, mean_squared_error(output.to(dtype), target))


def test_direct_consistency_by_its_formula():
    """-log(1 / (1 + exp(beta (L - L_base)))); the gradient is beta times the sigmoid of the same."""
    losses = torch.tensor([0.2, 0.1, 0.1, 0.3, 5.0], dtype=torch.float64, requires_grad=True)
    base = torch.tensor([0.2, 0.105, 0.099, 0.2, 0.1], dtype=torch.float64)
    found = direct_consistency(losses, base, 1000.0)
    found.sum().backward()
    for i, (own, other) in enumerate(zip(losses.tolist(), base.tolist(), strict=True)):
        x = 1000 * (own - other)
        assert found[i].item() == pytest.approx(math.log1p(math.exp(x)) if x < 500 else x, rel=1e-12)
        assert losses.grad[i].item() == pytest.approx(1000 / (1 + math.exp(-x)), rel=1e-12)
