"""The visible denoising loop. Every feature of inference is a start, an estimate or a correction given to `sample`.

B images, C latent channels, H W latent height and width.

The network always sees alpha * clean + sigma * noise with alpha^2 + sigma^2 = 1. Some schedulers hold the latents in
this form (DDIM, DPM++, ...), others as clean + (sigma / alpha) * noise and scale them for the network (Euler, Heun,
LMS, ...; Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", section 3).
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor

from customize.diffusion import predictions
from customize.families.conditioning import Conditioning
from customize.inference.estimates import DenoiserInput, Estimate

Network = Callable[[Tensor, Tensor, Conditioning], Tensor]
"""(noisy latents [B, C, H, W], timesteps [B], conditioning of B rows) -> model output [B, C, H, W]."""


@dataclass(frozen=True)
class Step:
    """One evaluation of the network: number `index` of `count`, at `timestep` and the level (alpha, sigma).

    `next_timestep` is None at the end; `prediction_type` says how the network's answer is to be read. A scheduler of
    second order evaluates about twice for each of its own steps.
    """

    index: int
    count: int
    timestep: Tensor
    next_timestep: Tensor | None
    alpha: float
    sigma: float
    prediction_type: str

    def split(self, output: Tensor, noisy: Tensor) -> tuple[Tensor, Tensor]:
        """(noise, clean) [B, C, H, W] of the network's input `noisy`, according to its output: see `predictions.split`."""
        return predictions.split(output, noisy, self.alpha, self.sigma, self.prediction_type)

    def output_of(self, clean: Tensor, noisy: Tensor) -> Tensor:
        """The output [B, C, H, W] from which `split` finds these clean latents in `noisy`."""
        return predictions.output_of(clean, noisy, self.alpha, self.sigma, self.prediction_type)


@dataclass(frozen=True)
class Moment:
    """What is known once the network has answered; all tensors are [B, C, H, W].

    latents: before the step, as the scheduler holds them; seen: the same as the network sees them; answers: one for
    each question of `estimate`; noise, clean: what `seen` is taken to be made of.
    """

    step: Step
    latents: Tensor
    seen: Tensor
    estimate: Estimate
    answers: Sequence[Tensor]
    noise: Tensor
    clean: Tensor


Correct = Callable[[Tensor, Moment], Tensor]
"""(latents [B, C, H, W] after a step, what is known of it) -> the latents to go on with."""


def as_they_are(next_latents: Tensor, moment: Moment) -> Tensor:
    """The correction that changes nothing."""
    return next_latents


@dataclass(frozen=True)
class Course:
    """One kind of generation: where it starts, what is asked at each step, what is done after each and at the end.

    start: latents [B, C, H, W]; plan: see `sample`; finish: given the decoded pictures, returns those to show.
    """

    start: Tensor
    estimate: Estimate
    correct: Correct = as_they_are
    plan: Sequence[Step] | None = None
    finish: Callable[[list[Image.Image]], list[Image.Image]] = lambda pictures: pictures


@torch.no_grad()
def sample(
    network: Network,
    scheduler,
    start: Tensor,
    estimate: Estimate,
    *,
    first: int = 0,
    plan: Iterable[Step] | None = None,
    correct: Correct = as_they_are,
    record: Callable[[Moment], None] = lambda moment: None,
    generators: list[torch.Generator] | None = None,
    max_batch: int | None = None,
    **step_options: Any,
) -> Tensor:
    """Denoises `start` [B, C, H, W] and returns the clean latents. The scheduler's timesteps are set already.

    start: noise times `scheduler.init_noise_sigma`, `noised`, or any latents at the level of `plan`'s first step.
    plan: the evaluations, in order; by default every one that the scheduler asks for from place `first` on.
    correct: given the latents after each step, returns those to go on with (inpainting). record: sees every moment.
    generators: one per image, for schedulers that add noise as they go. max_batch: most rows in a call of the network.
    step_options: for `scheduler.step` (DDIM's `eta`, ...).
    """
    if "generator" in inspect.signature(scheduler.step).parameters:
        step_options["generator"] = generators
    latents = start
    for step in plan or steps_of(scheduler, first):
        seen = scheduler.scale_model_input(latents, step.timestep)
        answers = ask(network, estimate.questions(seen, step), step.timestep, max_batch)
        answer = estimate.combine(iter(answers), seen, step)
        noise, clean = step.split(answer, seen)
        next_latents = scheduler.step(answer, step.timestep, latents, **step_options).prev_sample
        moment = Moment(step, latents, seen, estimate, answers, noise, clean)
        record(moment)
        latents = correct(next_latents, moment)
    return latents


def ask(network: Network, questions: Sequence[DenoiserInput], timestep: Tensor, max_batch: int | None) -> list[Tensor]:
    """One answer per question; all go through the network in one batch, or in pieces of at most `max_batch` rows."""
    latents = torch.cat([question.latents for question in questions])
    conditioning = Conditioning.cat([question.conditioning for question in questions])
    timesteps = timestep.to(latents.device).expand(len(latents))
    size = max_batch or len(latents)
    pieces = zip(*(each.split(size) for each in (latents, timesteps, conditioning)), strict=True)
    answers = torch.cat([network(*piece) for piece in pieces]).to(latents.dtype)
    return list(answers.split([len(question.latents) for question in questions]))


def steps_of(scheduler, first: int = 0) -> Iterator[Step]:
    """Every evaluation that the scheduler asks for, from place `first` of its timesteps (Heun, PNDM: more than steps).

    Lazy: the level at which a scheduler of second order asks depends on the step that it has just taken.
    """
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    timesteps, prediction_type = scheduler.timesteps[first:], scheduler.config.prediction_type
    for index, timestep in enumerate(timesteps):
        next_timestep = timesteps[index + 1] if index + 1 < len(timesteps) else None
        yield Step(index, len(timesteps), timestep, next_timestep, *level(scheduler, first + index), prediction_type)


def level(scheduler, place: int) -> tuple[float, float]:
    """(alpha, sigma) of what the network sees at `place` of the scheduler's timesteps."""
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is None:
        alphas_cumprod = float(scheduler.alphas_cumprod[int(scheduler.timesteps[place])])
        return alphas_cumprod**0.5, (1 - alphas_cumprod) ** 0.5
    if hasattr(scheduler, "sigmas_interpol") and not scheduler.state_in_first_order:  # at a midpoint of KDPM2
        place -= "Ancestral" in type(scheduler).__name__  # which keeps them one place earlier
        sigmas = scheduler.sigmas_interpol
    ratio = float(sigmas[place])
    alpha = (1 + ratio**2) ** -0.5
    return alpha, ratio * alpha


def draw_noise(shape: Sequence[int], generators: list[torch.Generator], like: Tensor) -> Tensor:
    """Standard normal numbers [B, C, H, W], an image's from its own generator; dtype and device of `like`."""
    return randn_tensor(tuple(shape), generator=generators, device=like.device, dtype=like.dtype)


def noised(scheduler, clean: Tensor, noise: Tensor, first: int) -> Tensor:
    """The start of image to image: clean latents [B, C, H, W] noised to the level at place `first` of the timesteps.

    Meng et al. 2021, "SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations".
    """
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    return scheduler.add_noise(clean, noise, scheduler.timesteps[first : first + 1].repeat(len(clean)))


def first_place(scheduler, num_inference_steps: int, strength: float) -> int:
    """The place in `scheduler.timesteps` where image to image begins, as `StableDiffusionImg2ImgPipeline` counts it.

    strength: in 0..1, the part of the schedule that is run, rounded down to whole steps.
    """
    kept = min(int(num_inference_steps * strength), num_inference_steps)
    return (num_inference_steps - kept) * scheduler.order
