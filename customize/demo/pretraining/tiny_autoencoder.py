"""The first stage: trains an autoencoder for the images of the demo world.

It is deterministic with a little added noise: early in training, sampling the posterior would hide the weaker colour axes in
noise. B images, S their side, C latent channels, H W latent height and width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from customize.demo.pretraining.conv_muon import Muon, parameter_groups
from customize.diffusion import rng
from customize.errors import NumericsError
from customize.methods.method import Method

# luma, red against blue, green against magenta, and the loss weight of each
AXES = torch.tensor([[0.299, 0.587, 0.114], [0.5, 0.0, -0.5], [-0.25, 0.5, -0.25]])
AXIS_WEIGHTS = torch.tensor([2.0, 4.0, 16.0])
FIRST_NOISE, LAST_NOISE = 0.05, 0.25  # on latents of a standard deviation of about 4


@dataclass(frozen=True)
class PixelBatch:
    """pixels: [B, 3, S, S] in [-1, 1]; noise: [B, C, H, W], scaled to its level."""

    pixels: Tensor
    noise: Tensor
    names: tuple[str, ...]
    positions: tuple[int, ...]

    def to(self, device: torch.device) -> "PixelBatch":
        return replace(self, pixels=self.pixels.to(device), noise=self.noise.to(device))


class PixelDataset:
    """Renderings (uint8 [N, S, S, 3]) in shuffled epochs, randomly mirrored. noise: its first and its last level."""

    def __init__(
        self,
        pixels: np.ndarray,
        latent_shape: Sequence[int],
        seed: int,
        batch_size: int,
        steps: int,
        noise: tuple[float, float] = (FIRST_NOISE, LAST_NOISE),
    ):
        self.pixels, self.latent_shape, self.noise = pixels, latent_shape, noise
        self.seed, self.batch_size, self.steps = seed, batch_size, steps

    def deal(self, step: int, positions: Sequence[int]) -> list[PixelBatch]:
        first = step * self.batch_size
        chosen = [rng.shuffled(first + p, len(self.pixels), self.seed, "rendering") for p in positions]
        pixels = as_tensor(np.stack([self.pixels[index] for index in chosen]))
        mirrored = rng.uniform(self.seed, "mirror", step, positions) < 0.5
        pixels = torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)
        level = self.noise[0] + (self.noise[1] - self.noise[0]) * min(1.0, 2 * step / self.steps)
        noise = level * rng.normal(self.latent_shape, self.seed, "latent noise", step, positions)
        return [PixelBatch(pixels, noise, tuple(f"rendering {index}" for index in chosen), tuple(positions))]


class Autoencoder(Method):
    """Trains encoder and decoder with absolute, squared (per colour axis) and gradient differences."""

    name = "autoencoder"

    def __init__(self, vae: AutoencoderKL):
        super().__init__()
        self.vae = vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, batch: PixelBatch) -> Tensor:
        """Returns the loss of each sample [B]."""
        pixels = batch.pixels.contiguous(memory_format=torch.channels_last)
        mean = self.vae.encode(pixels).latent_dist.mode()
        error = self.vae.decode(mean + batch.noise).sample - pixels
        axes = (AXIS_WEIGHTS.to(error.device)[:, None, None] * on_axes(error).square()).flatten(1).mean(1)
        slopes = error.diff(dim=-1).abs().flatten(1).mean(1) + error.diff(dim=-2).abs().flatten(1).mean(1)
        return error.abs().flatten(1).mean(1) + axes + 0.5 * slopes + 1e-4 * mean.square().flatten(1).mean(1)

    def build_optimizer(self, settings) -> torch.optim.Optimizer:
        return Muon(parameter_groups([self.vae], settings.learning_rate, settings.learning_rate / 10))

    def save(self, folder: Path, metadata: dict[str, str]) -> list[Path]:
        self.vae.save_pretrained(folder / "vae")
        return [folder / "vae"]


class Decoder(Autoencoder):
    """Continues to train the decoder only, so that the latents, and a denoiser trained on them, stay valid."""

    name = "decoder"

    def __init__(self, vae: AutoencoderKL):
        super().__init__(vae.requires_grad_(True))
        for part in (vae.encoder, vae.quant_conv):
            part.requires_grad_(False)


def as_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 [B, S, S, 3] to float32 [B, 3, S, S] in [-1, 1]."""
    return torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1


def on_axes(pixels: Tensor) -> Tensor:
    """Colours [B, 3, S, S] as luma, red against blue, green against magenta."""
    return torch.einsum("ac,bcyx->bayx", AXES.to(pixels.device), pixels)


@torch.no_grad()
def encode(vae: AutoencoderKL, pixels: np.ndarray, batch_size: int = 64) -> Tensor:
    """Posterior moments [N, 2C, H, W] of uint8 images [N, S, S, 3], on the CPU."""
    parts = [as_tensor(pixels[i : i + batch_size]).to(vae.device) for i in range(0, len(pixels), batch_size)]
    return torch.cat([vae.encode(part).latent_dist.parameters.cpu() for part in parts])


@torch.no_grad()
def standardise(vae: AutoencoderKL, pixels: np.ndarray) -> None:
    """Folds mean and scale of the latents into the adjacent 1x1 convolutions, for mean 0 and standard deviation 1 per channel.

    The untrained log-variance becomes a constant: the noise level that the decoder was trained with.
    """
    mean = encode(vae, pixels).chunk(2, 1)[0]
    centre, scale = mean.mean((0, 2, 3)).to(vae.device), mean.std((0, 2, 3)).to(vae.device)
    channels = len(centre)
    into, out_of = vae.quant_conv, vae.post_quant_conv
    into.weight[:channels] /= scale[:, None, None, None]
    into.bias[:channels] = (into.bias[:channels] - centre) / scale
    into.weight[channels:] = 0
    into.bias[channels:] = 2 * math.log(FIRST_NOISE / scale.mean().item())
    out_of.bias += out_of.weight[:, :, 0, 0] @ centre
    out_of.weight *= scale[None, :, None, None]
    vae.register_to_config(scaling_factor=1.0)


@dataclass(frozen=True)
class Quality:
    """PSNR in dB (mean over images) and the explained variance of each colour axis."""

    psnr: float
    luma: float
    red_blue: float
    green_magenta: float

    def check(self, psnr: float, explained: float) -> None:
        """Raises `NumericsError` if the autoencoder is not good enough to train a denoiser on."""
        if self.psnr < psnr or min(self.luma, self.red_blue, self.green_magenta) < explained:
            raise NumericsError(f"the autoencoder is not good enough: {self}\n    -> train it for more steps")


@torch.no_grad()
def measure(vae: AutoencoderKL, pixels: np.ndarray) -> Quality:
    """The reconstruction quality on held-back images (uint8 [N, S, S, 3]), from the mean of the posterior."""
    targets = as_tensor(pixels)
    means = encode(vae, pixels).chunk(2, 1)[0].split(64)
    found = torch.cat([vae.decode(part.to(vae.device)).sample.cpu() for part in means]).clamp(-1, 1)
    error = ((found - targets) / 2).square().flatten(1).mean(1)
    left = on_axes(found - targets).square().mean((0, 2, 3)) / on_axes(targets).var((0, 2, 3))
    return Quality((-10 * error.log10()).mean().item(), *(1 - left).tolist())
