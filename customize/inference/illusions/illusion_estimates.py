"""Illusions: one picture that shows several things, as estimates made of one estimate for each of them.

Each of these estimates is complete by itself: guidance (and whatever else) happens inside it.

B images, C channels, H W height and width, of pixels or of latents; V views, N components.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from torch.nn import functional as F

from customize.diffusion.predictions import add_noise
from customize.errors import InputError, Problem
from customize.inference.estimates import DenoiserInput, Estimate
from customize.inference.illusions.views import VIEWS, View
from customize.inference.sampler import StepResult
from customize.inference.solvers import Solver
from customize.inference.step import Step


@dataclass(frozen=True)
class Anagram:
    """mean_i view_i^-1(estimate_i(view_i(x_t))): Geng, Park & Owens 2024, "Visual Anagrams", section 3, parallel denoising.

    alternate: one view in turn at each evaluation instead of the mean. Answers need not be epsilon: v and clean are linear
    in noise and clean too, and so is a view, so that combining answers is combining noises.
    """

    estimates: Sequence[Estimate]
    views: Sequence[View]
    mode: Literal["mean", "alternate"] = "mean"

    def inputs(self, latents: Tensor, step: Step) -> list[DenoiserInput]:
        return [each for estimate, view in self.asked(step) for each in estimate.inputs(view(latents), step)]

    def combine(self, outputs: Iterator[Tensor], latents: Tensor, step: Step) -> Tensor:
        parts = [view.inverse(estimate.combine(outputs, view(latents), step)) for estimate, view in self.asked(step)]
        return torch.stack(parts).mean(0)

    def asked(self, step: Step) -> list[tuple[Estimate, View]]:
        """The pairs that this step's answer is made of."""
        pairs = list(zip(self.estimates, self.views, strict=True))
        return pairs if self.mode == "mean" else [pairs[step.index % len(pairs)]]


def anagram(
    parts: Sequence[tuple[Estimate, View]], mode: Literal["mean", "alternate"] = "mean", *, latent: bool, lessons: bool = False
) -> Anagram:
    """The anagram of (estimate, view) pairs. latent: the network's pictures are latents.

    Raises InputError, naming each, for views that change the statistics of the noise (unless as `lessons`), and for views
    that are about colours on latents.
    """
    estimates, views = zip(*parts, strict=True)
    problems = [
        Problem("views", f"{view.name} is not orthogonal: the noise that it shows is not standard normal", "take another view")
        for view in views
        if not (view.orthogonal or lessons)
    ] + [
        Problem("views", f"{view.name} changes colours, which in latents is another change", "use LookingGlass for it")
        for view in views
        if latent and view.orthogonal and not view.permutes
    ]
    if problems:
        raise InputError(problems)
    return Anagram(estimates, views, mode)


@dataclass(frozen=True)
class Components:
    """A picture as a sum. split: [B, C, H, W] -> one linear part [B, C, H, W] for each name; their sum is the picture."""

    names: tuple[str, ...]
    split: Callable[[Tensor], Sequence[Tensor]]


@dataclass(frozen=True)
class Factorised:
    """sum_i f_i(estimate_i(x_t)) with sum_i f_i = identity: Geng, Park & Owens 2024, "Factorized Diffusion: Perceptual
    Illusions by Noise Decomposition". As in `Anagram`, answers need not be epsilon. Raises ValueError for another number of
    estimates than of components.
    """

    estimates: Sequence[Estimate]
    components: Components

    def __post_init__(self) -> None:
        if len(self.estimates) != len(self.components.names):
            raise ValueError(f"{len(self.estimates)} estimates for the components {', '.join(self.components.names)}")

    def inputs(self, latents: Tensor, step: Step) -> list[DenoiserInput]:
        return [each for estimate in self.estimates for each in estimate.inputs(latents, step)]

    def combine(self, outputs: Iterator[Tensor], latents: Tensor, step: Step) -> Tensor:
        splits = [self.components.split(estimate.combine(outputs, latents, step)) for estimate in self.estimates]
        return torch.stack([parts[i] for i, parts in enumerate(splits)]).sum(0)


def hybrid(sigma: float = 2.0, kernel: int = 33) -> Components:
    """What is seen from far away and from near by. sigma, kernel: of the Gaussian, in pixels of 64, scaled with the height."""

    def split(tensor: Tensor) -> Sequence[Tensor]:
        low = gaussian(tensor, sigma, kernel)
        return low, tensor - low

    return Components(("low", "high"), split)


def triple(sigmas: tuple[float, float] = (1.0, 2.0), kernel: int = 25) -> Components:
    """Three bands, by two Gaussians one after the other (see `hybrid`)."""

    def split(tensor: Tensor) -> Sequence[Tensor]:
        lower = gaussian(tensor, sigmas[0], kernel)
        low = gaussian(lower, sigmas[1], kernel)
        return low, lower - low, tensor - lower

    return Components(("low", "middle", "high"), split)


def colour() -> Components:
    """The mean of the channels, and what colours it. For pixels: the mean of a latent's channels is not its brightness."""

    def split(tensor: Tensor) -> Sequence[Tensor]:
        grey = tensor.mean(1, keepdim=True).expand_as(tensor)
        return grey, tensor - grey

    return Components(("grey", "colour"), split)


def motion(kernel: int = 7) -> Components:
    """What is seen of it as it moves along the diagonal, and the rest. kernel: the way, in pixels of 64, scaled."""

    def split(tensor: Tensor) -> Sequence[Tensor]:
        size = math.ceil(kernel * tensor.shape[-2] / 64) | 1
        moved = filtered(tensor, torch.eye(size, dtype=torch.float64) / size)
        return moved, tensor - moved

    return Components(("moving", "rest"), split)


def regions(masks: Tensor) -> Components:
    """Places of the picture. masks: [N - 1, H, W] in 0..1, together at most 1; the last component is the rest."""
    places = [*masks, 1 - masks.sum(0)]
    names = (*(f"region {i + 1}" for i in range(len(masks))), "rest")
    return Components(names, lambda tensor: [tensor * place.to(tensor) for place in places])


def gaussian(tensor: Tensor, sigma: float, kernel: int) -> Tensor:
    """Blurs [B, C, H, W] with sigma * H / 64 in a window of kernel * H / 64 pixels, or one more: it is odd."""
    scale = tensor.shape[-2] / 64
    size = math.ceil(kernel * scale) | 1
    weights = torch.exp(-(((torch.arange(size, dtype=torch.float64) - size // 2) / (sigma * scale)) ** 2) / 2)
    weights /= weights.sum()
    return filtered(filtered(tensor, weights[:, None]), weights[None])


def filtered(tensor: Tensor, kernel: Tensor) -> Tensor:
    """Convolves each channel of [B, C, H, W] with [odd, odd]; beyond its edges the picture is mirrored."""
    height, width = kernel.shape
    padded = F.pad(tensor, (width // 2, width // 2, height // 2, height // 2), mode="reflect")
    channels = tensor.shape[1]
    return F.conv2d(padded, kernel.to(tensor).expand(channels, 1, height, width), groups=channels)


def keep_component(
    components: Components, real: Tensor, solver: Solver, generators: list[torch.Generator], *, index: int = 0
) -> Callable[[Tensor, StepResult], Tensor]:
    """A correction for `sample`: one component is that of a real picture throughout ("Factorized Diffusion", inverse hybrids).

    After each step x becomes x - f(x) + f(real), f being the component `index` and real [B, C, H, W] under fresh noise of the
    level reached, at the end without. If f is a projection (`colour`, `regions` of 0 and 1), f of the result is f(real); a
    blur is none: of a hybrid, it is so up to f(x - f(x)) of what was made. f must not be below 0 or above 1 for any frequency, or
    errors grow from step to step: `motion` will not do.
    """

    def correct(next_latents: Tensor, result: StepResult) -> Tensor:
        noise = randn_tensor(real.shape, generator=generators, device=real.device, dtype=real.dtype)
        target, reached = real, result.step.next_timestep
        if reached is not None:
            level = solver.level(solver.first + result.step.index + 1)
            target = solver.unscale(add_noise(real, noise, *level), reached)
        return next_latents + components.split(target - next_latents)[index]

    return correct


@dataclass(frozen=True)
class LookingGlass:
    """Anagrams of latent models, by views of pixels: Chang et al. 2025, "LookingGlass: Generative Anamorphoses via Laplacian
    Pyramid Warping", algorithm 1, for views that show all of the picture.

    Each view has latents of its own, so those of `sample` are [V * B, C, H, W], all pictures of a view together; afterwards
    view i's pictures are `latents.chunk(V)[i]`. The paper starts each from noise of its own; drawn with `generators * V`,
    which `sample` is given too, a picture depends on its own seed only.
    At each step the clean latents that the views predict are decoded, undone, blended to one picture (`blended`), seen
    through each view and encoded again; what the autoencoder lost of them (z - encode(decode(z)), equation 8) is blended
    likewise, by the views of the latents, and given back. Any view with a true inverse will do, orthogonal or not; those
    of colours are no views of latents, where they leave what was lost as it is.

    encode: pixels [B, 3, 8H, 8W] in [-1, 1] -> latents [B, C, H, W], without chance; decode: the way back.
    detail: alpha of equation 15, 0.25 to 0.5 in the paper. first: the part of the steps, at their beginning, that blends
    latents instead (equation 6): ours, to spare the autoencoder pictures that are mere blots; 0 is the paper's.
    alone: the part of the steps, at their end, in which only the first view is asked and the others follow it: 0.2 hides, at the
    1024 pixels of the paper, what would give the others away, and wipes them out at 64.
    """

    estimates: Sequence[Estimate]
    views: Sequence[View]
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    detail: float = 0.25
    first: float = 0.3
    alone: float = 0.0

    def inputs(self, latents: Tensor, step: Step) -> list[DenoiserInput]:
        return [each for estimate, own in self.asked(latents, step) for each in estimate.inputs(own, step)]

    def combine(self, outputs: Iterator[Tensor], latents: Tensor, step: Step) -> Tensor:
        answered = [(estimate.combine(outputs, own, step), own) for estimate, own in self.asked(latents, step)]
        clean = [step.split(output, own)[1] for output, own in answered]
        in_latents = step.index < round(self.first * step.count) and all(view.permutes for view in self.views)
        agreed = self.shared(clean, self.views) if in_latents else self.shared_pixels(clean)
        return step.output_of(torch.cat(agreed).to(latents), latents)

    def asked(self, latents: Tensor, step: Step) -> list[tuple[Estimate, Tensor]]:
        """The estimates that this step's answer is made of, each with its view's own latents [B, C, H, W]."""
        pairs = list(zip(self.estimates, latents.unflatten(0, (len(self.views), -1)), strict=True))
        return pairs if step.index < round((1 - self.alone) * step.count) else pairs[:1]

    def shared(self, seen: Sequence[Tensor], views: Sequence[View]) -> list[Tensor]:
        """What the first views see, blended to one picture, as all views see it (lines 8, 9, 11, 13 of the algorithm)."""
        one = blended([view.inverse(tensor) for view, tensor in zip(views, seen, strict=False)], self.detail)
        return [view(one) for view in views]

    def shared_pixels(self, clean: Sequence[Tensor]) -> list[Tensor]:
        """The same for clean latents [B, C, H, W], in pixels, with what the autoencoder loses given back."""
        pictures = [self.decode(latents) for latents in clean]
        lost = [latents - self.encode(picture) for latents, picture in zip(clean, pictures, strict=True)]
        in_latents = [view if view.permutes else VIEWS["identity"]() for view in self.views]
        parts = zip(self.shared(pictures, self.views), self.shared(lost, in_latents), strict=True)
        return [self.encode(picture) + correction for picture, correction in parts]


def blended(pictures: Sequence[Tensor], detail: float) -> Tensor:
    """One of several [B, C, H, W], each band of their Laplacian pyramids by itself: Chang et al. 2025, equations 14 and 15.

    avg + detail * (vavg - avg), where vavg weights each value by its size, so that strong detail is not averaged away. With
    detail 0 it is the mean; one picture alone stays as it is.
    """
    bands = []
    for band in map(torch.stack, zip(*map(laplacian_pyramid, pictures), strict=True)):
        weights = band.abs() / band.abs().sum(0).clamp(min=torch.finfo(band.dtype).tiny)
        bands.append(torch.lerp(band.mean(0), (weights * band).sum(0), detail))
    return reduce(lambda coarse, band: band + enlarged(coarse, band), reversed(bands))


def laplacian_pyramid(picture: Tensor) -> list[Tensor]:
    """[B, C, H, W] as bands from fine to coarse, each half as large as the one before, down to a side below 8 pixels.

    Burt & Adelson 1983, "The Laplacian Pyramid as a Compact Image Code".
    """
    bands = []
    while min(picture.shape[-2:]) >= 8:
        small = F.avg_pool2d(picture, 2, ceil_mode=True)
        bands.append(picture - enlarged(small, picture))
        picture = small
    return [*bands, picture]


def enlarged(small: Tensor, like: Tensor) -> Tensor:
    """[B, C, h, w] -> the height and width of `like`."""
    return F.interpolate(small, like.shape[-2:], mode="bilinear")
