"""Inpainting: regenerates a masked part of an image and keeps the rest.

B images, C latent channels, H W latent height and width. A mask is 1 where the image is regenerated, 0 where it is known, and
between 0 and 1 where both are blended. Inpainting UNets were trained on binary masks, so their input is rounded.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from customize.errors import InputError, Problem
from customize.families.base import Family
from customize.inference.estimates import Estimate, WithChannels
from customize.inference.masks import levels, scaled
from customize.inference.sampler import Correct, DenoisingTask, StepResult, draw_noise
from customize.inference.solvers import Solver
from customize.inference.step import Step


class ImageEncoder(Protocol):
    """Converts images and seeds to latents; implemented by `Pipeline`."""

    family: Family

    def noise(self, size: tuple[int, int], generators: list[torch.Generator]) -> Tensor: ...
    def encode(self, images: Sequence[Image.Image], generators: Sequence[torch.Generator]) -> Tensor: ...
    def encode_pixels(self, pixels: Tensor, generator: torch.Generator) -> Tensor: ...


@dataclass(frozen=True)
class Known:
    """The known part of B images. latents: [B, C, H, W], clean; noise: the same shape; mask: [B, 1, H, W] in 0..1."""

    latents: Tensor
    noise: Tensor
    mask: Tensor

    def keep_known(self, solver: Solver) -> Correct:
        """Replaces the known region after each step by the original, noised to the current level with the same noise.

        Song et al. 2021, "Score-Based Generative Modeling through SDEs", section 5; noise as in Stable Diffusion's pipeline.
        """

        def correct(next_latents: Tensor, result: StepResult) -> Tensor:
            return self.joined(next_latents, solver.noised(self.latents, self.noise, result.step.next_timestep))

        return correct

    def keep_clean(self, next_latents: Tensor, result: StepResult) -> Tensor:
        """Keeps the known region without noise, as DeepFloyd IF's authors and diffusers' `IFInpaintingPipeline` do."""
        return self.joined(next_latents, self.latents)

    def resampled(self, solver: Solver, plan: list[Step], generators: list[torch.Generator]) -> Correct:
        """RePaint (Lugmayr et al. 2022), algorithm 1: fresh noise on the known region at each step. Where the plan jumps
        back, x_t = sqrt(a_t / a_s) x_s + sqrt(1 - a_t / a_s) noise, which harmonizes both regions.
        """

        def correct(next_latents: Tensor, result: StepResult) -> Tensor:
            reached = result.step.next_timestep
            noise = draw_noise(self.noise.shape, generators, like=self.noise)
            joined = self.joined(next_latents, solver.noised(self.latents, noise, reached))
            following = plan[result.step.index + 1] if result.step.index + 1 < len(plan) else None
            if following is None or following.timestep == reached:
                return joined
            signal = following.alpha / next((step.alpha for step in plan if step.timestep == reached), 1.0)
            return signal * joined + (1 - signal**2) ** 0.5 * draw_noise(joined.shape, generators, like=joined)

        return correct

    def joined(self, generated: Tensor, known: Tensor) -> Tensor:
        """[B, C, H, W]: `generated` where the mask is 1, `known` where it is 0."""
        return (1 - self.mask) * known + self.mask * generated


def inpainting_task(
    pipeline: ImageEncoder,
    solver: Solver,
    estimate: Estimate,
    images: Sequence[Image.Image],
    masks: Sequence[Tensor],
    generators: list[torch.Generator],
    num_resamples: int = 1,
    jump_length: int = 10,
) -> DenoisingTask:
    """The task that regenerates the masked part of the images: starts from noise at full strength, else from the noised images.

    images: RGB, of one size (height, width); masks: [1, 1, height, width]. An inpainting UNet receives the mask and the known
    part as additional input channels; for any other model the known part is restored after each step.
    Raises InputError as `repaint_plan`.
    """
    mask = torch.cat(list(masks))
    takes_mask = pipeline.family.takes_mask

    def finish(generated: list[Image.Image]) -> list[Image.Image]:
        return [paste(*parts) for parts in zip(generated, images, masks, strict=True)]

    space, clean = pipeline.family.latents, pipeline.family.keeps_known_clean and num_resamples == 1
    latents = pipeline.encode(images, generators) if solver.first or not takes_mask else None
    noise = pipeline.noise(mask.shape[2:], generators)
    small = to_latents(mask, space.factor).to(noise)
    start = solver.start(noise, latents if solver.first or clean else None)
    if takes_mask:
        masked = [as_pixels(image) * (mask < 0.5) for image, mask in zip(images, masks, strict=True)]
        encoded = [pipeline.encode_pixels(pixels, generator) for pixels, generator in zip(masked, generators, strict=True)]
        channels = torch.cat([(small >= 0.5).to(small), torch.cat(encoded)], 1)
        return DenoisingTask(start, WithChannels(estimate, channels), finish=finish)
    known = Known(latents, noise, small)
    if clean:
        return DenoisingTask(known.joined(start, latents), estimate, known.keep_clean, finish=finish)
    if space.is_random:
        draw_noise(latents.shape, generators, like=latents)  # stock pipelines encode the known part for every model
    if num_resamples == 1:
        return DenoisingTask(start, estimate, known.keep_known(solver), finish=finish)
    plan = repaint_plan(solver, jump_length, num_resamples)
    return DenoisingTask(start, estimate, known.resampled(solver, plan, generators), plan, finish)


def repaint_plan(solver: Solver, jump_length: int, num_resamples: int) -> list[Step]:
    """The evaluations of RePaint's figure 9: each stretch of `jump_length` steps is run `num_resamples` times in total, with a
    jump back between them. Raises InputError for a multistep scheduler.
    """
    if not solver.is_memoryless:
        what = f"{type(solver.scheduler).__name__} depends on earlier steps, so it cannot jump back"
        raise InputError(Problem("scheduler", what, "use DDIM or DDPM with --num_resamples"))
    return list(solver.steps(list(repaint_places(solver.first, len(solver.timesteps), jump_length, num_resamples))))


def repaint_places(first: int, end: int, jump_length: int, num_resamples: int) -> Iterator[int]:
    """The indices of the timesteps to evaluate, in order: stretches of `jump_length`, each `num_resamples` times."""
    for begin in range(first, end, jump_length):
        for _ in range(num_resamples):
            yield from range(begin, min(begin + jump_length, end))


def as_pixels(image: Image.Image) -> Tensor:
    """An RGB image as pixels [1, 3, height, width], float32 in [-1, 1]."""
    return torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1)[None] / 127.5 - 1


def read_mask(mask: Image.Image, size: tuple[int, int]) -> Tensor:
    """A mask (white: regenerate; see `masks.levels`), fitted to (height, width) like the image: [1, 1, height, width] in 0..1."""
    grey = mask if mask.mode == "L" else levels(mask)[0]
    return torch.from_numpy(np.array(scaled(grey, size[::-1]), dtype=np.float32) / 255)[None, None]


def to_latents(mask: Tensor, factor: int) -> Tensor:
    """[B, 1, factor * H, factor * W] -> [B, 1, H, W] by nearest neighbour, as stock pipelines downsample masks."""
    return F.interpolate(mask, scale_factor=1 / factor)


def paste(generated: Image.Image, original: Image.Image, mask: Tensor) -> Image.Image:
    """The generated image with every pixel of the known region taken from the original (both RGB, of the mask's size)."""
    selection = Image.fromarray((mask[0, 0] * 255).round().to(torch.uint8).numpy())
    return Image.composite(generated, original, selection)
