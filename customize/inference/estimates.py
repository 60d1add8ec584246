"""Composable noise estimates: which inputs a step needs from the denoiser, and how its outputs are combined.

However deeply estimates are nested, all inputs of a step go through the denoiser in one batch. An estimate that transforms
the latents passes the transformed ones to the estimates inside it. Outputs are in the denoiser's own prediction_type; where
weights sum to 1, combining them is equivalent to combining predicted noises.

B images, C latent channels, H W latent height and width.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from customize.families.base import DenoiserOutput
from customize.families.conditioning import Conditioning

if TYPE_CHECKING:
    from customize.inference.step import Step


@dataclass(frozen=True)
class DenoiserInput:
    """The input of one denoiser evaluation: scaled latents [B, C, H, W] and conditioning of B rows.

    variance_weight: weight of this evaluation in the variance of the step, if the denoiser predicts one. Guidance does not
    extrapolate the variance: a negative prompt has weight 0. seen, variance_back: if the latents are transformed
    ones, the transformation, and the way from the variance that is predicted for them to that of the original latents.
    """

    latents: Tensor
    conditioning: Conditioning
    variance_weight: float = 1.0
    seen: Callable[[Tensor], Tensor] = lambda latents: latents
    variance_back: Callable[[Tensor], Tensor] = lambda variance: variance


class Estimate(Protocol):
    """A model output [B, C, H, W], possibly combined from several evaluations of the denoiser."""

    def inputs(self, latents: Tensor, step: "Step") -> list[DenoiserInput]:
        """The evaluations of the denoiser that these latents [B, C, H, W] need."""
        ...

    def combine(self, outputs: Iterator[Tensor], latents: Tensor, step: "Step") -> Tensor:
        """Takes one output [B, C, H, W] per input, in the same order, and returns the estimate [B, C, H, W]."""
        ...


@dataclass(frozen=True)
class Conditional:
    """The denoiser's own output for one prompt per image: conditioning of B rows."""

    conditioning: Conditioning

    def inputs(self, latents: Tensor, step: "Step") -> list[DenoiserInput]:
        return [DenoiserInput(latents, self.conditioning)]

    def combine(self, outputs: Iterator[Tensor], latents: Tensor, step: "Step") -> Tensor:
        return next(outputs)


@dataclass(frozen=True)
class WithChannels:
    """An estimate of a network with additional input channels [B, K, H, W], constant over the steps: those of inpainting UNets,
    or an image to enlarge. labels: further conditioning [B], by name.

    Where the estimate evaluates transformed latents, the channels are transformed likewise.
    """

    estimate: Estimate
    channels: Tensor
    labels: Mapping[str, Tensor] = field(default_factory=dict)

    def inputs(self, latents: Tensor, step: "Step") -> list[DenoiserInput]:
        inputs = self.estimate.inputs(latents, step)
        return [
            replace(
                each,
                latents=torch.cat([each.latents, each.seen(self.channels)], 1),
                conditioning=each.conditioning.extended(**self.labels),
            )
            for each in inputs
        ]

    def combine(self, outputs: Iterator[Tensor], latents: Tensor, step: "Step") -> Tensor:
        return self.estimate.combine(outputs, latents, step)


@dataclass(frozen=True)
class Thresholded:
    """An estimate whose predicted clean image is thresholded, for samplers that do not do this themselves: see
    `dynamic_threshold`. ratio, most: of the base model's scheduler."""

    estimate: Estimate
    ratio: float
    most: float

    def inputs(self, latents: Tensor, step: "Step") -> list[DenoiserInput]:
        return self.estimate.inputs(latents, step)

    def combine(self, outputs: Iterator[Tensor], latents: Tensor, step: "Step") -> Tensor:
        _, clean = step.split(self.estimate.combine(outputs, latents, step), latents)
        return step.output_of(dynamic_threshold(clean, self.ratio, self.most), latents)


@dataclass(frozen=True)
class Guided:
    """negative + scale * (positive - negative), see `guided`. scale: one for all, or [B, 1, 1, 1]; rescale: see `rescaled`."""

    positive: Estimate
    negative: Estimate
    scale: float | Tensor
    rescale: float = 0.0

    def inputs(self, latents: Tensor, step: "Step") -> list[DenoiserInput]:
        return [*without_variance(self.negative.inputs(latents, step)), *self.positive.inputs(latents, step)]

    def combine(self, outputs: Iterator[Tensor], latents: Tensor, step: "Step") -> Tensor:
        negative = self.negative.combine(outputs, latents, step)
        positive = self.positive.combine(outputs, latents, step)
        return rescaled(negative + self.scale * (positive - negative), positive, self.rescale)


@dataclass(frozen=True)
class Composed:
    """negative + scale * sum_i weight_i * (part_i - negative): Liu et al. 2022, "Compositional Visual Generation with
    Composable Diffusion Models", equation 11. parts: (estimate, weight [B, 1, 1, 1]) pairs; scale: as in `Guided`.
    """

    parts: tuple[tuple[Estimate, Tensor], ...]
    negative: Estimate
    scale: float | Tensor
    rescale: float = 0.0

    def inputs(self, latents: Tensor, step: "Step") -> list[DenoiserInput]:
        parts = [each for estimate, _ in self.parts for each in estimate.inputs(latents, step)]
        return [*without_variance(self.negative.inputs(latents, step)), *parts]

    def combine(self, outputs: Iterator[Tensor], latents: Tensor, step: "Step") -> Tensor:
        negative = self.negative.combine(outputs, latents, step)
        differences = (weight * (estimate.combine(outputs, latents, step) - negative) for estimate, weight in self.parts)
        difference = sum(differences)
        return rescaled(negative + self.scale * difference, negative + difference, self.rescale)


@dataclass(frozen=True)
class Mixed:
    """The weighted sum of estimates: see `mixed`."""

    estimates: tuple[Estimate, ...]
    weights: tuple[float, ...]

    def inputs(self, latents: Tensor, step: "Step") -> list[DenoiserInput]:
        return [each for estimate in self.estimates for each in estimate.inputs(latents, step)]

    def combine(self, outputs: Iterator[Tensor], latents: Tensor, step: "Step") -> Tensor:
        parts = [estimate.combine(outputs, latents, step) for estimate in self.estimates]
        return sum(weight * part for weight, part in zip(self.weights, parts, strict=True))


def without_variance(inputs: Sequence[DenoiserInput]) -> list[DenoiserInput]:
    """The same inputs with variance weight 0."""
    return [replace(each, variance_weight=0.0) for each in inputs]


def mean_variance(inputs: Sequence[DenoiserInput], outputs: Sequence[DenoiserOutput]) -> Tensor | None:
    """The weighted mean of the variances [B, C, H, W] that the denoiser predicts; None if it predicts none."""
    total = sum(each.variance_weight for each in inputs)
    parts = [
        each.variance_weight / total * each.variance_back(output.variance)
        for each, output in zip(inputs, outputs, strict=True)
        if each.variance_weight and output.variance is not None
    ]
    return torch.stack(parts).sum(0) if parts else None


def rescaled(guided: Tensor, positive: Tensor, part: float) -> Tensor:
    """Mixes the guided output [B, C, H, W] with its copy rescaled to the standard deviation of the positive output.

    part: in 0..1, the share of the rescaled one; 0 returns `guided` unchanged.

    Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps are Flawed", equations 15 and 16.
    """
    if not part:
        return guided
    of_positive, of_guided = (tensor.std(tuple(range(1, tensor.ndim)), keepdim=True) for tensor in (positive, guided))
    return part * guided * (of_positive / of_guided) + (1 - part) * guided


def dynamic_threshold(clean: Tensor, ratio: float, most: float) -> Tensor:
    """Clamps each image of [B, C, H, W] to [-s, s] and divides it by s: the quantile `ratio` of its magnitudes, in 1..`most`.

    Saharia et al. 2022, "Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding" (Imagen), section 2.3.
    """
    s = clean.float().abs().flatten(1).quantile(ratio, 1).clamp(1, max(most, 1)).view(-1, 1, 1, 1)
    return (torch.maximum(torch.minimum(clean, s), -s) / s).to(clean)


def guided(positive: Estimate, negative: Estimate, scale: float) -> Estimate:
    """Classifier-free guidance: Ho & Salimans 2022, equation 6, scale = 1 + w. Up to scale 1, only `positive` is evaluated."""
    return Guided(positive, negative, scale) if scale > 1 else positive


def mixed(parts: Sequence[tuple[Estimate, float]]) -> Estimate:
    """The weighted mean of (estimate, weight) pairs. Raises ValueError if the weights sum to zero."""
    total = sum(weight for _, weight in parts)
    if not total:
        raise ValueError("the weights of a mixture sum to zero")
    return Mixed(tuple(estimate for estimate, _ in parts), tuple(weight / total for _, weight in parts))
