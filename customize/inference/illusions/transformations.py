"""What a view is: a transformation of an image, its inverse, and how the image moves there.

B images, C channels, H W height and width, in pixels or latents.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from customize.errors import InputError, Problem
from customize.inference.illusions.motions import Pieces, enlarged


class View(Protocol):
    """A transformation of tensors [B, C, H, W] and its inverse. Both raise InputError for an unsupported H, W."""

    @property
    def name(self) -> str: ...

    @property
    def orthogonal(self) -> bool:
        """Whether standard normal noise stays standard normal, so that a denoiser can evaluate the transformed latents."""

    @property
    def permutes(self) -> bool:
        """Whether it only permutes pixels. Only then may it be applied to a learned variance, which is never negative, and to
        latents, whose signs are unrelated to colours.
        """

    def __call__(self, tensor: Tensor) -> Tensor: ...

    def inverse(self, tensor: Tensor) -> Tensor: ...

    def moved(self, image: Tensor, fraction: float, scale: int) -> Tensor:
        """An image [B, C, H, W] on its way to the view, enlarged: [B, C, scale * H, scale * W].

        At fraction 0 it is the image, at 1 the view of it, both to the last bit.
        """
        ...


@dataclass(frozen=True)
class Permutation:
    """A permutation of pixels.

    rule: given a grid [H, W, 2] with the index of the pixel at each place and 0, returns the grid that the view shows: at each
    place the index of a pixel, and the quarter turns, counterclockwise, of the piece it belongs to.
    """

    name: str
    rule: Callable[..., Tensor]
    options: tuple[tuple[str, int | float], ...] = ()
    orthogonal: bool = True
    permutes: bool = True

    def __call__(self, tensor: Tensor) -> Tensor:
        return tensor.flatten(-2)[..., order(self, *tensor.shape[-2:], tensor.device)].view(tensor.shape)

    def inverse(self, tensor: Tensor) -> Tensor:
        pixels, places = tensor.flatten(-2), order(self, *tensor.shape[-2:], tensor.device)
        return torch.empty_like(pixels).index_copy_(-1, places, pixels).view(tensor.shape)

    def moved(self, image: Tensor, fraction: float, scale: int) -> Tensor:
        return pieces(self, *image.shape[-2:]).moved(image, fraction, scale)

    def grid(self, height: int, width: int) -> Tensor:
        """See `rule`."""
        numbers = torch.arange(height * width).view(height, width)
        return self.rule(torch.stack([numbers, torch.zeros_like(numbers)], -1), **dict(self.options))


@lru_cache(maxsize=16)
def order(view: Permutation, height: int, width: int, device: torch.device) -> Tensor:
    """[H * W]: the index of the pixel that the view shows at each position."""
    return view.grid(height, width)[..., 0].flatten().to(device)


@lru_cache(maxsize=4)
def pieces(view: Permutation, height: int, width: int) -> Pieces:
    """The pieces of an image that the view moves."""
    return Pieces.of(view.grid(height, width))


class Filter:
    """A view that moves no pixel: the image fades into it."""

    orthogonal = permutes = False

    def __call__(self, tensor: Tensor) -> Tensor:
        raise NotImplementedError

    def moved(self, image: Tensor, fraction: float, scale: int) -> Tensor:
        return enlarged(torch.lerp(image, self(image), fraction), scale)


@dataclass(frozen=True)
class Scale(Filter):
    """Every value times a factor."""

    name: str
    factor: float
    orthogonal: bool = False

    def __call__(self, tensor: Tensor) -> Tensor:
        return tensor * self.factor

    def inverse(self, tensor: Tensor) -> Tensor:
        return tensor / self.factor


@dataclass(frozen=True)
class Blur(Filter):
    """Downscales by `factor` and upscales again, as seen from far away. Not invertible: the inverse is the identity."""

    name: str
    factor: int

    def __call__(self, tensor: Tensor) -> Tensor:
        if self.factor < 1 or any(side % self.factor for side in tensor.shape[-2:]):
            raise unfit(self.name, tensor, f"use a factor that divides the sides, such as {self.name}:factor=2")
        small = F.avg_pool2d(tensor, self.factor)
        return F.interpolate(small, scale_factor=self.factor, mode="bilinear", align_corners=False)

    def inverse(self, tensor: Tensor) -> Tensor:
        return tensor


def unfit(name: str, tensor: Tensor, remedy: str) -> InputError:
    """The error for a view that does not support this size. tensor: [..., H, W]."""
    height, width = tensor.shape[-2:]
    return InputError(Problem("views", f"{name} does not support the size {height} x {width}", remedy))
