"""Illusions: images that show several things, as estimates that combine one estimate per prompt.

Each of the combined estimates is complete in itself and includes its guidance.

B images, C channels, H W height and width, of pixels or of latents; V views, N components.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Literal

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from torch.nn import functional as F

from customize.diffusion.predictions import add_noise
from customize.errors import InputError, Problem
from customize.inference.estimates import DenoiserInput, Estimate
from customize.inference.illusions.components import Components
from customize.inference.illusions.transformations import View
from customize.inference.illusions.views import VIEWS
from customize.inference.sampler import StepResult
from customize.inference.solvers import Solver
from customize.inference.step import Step


@dataclass(frozen=True)
class Anagram:
    """mean_i view_i^-1(estimate_i(view_i(x_t))): Geng, Park & Owens 2024, "Visual Anagrams", section 3, parallel denoising.

    alternate: one view per evaluation, in turn, instead of the mean. Outputs need not be epsilon: v and clean are linear in noise
    and clean, and so are views, so combining outputs is equivalent to combining noises.
    """

    estimates: Sequence[Estimate]
    views: Sequence[View]
    mode: Literal["mean", "alternate"] = "mean"

    def inputs(self, latents: Tensor, step: Step) -> list[DenoiserInput]:
        return [seen_by(view, each) for estimate, view in self.active(step) for each in estimate.inputs(view(latents), step)]

    def combine(self, outputs: Iterator[Tensor], latents: Tensor, step: Step) -> Tensor:
        parts = [view.inverse(estimate.combine(outputs, view(latents), step)) for estimate, view in self.active(step)]
        return torch.stack(parts).mean(0)

    def active(self, step: Step) -> list[tuple[Estimate, View]]:
        """The pairs that contribute to this step."""
        pairs = list(zip(self.estimates, self.views, strict=True))
        return pairs if self.mode == "mean" else [pairs[step.index % len(pairs)]]


def seen_by(view: View, each: DenoiserInput) -> DenoiserInput:
    """An input whose latents were made of transformed ones. Its variance is transformed back if the view only permutes pixels: a
    variance has no sign, so the authors leave it as it is under `negate`.
    """
    back = view.inverse if view.permutes else (lambda variance: variance)
    return replace(each, seen=lambda x: each.seen(view(x)), variance_back=lambda x: back(each.variance_back(x)))


def anagram(
    parts: Sequence[tuple[Estimate, View]], mode: Literal["mean", "alternate"] = "mean", *, negates: bool, lessons: bool = False
) -> Anagram:
    """The anagram of (estimate, view) pairs. negates: see `LatentSpace.negates`.

    Raises one InputError for all views that change the statistics of the noise (unless `lessons`), and for views of colours where
    latents have no colours.
    """
    estimates, views = zip(*parts, strict=True)
    problems = [
        Problem("views", f"{view.name} is not orthogonal: the transformed noise is not standard normal", "use another view")
        for view in views
        if not (view.orthogonal or lessons)
    ] + [
        Problem("views", f"{view.name} changes colours, which is not possible in these latents", "use LookingGlass for it")
        for view in views
        if not negates and view.orthogonal and not view.permutes
    ]
    if problems:
        raise InputError(problems)
    return Anagram(estimates, views, mode)


@dataclass(frozen=True)
class Factorised:
    """sum_i f_i(estimate_i(x_t)) with sum_i f_i = identity: Geng, Park & Owens 2024, "Factorized Diffusion: Perceptual
    Illusions by Noise Decomposition". As in `Anagram`, outputs need not be epsilon. Raises ValueError if the numbers of
    estimates and components differ.
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


def keep_component(
    components: Components, real: Tensor, solver: Solver, generators: list[torch.Generator], *, index: int = 0
) -> Callable[[Tensor, StepResult], Tensor]:
    """A correction for `sample` that keeps one component of a real image ("Factorized Diffusion", inverse hybrids).

    After each step x becomes x - f(x) + f(real), where f is the component `index`, and real [B, C, H, W] has fresh noise of the
    current level (none at the end). If f is a projection (`colour`, `regions` of 0 and 1), f of the result equals f(real). A blur
    is not a projection: for hybrids, the difference is f(x - f(x)). The frequency response of f must lie in 0..1, or errors grow
    from step to step; `motion` does not satisfy this.
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
    """Anagrams of latent models with views of pixels: Chang et al. 2025, "LookingGlass: Generative Anamorphoses via Laplacian
    Pyramid Warping", algorithm 1, for views that show the whole image.

    Each view has its own latents, so those of `sample` are [V * B, C, H, W], grouped by view: `latents.chunk(V)[i]` are the
    images of view i. As in the paper, each starts from its own noise; with `generators * V`, an image depends on its own seed
    only.
    At each step the predicted clean latents of all views are decoded, transformed back, blended to one image (`blended`),
    transformed by each view and encoded again. The reconstruction error of the autoencoder (z - encode(decode(z)), equation 8)
    is blended likewise, with the views applied to latents, and added. Any view with an exact inverse works, orthogonal or not;
    views of colours do not transform the reconstruction error.

    encode: pixels [B, 3, 8H, 8W] in [-1, 1] -> latents [B, C, H, W], deterministic; decode: the inverse.
    detail: alpha of equation 15, 0.25 to 0.5 in the paper. first: the initial fraction of the steps that blends latents instead
    (equation 6); ours, because early predictions are too blurred for the autoencoder; 0 in the paper.
    alone: the final fraction of the steps in which only the first view is evaluated and the others follow it. At the paper's
    1024 pixels, 0.2 hides traces of the other views; at 64 pixels it erases them.
    """

    estimates: Sequence[Estimate]
    views: Sequence[View]
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    detail: float = 0.25
    first: float = 0.3
    alone: float = 0.0

    def inputs(self, latents: Tensor, step: Step) -> list[DenoiserInput]:
        active = self.active(latents, step)
        return [
            replace(each, variance_back=partial(self.of_rows, number, len(active)))
            for number, (estimate, own) in enumerate(active)
            for each in estimate.inputs(own, step)
        ]

    def of_rows(self, number: int, active: int, variance: Tensor) -> Tensor:
        """The variance [B, C, H, W] of the latents of one view, times the number of active views, over whose inputs the sampler
        takes the mean, in the rows of that view [V * B, C, H, W]; of the only active one, in all rows.
        """
        rows = [active * (active == 1 or view == number) for view in range(len(self.views))]
        return torch.cat([share * variance for share in rows])

    def combine(self, outputs: Iterator[Tensor], latents: Tensor, step: Step) -> Tensor:
        combined = [(estimate.combine(outputs, own, step), own) for estimate, own in self.active(latents, step)]
        clean = [step.split(output, own)[1] for output, own in combined]
        in_latents = step.index < round(self.first * step.count) and all(view.permutes for view in self.views)
        shared = self.shared(clean, self.views) if in_latents else self.shared_pixels(clean)
        return step.output_of(torch.cat(shared).to(latents), latents)

    def active(self, latents: Tensor, step: Step) -> list[tuple[Estimate, Tensor]]:
        """The estimates that contribute to this step, each with the latents [B, C, H, W] of its view."""
        pairs = list(zip(self.estimates, latents.unflatten(0, (len(self.views), -1)), strict=True))
        return pairs if step.index < round((1 - self.alone) * step.count) else pairs[:1]

    def shared(self, tensors: Sequence[Tensor], views: Sequence[View]) -> list[Tensor]:
        """Blends the tensors of the first views to one image, and returns it under all views (lines 8, 9, 11, 13)."""
        one = blended([view.inverse(tensor) for view, tensor in zip(views, tensors, strict=False)], self.detail)
        return [view(one) for view in views]

    def shared_pixels(self, clean: Sequence[Tensor]) -> list[Tensor]:
        """The same for clean latents [B, C, H, W], blended as pixels, with the autoencoder's error added."""
        images = [self.decode(latents) for latents in clean]
        lost = [latents - self.encode(image) for latents, image in zip(clean, images, strict=True)]
        in_latents = [view if view.permutes else VIEWS["identity"]() for view in self.views]
        parts = zip(self.shared(images, self.views), self.shared(lost, in_latents), strict=True)
        return [self.encode(image) + correction for image, correction in parts]


def blended(images: Sequence[Tensor], detail: float) -> Tensor:
    """Blends images [B, C, H, W] to one, per band of their Laplacian pyramids: Chang et al. 2025, equations 14 and 15.

    avg + detail * (vavg - avg), where vavg weights each value by its magnitude, so that strong detail is not averaged away.
    With detail 0 it is the mean; a single image is returned unchanged.
    """
    bands = []
    for band in map(torch.stack, zip(*map(laplacian_pyramid, images), strict=True)):
        weights = band.abs() / band.abs().sum(0).clamp(min=torch.finfo(band.dtype).tiny)
        bands.append(torch.lerp(band.mean(0), (weights * band).sum(0), detail))
    return reduce(lambda coarse, band: band + enlarged(coarse, band), reversed(bands))


def laplacian_pyramid(image: Tensor) -> list[Tensor]:
    """[B, C, H, W] -> bands from fine to coarse, each half as large as the one before, until a side is below 8 pixels.

    Burt & Adelson 1983, "The Laplacian Pyramid as a Compact Image Code".
    """
    bands = []
    while min(image.shape[-2:]) >= 8:
        small = F.avg_pool2d(image, 2, ceil_mode=True)
        bands.append(image - enlarged(small, image))
        image = small
    return [*bands, image]


def enlarged(small: Tensor, like: Tensor) -> Tensor:
    """[B, C, h, w] -> the height and width of `like`."""
    return F.interpolate(small, like.shape[-2:], mode="bilinear")
