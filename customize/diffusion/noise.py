"""The noise of training samples, as a function of the draw: plain, and with structure added.

B positions, the samples of one step; C channels, H W height and width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from customize.diffusion import rng


@dataclass(frozen=True)
class Noise:
    """Which noise is added to samples. The fields are settings."""

    noise_offset: float = 0.0
    multires_noise_iterations: int | None = None
    multires_noise_discount: float = 0.3
    input_perturbation: float = 0.0

    def draw(self, shape: Sequence[int], seed: int, stream: str, step: int, positions: Sequence[int]) -> Tensor:
        """The noise of each sample [B, C, H, W], float32, which the network learns to predict. shape: (C, H, W)."""
        noise = rng.normal(shape, seed, f"{stream}/noise", step, positions)
        if self.noise_offset:
            shift = rng.normal(shape[:1], seed, f"{stream}/noise_offset", step, positions)
            noise = offset_noise(noise, shift, self.noise_offset)
        if self.multires_noise_iterations:
            rows = zip(noise, positions, strict=True)
            noise = torch.stack([self.with_coarser(each, seed, stream, step, position) for each, position in rows])
        return noise

    def with_coarser(self, noise: Tensor, seed: int, stream: str, step: int, position: int) -> Tensor:
        """The noise of one sample [C, H, W] with coarser and coarser noise added to it, scaled back to a variance of 1.

        Whitaker 2023, "Multi-Resolution Noise for Diffusion Model Training": level i has sides of H / r^i and W / r^i, where r
        is drawn from [2, 4) for each level, and the weight discount^i. As in kohya's sd-scripts, level 0 is of full size, and a
        level of one row or column is the last.
        """
        channels, height, width = noise.shape
        for level in range(self.multires_noise_iterations or 0):
            draw = seed, f"{stream}/multires_noise_{level}", step, [position]
            shrink = (2 + 2 * rng.uniform(seed, f"{stream}/multires_size_{level}", step, [position]).item()) ** level
            size = max(1, int(height / shrink)), max(1, int(width / shrink))
            coarse = F.interpolate(rng.normal((channels, *size), *draw), (height, width), mode="bilinear")
            noise = noise + coarse[0] * self.multires_noise_discount**level
            if 1 in size:
                break
        return noise / noise.std()

    def perturbation(self, shape: Sequence[int], seed: int, stream: str, step: int, positions: Sequence[int]) -> Tensor:
        """What is added to the noise of the input and not to that of the target: [B, C, H, W], or zeros [B, 1, 1, 1] for none.

        Ning et al. 2023, "Input Perturbation Reduces Exposure Bias in Diffusion Models", algorithm 1.
        """
        if not self.input_perturbation:
            return torch.zeros(len(positions), 1, 1, 1)
        return self.input_perturbation * rng.normal(shape, seed, f"{stream}/input_perturbation", step, positions)


def offset_noise(noise: Tensor, per_channel: Tensor, strength: float) -> Tensor:
    """Noise [B, C, H, W] with a common shift per sample and channel (Guttenberg 2023, "Diffusion with Offset Noise").

    per_channel: [B, C], standard normal; strength: 0 changes nothing, 0.1 is common.
    """
    return torch.add(noise, per_channel[:, :, None, None], alpha=strength)
