"""Conditioning: all inputs of a denoiser besides latents and timesteps, as one set of named tensors.

B samples; the other axes depend on the denoiser.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Crop:
    """The part of an image that a sample uses, in pixels, for size conditioning (Podell et al. 2023, "SDXL", section 2.2).

    original_size: (height, width) of the image before resizing; top_left: the corner of the crop in the resized image, which is
    mirrored if the sample is; target_size: (height, width) of the crop.
    """

    original_size: tuple[int, int]
    top_left: tuple[int, int]
    target_size: tuple[int, int]

    @classmethod
    def whole(cls, height: int, width: int) -> "Crop":
        """A whole image of this size."""
        return cls((height, width), (0, 0), (height, width))


@dataclass(frozen=True)
class Conditioning:
    """Tensors by the names of the denoiser's arguments (`encoder_hidden_states` [B, L, D], `pooled_projections` [B, P], ...).

    The first axis of each tensor is B. A family may use further keys that its `predict` reads, such as `guidance_scale` [B] of
    a latent consistency model.
    """

    tensors: Mapping[str, Tensor]

    def __len__(self) -> int:
        """The number of samples B."""
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, rows: slice | Sequence[int] | Tensor) -> "Conditioning":
        """Some of the samples."""
        return Conditioning({name: tensor[rows] for name, tensor in self.tensors.items()})

    def to(self, device: torch.device | str) -> "Conditioning":
        """The same on the device."""
        return Conditioning({name: tensor.to(device) for name, tensor in self.tensors.items()})

    def extended(self, **tensors: Tensor) -> "Conditioning":
        """The same with further tensors, each with B rows."""
        return Conditioning({**self.tensors, **tensors})

    def split(self, sizes: int | Sequence[int]) -> list["Conditioning"]:
        """Consecutive parts of the given sizes, as `torch.split`."""
        pieces = zip(*(tensor.split(sizes) for tensor in self.tensors.values()), strict=True)
        return [Conditioning(dict(zip(self.tensors, piece, strict=True))) for piece in pieces]

    @staticmethod
    def cat(parts: Sequence["Conditioning"]) -> "Conditioning":
        """The samples of all parts. Raises ValueError if their keys differ."""
        if any(part.tensors.keys() != parts[0].tensors.keys() for part in parts):
            raise ValueError(f"conditioning of different keys: {[sorted(part.tensors) for part in parts]}")
        return Conditioning({name: torch.cat([part.tensors[name] for part in parts]) for name in parts[0].tensors})

    def interpolate(self, other: "Conditioning", weight: float, spherical: bool = False) -> "Conditioning":
        """(1 - weight) * self + weight * other, or spherical (`slerp`). Integers and booleans are masks, of which the
        maximum is taken: a token counts if it counts in either."""

        def between(first: Tensor, second: Tensor) -> Tensor:
            if not first.is_floating_point():
                return torch.maximum(first, second)
            return (slerp if spherical else torch.lerp)(first, second, weight)

        return Conditioning({name: between(tensor, other.tensors[name]) for name, tensor in self.tensors.items()})


@dataclass(frozen=True)
class SuperResolution:
    """The image to enlarge is scaled to the latents' size, noised to a timestep of its own noise schedule, and given as further
    input channels; the timestep is given as `class_labels` [B] (Ho et al. 2022, "Cascaded Diffusion Models for High Fidelity
    Image Generation", section 4.2: conditioning augmentation).

    scheduler: diffusers' scheduler with the noise schedule of the image; noise_level: the usual timestep, and for_inpainting
    where a mask is given; largest: the largest timestep. factor: images become so many times larger; None: of the resolution
    that the model was trained on. noised_first: whether the noise of the image is drawn before that of the latents, as diffusers'
    pipeline of the model does, so that equal seeds give equal images.
    """

    scheduler: Any
    noise_level: int
    for_inpainting: int
    largest: int
    factor: int | None = None
    noised_first: bool = False

    def noised(self, pixels: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        """pixels: [B, 3, h, w] in [-1, 1]; noise: [B, 3, H, W], standard normal; levels: timesteps [B]. Returns [B, 3, H, W]."""
        scaled = F.interpolate(pixels, noise.shape[2:], mode="bilinear", align_corners=True)
        return self.scheduler.add_noise(scaled.to(noise), noise, levels)


def slerp(first: Tensor, second: Tensor, weight: float) -> Tensor:
    """Spherical interpolation of each last-axis vector (Shoemake 1985, "Animating Rotation with Quaternion Curves").

    sin((1 - weight) * angle) / sin(angle) * first + sin(weight * angle) / sin(angle) * second; linear where the two
    vectors are parallel.
    """
    cosine = torch.cosine_similarity(first.double(), second.double(), dim=-1).clamp(-1, 1).unsqueeze(-1)
    angle = cosine.acos()
    sine = angle.sin()
    straight = sine < 1e-6
    weights = [torch.where(straight, line, (line * angle).sin() / sine.clamp(min=1e-6)) for line in (1 - weight, weight)]
    return (weights[0] * first + weights[1] * second).to(first.dtype)
