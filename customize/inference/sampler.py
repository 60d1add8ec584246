"""The denoising loop. Every feature of inference is a start, an estimate or a correction passed to `sample`.

B images, C latent channels, H W latent height and width.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor

from customize.families.base import DenoiserOutput
from customize.families.conditioning import Conditioning
from customize.inference.estimates import DenoiserInput, Estimate, mean_variance
from customize.inference.solvers import Solver
from customize.inference.step import Step

Denoiser = Callable[[Tensor, Tensor, Conditioning], DenoiserOutput]
"""(noisy latents [B, C, H, W], timesteps [B], conditioning of B rows) -> output, see `Family.predict`."""


@dataclass(frozen=True)
class StepResult:
    """The result of one evaluation step; all tensors are [B, C, H, W].

    latents: before the step, in the solver's scaling; model_input: the same, scaled for the denoiser; outputs: one per input of
    `estimate`; noise, clean: predicted noise and predicted clean latents, these as the solver uses them (`Solver.limited`).
    """

    step: Step
    latents: Tensor
    model_input: Tensor
    estimate: Estimate
    outputs: Sequence[Tensor]
    noise: Tensor
    clean: Tensor


Correct = Callable[[Tensor, StepResult], Tensor]
"""(latents [B, C, H, W] after a step, its result) -> the latents for the next step, both in the solver's scaling.

The solver's step is done; an `Estimate` changes the predicted clean latents before it."""


def unchanged(next_latents: Tensor, result: StepResult) -> Tensor:
    """The identity correction."""
    return next_latents


@dataclass(frozen=True)
class DenoisingTask:
    """The inputs of one call of `sample`, and a function for the decoded images.

    start: latents [B, C, H, W]; estimate, correct, plan: see `sample`; finish: decoded images -> final images.
    """

    start: Tensor
    estimate: Estimate
    correct: Correct = unchanged
    plan: Sequence[Step] | None = None
    finish: Callable[[list[Image.Image]], list[Image.Image]] = lambda images: images


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    solver: Solver,
    start: Tensor,
    estimate: Estimate,
    *,
    plan: Iterable[Step] | None = None,
    correct: Correct = unchanged,
    record: Callable[[StepResult], None] = lambda result: None,
    max_batch: int | None = None,
) -> Tensor:
    """Denoises `start` [B, C, H, W] and returns the clean latents. Call `solver.set_steps` first.

    start: from `solver.start`, or any latents at the noise level of the first step. plan: the evaluations, in order (default:
    `solver.steps()`). correct: modifies the latents after each step (inpainting). record: a callback for the result of each
    step. max_batch: largest number of rows per call of the denoiser.
    """
    latents = start
    for step in plan or solver.steps():
        model_input = solver.scale(latents, step.timestep)
        inputs = estimate.inputs(model_input, step)
        evaluated = evaluate(denoiser, inputs, step.timestep, max_batch)
        outputs = [each.prediction for each in evaluated]
        output = estimate.combine(iter(outputs), model_input, step)
        noise, clean = step.split(output, model_input)
        result = StepResult(step, latents, model_input, estimate, outputs, noise, solver.limited(clean))
        next_latents = solver.step(output, step, latents, mean_variance(inputs, evaluated))
        record(result)
        latents = correct(next_latents, result)
    return latents


def evaluate(
    denoiser: Denoiser, inputs: Sequence[DenoiserInput], timestep: Tensor, max_batch: int | None
) -> list[DenoiserOutput]:
    """Returns one output per input. All go through the denoiser in one batch, or in chunks of at most `max_batch` rows."""
    latents = torch.cat([each.latents for each in inputs])
    conditioning = Conditioning.cat([each.conditioning for each in inputs])
    timesteps = timestep.to(latents.device).expand(len(latents))
    size = max_batch or len(latents)
    pieces = zip(*(each.split(size) for each in (latents, timesteps, conditioning)), strict=True)
    outputs = [denoiser(*piece) for piece in pieces]
    rows = [len(each.latents) for each in inputs]
    predictions = torch.cat([each.prediction for each in outputs]).to(latents.dtype).split(rows)
    variances = [each.variance for each in outputs if each.variance is not None]
    if not variances:
        return [DenoiserOutput(prediction) for prediction in predictions]
    return list(map(DenoiserOutput, predictions, torch.cat(variances).to(latents.dtype).split(rows)))


def draw_noise(shape: Sequence[int], generators: list[torch.Generator], like: Tensor) -> Tensor:
    """Standard normal noise [B, C, H, W], each image's from its own generator, in the dtype and on the device of `like`."""
    return randn_tensor(tuple(shape), generator=generators, device=like.device, dtype=like.dtype)
