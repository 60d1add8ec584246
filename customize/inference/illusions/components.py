"""Components: decompositions of an image into a sum, in which each part of an illusion shows something else.

Geng, Park & Owens 2024, "Factorized Diffusion: Perceptual Illusions by Noise Decomposition". To add one, write a function here
that returns `Components`, and a line in `build.PARTS`. B images, C channels, H W height and width, of pixels or of latents;
N components.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from customize.errors import InputError, Problem
from customize.inference.illusions.motions import enlarged, receded


@dataclass(frozen=True)
class Components:
    """A decomposition. split: image [B, C, H, W] -> one linear component [B, C, H, W] per name; they sum to the image.

    sizes: the fractions to which the image shrinks as one walks away, until a component is seen; empty: all are seen from close
    up.
    """

    names: tuple[str, ...]
    split: Callable[[Tensor], Sequence[Tensor]]
    sizes: tuple[float, ...] = ()

    def moved(self, index: int, image: Tensor, fraction: float, scale: int) -> Tensor:
        """The motion of `View.moved` to a component: the others fade while the image shrinks to its size."""
        shown = enlarged(torch.lerp(image, self.split(image)[index], fraction), scale)
        return receded(shown, 1 + fraction * (self.sizes[index] - 1)) if self.sizes else shown


def hybrid(sigma: float = 2.0) -> Components:
    """What is visible from far away, and from close up. sigma: of the Gaussian, in pixels at height 64, scaled with H."""
    kernel = max(33, math.ceil(6 * sigma))

    def split(tensor: Tensor) -> Sequence[Tensor]:
        low = gaussian(tensor, sigma, kernel)
        return low, tensor - low

    return Components(("low", "high"), split, (1 / 4, 1))


def triple(sigmas: tuple[float, float] = (1.0, 2.0), kernel: int = 25) -> Components:
    """Three frequency bands, by two consecutive Gaussians (see `hybrid`)."""

    def split(tensor: Tensor) -> Sequence[Tensor]:
        lower = gaussian(tensor, sigmas[0], kernel)
        low = gaussian(lower, sigmas[1], kernel)
        return low, lower - low, tensor - lower

    return Components(("low", "middle", "high"), split, (1 / 4, 1 / 2, 1))


def colour() -> Components:
    """The mean of the channels, and the rest. For pixels: the mean of a latent's channels is not its brightness.

    `split` raises InputError for images of one channel.
    """

    def split(tensor: Tensor) -> Sequence[Tensor]:
        if tensor.shape[1] == 1:
            raise InputError(Problem("illusion", "colour does not fit a base model of grey images", "use hybrid or motion"))
        grey = tensor.mean(1, keepdim=True).expand_as(tensor)
        return grey, tensor - grey

    return Components(("grey", "colour"), split)


def motion(kernel: int = 7) -> Components:
    """What is visible while the image moves along the diagonal, and the rest. kernel: length of the motion, in pixels at height
    64, scaled with H."""

    def split(tensor: Tensor) -> Sequence[Tensor]:
        size = math.ceil(kernel * tensor.shape[-2] / 64) | 1
        moved = filtered(tensor, torch.eye(size, dtype=torch.float64) / size)
        return moved, tensor - moved

    return Components(("moving", "rest"), split)


def regions(masks: Tensor) -> Components:
    """Regions of the image. masks: [N - 1, H, W] in 0..1, with a sum of at most 1; the last component is the rest."""
    places = [*masks, 1 - masks.sum(0)]
    names = (*(f"region {i + 1}" for i in range(len(masks))), "rest")
    return Components(names, lambda tensor: [tensor * place.to(tensor) for place in places])


def gaussian(tensor: Tensor, sigma: float, kernel: int) -> Tensor:
    """Blurs [B, C, H, W] with sigma * H / 64 in a window of kernel * H / 64 pixels, rounded up to an odd number."""
    scale = tensor.shape[-2] / 64
    size = math.ceil(kernel * scale) | 1
    weights = torch.exp(-(((torch.arange(size, dtype=torch.float64) - size // 2) / (sigma * scale)) ** 2) / 2)
    weights /= weights.sum()
    return filtered(filtered(tensor, weights[:, None]), weights[None])


def filtered(tensor: Tensor, kernel: Tensor) -> Tensor:
    """Convolves each channel of [B, C, H, W] with a kernel [odd, odd], with reflection padding."""
    height, width = kernel.shape
    padded = F.pad(tensor, (width // 2, width // 2, height // 2, height // 2), mode="reflect")
    channels = tensor.shape[1]
    return F.conv2d(padded, kernel.to(tensor).expand(channels, 1, height, width), groups=channels)
