"""The space in which a base model denoises: latents of an autoencoder, or the pixels themselves.

B images, C latent channels, H W latent height and width, `factor` pixels per latent along each side.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor


class LatentSpace(Protocol):
    """From pixels [B, 3, factor * H, factor * W] in [-1, 1] to latents [B, C, H, W] and back.

    Encoding has two parts: `encode` is computed once and stored, `sample` draws from it at each training step.
    """

    @property
    def channels(self) -> int:
        """C."""
        ...

    @property
    def factor(self) -> int:
        """Pixels per latent along each side; 1 for pixels."""
        ...

    @property
    def equivariant(self) -> bool:
        """Whether permuting latents permutes the pixels in the same way."""
        ...

    @property
    def negates(self) -> bool:
        """Whether the negative of latents is the image in inverted colours."""
        ...

    @property
    def is_random(self) -> bool:
        """Whether `sample` draws: the encoding of an image is a distribution."""
        ...

    def encode(self, pixels: Tensor) -> Tensor:
        """The stored encoding of the pixels, which depends on them alone; the images of a batch are independent."""
        ...

    def stored_shape(self, height: int, width: int) -> tuple[int, ...]:
        """The shape of what `encode` returns for one image of this size in pixels."""
        ...

    def shape(self, stored: Tensor) -> tuple[int, int, int]:
        """(C, H, W) of one image's latents."""
        ...

    def sample(self, stored: Tensor, noise: Tensor | None = None) -> Tensor:
        """Latents [B, C, H, W], scaled for the denoiser. noise: the same shape, standard normal; None: the mean."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels of scaled latents, about [-1, 1], not clamped."""
        ...

    def identity(self) -> dict[str, str]:
        """What the result of `encode` depends on besides the pixels, as a key for caches."""
        ...

    def to(self, device: torch.device | str) -> None:
        """Moves the networks, if there are any."""
        ...

    def set_tiling(self, tiling: bool) -> None:
        """Switches encoding and decoding large images tile by tile, which needs less memory, on or off."""
        ...


@dataclass(frozen=True)
class KLLatents:
    """Latents of a variational autoencoder. The moments of the posterior are stored, mean and log-variance [B, 2C, H, W].

    Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models", section 3.1. Scaled latents are
    (latents - shift) * scale, with the autoencoder's `scaling_factor`, and its `shift_factor` or `latents_mean` and
    `latents_std` if it has them.
    """

    vae: AutoencoderKL
    equivariant: ClassVar[bool] = False
    negates: ClassVar[bool] = False
    is_random: ClassVar[bool] = True

    @property
    def channels(self) -> int:
        return self.vae.config.latent_channels

    @property
    def factor(self) -> int:
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def encode(self, pixels: Tensor) -> Tensor:
        with self.own_precision():
            return self.vae.encode(pixels.to(self.vae.device, self.vae.dtype)).latent_dist.parameters

    def stored_shape(self, height: int, width: int) -> tuple[int, ...]:
        return 2 * self.channels, height // self.factor, width // self.factor

    def shape(self, stored: Tensor) -> tuple[int, int, int]:
        channels, height, width = stored.shape[-3:]
        return channels // 2, height, width

    def sample(self, stored: Tensor, noise: Tensor | None = None) -> Tensor:
        """The reparameterised posterior (Kingma & Welling 2014): mean + standard deviation * noise, scaled."""
        posterior = DiagonalGaussianDistribution(stored)
        latents = posterior.mean if noise is None else posterior.mean + posterior.std * noise
        shift, scale = self.shift_and_scale(like=latents)
        return (latents if shift is None else latents - shift) * scale

    def decode(self, latents: Tensor) -> Tensor:
        latents = latents.to(self.vae.device, self.vae.dtype)
        shift, scale = self.shift_and_scale(like=latents)
        latents = latents / scale if shift is None else latents / scale + shift
        with self.own_precision():
            return self.vae.decode(latents, return_dict=False)[0]

    def own_precision(self) -> torch.autocast:
        """A context without autocast: some autoencoders overflow in float16, and their weights have the right precision."""
        return torch.autocast(self.vae.device.type, enabled=False)

    def shift_and_scale(self, like: Tensor) -> tuple[Tensor | float | None, Tensor | float]:
        """(shift, scale), each a number or one per channel [C, 1, 1]; None: no shift."""
        config = self.vae.config
        shift, scale = config.get("shift_factor"), config.scaling_factor
        if (mean := config.get("latents_mean")) is not None:
            shift = torch.tensor(mean, device=like.device, dtype=like.dtype).view(-1, 1, 1)
        if (std := config.get("latents_std")) is not None:
            scale = scale / torch.tensor(std, device=like.device, dtype=like.dtype).view(-1, 1, 1)
        return shift, scale

    def identity(self) -> dict[str, str]:
        return {"autoencoder": hash_of(self.vae.state_dict()), "dtype": str(self.vae.dtype)}

    def to(self, device: torch.device | str) -> None:
        self.vae.to(device)

    def set_tiling(self, tiling: bool) -> None:
        self.vae.use_tiling = tiling


@dataclass(frozen=True)
class Pixels:
    """No autoencoder: the denoiser sees the pixels themselves, as (pixels - shift) * scale.

    channels: 3, or 1 for grey images, whose pixels are the luma of Rec. 601; they are decoded to three equal channels.
    """

    channels: int = 3
    factor: int = 1
    shift: float = 0.0
    scale: float = 1.0
    equivariant: ClassVar[bool] = True
    is_random: ClassVar[bool] = False

    @property
    def negates(self) -> bool:
        return self.shift == 0

    def encode(self, pixels: Tensor) -> Tensor:
        return pixels if self.channels == pixels.shape[1] else luma(pixels)

    def stored_shape(self, height: int, width: int) -> tuple[int, ...]:
        return self.channels, height, width

    def shape(self, stored: Tensor) -> tuple[int, int, int]:
        channels, height, width = stored.shape[-3:]
        return channels, height, width

    def sample(self, stored: Tensor, noise: Tensor | None = None) -> Tensor:
        return (stored - self.shift) * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        return (latents / self.scale + self.shift).expand(-1, 3, -1, -1)

    def identity(self) -> dict[str, str]:
        return {"autoencoder": "none", "channels": str(self.channels)}

    def to(self, device: torch.device | str) -> None:
        pass

    def set_tiling(self, tiling: bool) -> None:
        pass


def luma(pixels: Tensor) -> Tensor:
    """[B, 3, H, W] -> [B, 1, H, W]: the brightness of RGB pixels, by ITU-R BT.601."""
    return (pixels * pixels.new_tensor((0.299, 0.587, 0.114)).view(3, 1, 1)).sum(1, keepdim=True)


def hash_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
