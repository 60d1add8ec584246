"""Solvers of flow matching against loops written by hand, and what all solvers have in common."""

import diffusers
import pytest
import torch
from kit import conditioning, denoiser, hidden_states
from test_illusions import scheduler
from torch import Tensor

from customize.errors import InputError
from customize.inference.estimates import Conditional, guided
from customize.inference.inpainting import Known, repaint_plan
from customize.inference.sampler import sample
from customize.inference.schedulers import make_scheduler, scheduler_names
from customize.inference.solvers import Solver

CLOSE = {"rtol": 0, "atol": 1e-5}
STEPS = 6
PROMPT, NEGATIVE = (Conditional(conditioning(torch.full((2, 3, 4), value))) for value in (0.5, -0.2))


def rand(seed: int) -> Tensor:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def network(latents: Tensor, timesteps: Tensor, prompt) -> Tensor:
    """A velocity that bends: of the latents, the time and the prompt."""
    words, time = hidden_states(prompt).mean((1, 2)).view(-1, 1, 1, 1), timesteps.view(-1, 1, 1, 1) / 1000
    return torch.sin(2 * latents + words) + time * words - 0.3 * latents


def flow(shift: float = 1.0, steps: int = STEPS, strength: float = 1.0, name: str = "FlowMatchEulerDiscreteScheduler") -> Solver:
    solver = Solver(make_scheduler(getattr(diffusers, name)(shift=shift)))
    solver.set_steps(steps, strength)
    return solver


def sigmas_by_hand(shift: float, steps: int) -> list[float]:
    """From pure noise to 1 / 1000 in even steps, twice shifted as diffusers does it, then 0."""
    shifted = [shift * t / (1 + (shift - 1) * t) for t in (1.0, 0.001)]
    even = [shifted[0] + (shifted[1] - shifted[0]) * i / (steps - 1) for i in range(steps)]
    return [shift * t / (1 + (shift - 1) * t) for t in even] + [0.0]


def euler_by_hand(x: Tensor, sigmas: list[float], scale: float, after=lambda x, sigma: x) -> Tensor:
    """dx/dt = v along the straight paths x_t = (1 - t) x_0 + t noise, by Euler's method."""
    for sigma, following in zip(sigmas, sigmas[1:], strict=False):
        time = torch.full((2,), 1000 * sigma)
        negative, positive = (network(x, time, each.conditioning) for each in (NEGATIVE, PROMPT))
        x = after(x + (following - sigma) * (negative + scale * (positive - negative)), following)
    return x


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_text_to_image_of_a_flow_is_euler_s_method(shift):
    solver, results = flow(shift), []
    found = sample(denoiser(network), solver, solver.start(rand(0)), guided(PROMPT, NEGATIVE, 3.0), record=results.append)
    sigmas = sigmas_by_hand(shift, STEPS)
    torch.testing.assert_close(found, euler_by_hand(rand(0), sigmas, 3.0), **CLOSE)
    assert [result.step.sigma for result in results] == pytest.approx(sigmas[:-1], abs=1e-6)
    assert all(result.step.alpha == 1 - result.step.sigma for result in results)
    for result, sigma in zip(results, sigmas, strict=False):
        negative, positive = result.outputs
        velocity = negative + 3 * (positive - negative)
        torch.testing.assert_close(result.clean, result.latents - sigma * velocity, **CLOSE)
        torch.testing.assert_close(result.noise, result.latents + (1 - sigma) * velocity, **CLOSE)


@pytest.mark.parametrize("strength", [0.5, 0.84])
def test_image_to_image_of_a_flow_starts_between_image_and_noise(strength):
    solver, image, noise = flow(3.0, strength=strength), rand(1), rand(0)
    sigmas = sigmas_by_hand(3.0, STEPS)[STEPS - int(STEPS * strength) :]
    start = solver.start(noise, image)
    torch.testing.assert_close(start, (1 - sigmas[0]) * image + sigmas[0] * noise, **CLOSE)
    found = sample(denoiser(network), solver, start, guided(PROMPT, NEGATIVE, 3.0))
    torch.testing.assert_close(found, euler_by_hand(start, sigmas, 3.0), **CLOSE)


def test_inpainting_of_a_flow_keeps_the_known_region_at_every_level():
    solver, image, noise = flow(3.0), rand(1), rand(0)
    mask = torch.zeros(2, 1, 8, 8)
    mask[..., :4] = 1

    def after(x: Tensor, sigma: float) -> Tensor:
        return mask * x + (1 - mask) * ((1 - sigma) * image + sigma * noise)

    correct = Known(image, noise, mask).keep_known(solver)
    found = sample(denoiser(network), solver, solver.start(noise), guided(PROMPT, NEGATIVE, 3.0), correct=correct)
    torch.testing.assert_close(found, euler_by_hand(noise, sigmas_by_hand(3.0, STEPS), 3.0, after), **CLOSE)
    assert torch.equal(found[..., 4:], image[..., 4:])


@pytest.mark.parametrize("name", ["FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"])
def test_a_perfect_flow_network_ends_at_the_image(name):
    solver, image, results = flow(name=name), rand(1), []

    def perfect(latents: Tensor, timesteps: Tensor, prompt) -> Tensor:
        return (latents - image) / (timesteps.view(-1, 1, 1, 1) / 1000)

    found = sample(denoiser(perfect), solver, solver.start(rand(0)), PROMPT, record=results.append)
    torch.testing.assert_close(found, image, rtol=0, atol=1e-4)
    for result in results:
        torch.testing.assert_close(result.clean, image, rtol=0, atol=1e-4)


def test_a_flow_is_not_offered_the_samplers_of_other_models():
    base = diffusers.FlowMatchEulerDiscreteScheduler()
    assert scheduler_names(base) == ["FlowMatchEulerDiscreteScheduler"]
    with pytest.raises(InputError, match="DDIM does not fit this base model"):
        make_scheduler(base, "DDIM")
    with pytest.raises(InputError, match="cannot jump back"):
        repaint_plan(flow(), 2, 2)


@pytest.mark.parametrize("name", scheduler_names(scheduler()))
def test_noised_latents_are_at_the_level_of_the_next_evaluation(name):
    """What a correction puts in place of the latents is, as the network sees it, alpha * clean + sigma * noise."""
    solver = Solver(scheduler(name=name, steps=5), [torch.Generator().manual_seed(seed) for seed in (1, 2)])
    clean, noise, results = rand(1), rand(0), []

    def correct(next_latents: Tensor, result) -> Tensor:
        return solver.noised(clean, noise, result.step.next_timestep)

    found = sample(denoiser(network), solver, solver.start(noise), PROMPT, correct=correct, record=results.append)
    assert found is clean
    for result in results[1:]:
        expected = result.step.alpha * clean + result.step.sigma * noise
        torch.testing.assert_close(result.model_input, expected, rtol=0, atol=1e-4)


def test_the_noise_that_a_scheduler_adds_is_each_image_s_own():
    def run(name: str, eta: float, seeds: tuple[int, int]) -> Tensor:
        solver = Solver(scheduler(name=name), [torch.Generator().manual_seed(seed) for seed in seeds], eta)
        return sample(denoiser(network), solver, solver.start(rand(0)), PROMPT)

    for name, eta in (("DDIM", 0.7), ("Euler a", 0.0)):
        both, other = run(name, eta, (1, 2)), run(name, eta, (1, 3))
        assert torch.equal(both[0], other[0]) and not torch.equal(both[1], other[1])
    assert torch.equal(run("DDIM", 0.0, (1, 2)), run("DDIM", 0.0, (1, 3)))
