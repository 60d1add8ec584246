"""Noise schedules: the coefficients of clean sample and noise at each timestep, and the distribution of training timesteps.

noisy = alpha * clean + sigma * noise. B samples.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from customize.diffusion.timestep_sampling import logit_normal


class NoiseSchedule(Protocol):
    """The noise levels of a base model. Timesteps are in the units of its network."""

    num_levels: int | None
    """The number of timesteps; None if they are continuous."""

    def alpha_sigma(self, timesteps: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """alpha, sigma [B] at timesteps [B], computed in `dtype`."""
        ...

    def snr(self, timesteps: Tensor) -> Tensor:
        """The signal-to-noise ratio (alpha / sigma)^2 [B] at timesteps [B].

        Kingma et al. 2021, "Variational Diffusion Models", equation 2.
        """
        ...

    def fraction(self, timesteps: Tensor) -> Tensor:
        """How far timesteps [B] are in the schedule, [B] in [0, 1]."""
        ...

    def timesteps(self, uniform: Tensor) -> Tensor:
        """Timesteps [B] from uniform draws [B] in [0, 1). Monotonic, so that stratified draws stay stratified."""
        ...


@dataclass(frozen=True)
class DiscreteSchedule:
    """Ho et al. 2020 (DDPM): alpha = sqrt(a_t), sigma = sqrt(1 - a_t), alpha^2 + sigma^2 = 1, for t = 0 ... T - 1.

    alphas_cumprod: a_t [T], float32. Timesteps are integers, each equally likely (DDPM, algorithm 1).
    """

    alphas_cumprod: Tensor

    @classmethod
    def of(cls, scheduler) -> "DiscreteSchedule":
        """The schedule of a diffusers scheduler."""
        return cls(scheduler.alphas_cumprod)

    @property
    def num_levels(self) -> int:
        return len(self.alphas_cumprod)

    def alpha_sigma(self, timesteps: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        a = self._at(timesteps).to(dtype)
        return a.sqrt(), (1 - a).sqrt()

    def snr(self, timesteps: Tensor) -> Tensor:
        a = self._at(timesteps)
        return a / (1 - a)

    def fraction(self, timesteps: Tensor) -> Tensor:
        return timesteps / self.num_levels

    def timesteps(self, uniform: Tensor) -> Tensor:
        return (uniform * self.num_levels).long()

    def noise_to_signal(self) -> Tensor:
        """sigma / alpha [T] at all timesteps: the noise levels of Karras et al. 2022 and of k-diffusion."""
        return ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt()

    def _at(self, timesteps: Tensor) -> Tensor:
        return self.alphas_cumprod.to(timesteps.device)[timesteps]


@dataclass(frozen=True)
class FlowSchedule:
    """Rectified flow: alpha = 1 - t, sigma = t for t in [0, 1]; the network takes `num_train_timesteps` * t.

    Liu et al. 2023, "Flow Straight and Fast"; Esser et al. 2024, "Scaling Rectified Flow Transformers" (SD3).
    shift: moves timesteps towards noise, t -> shift t / (1 + (shift - 1) t) (SD3, section 5.3.2, equation 23).
    logit_normal: (mean, standard deviation) of log(t / (1 - t)), to draw timesteps from that distribution (SD3, equation 19)
    instead of uniformly; SD3 uses (0, 1).
    """

    shift: float = 1.0
    logit_normal: tuple[float, float] | None = None
    num_train_timesteps: int = 1000
    num_levels = None

    def alpha_sigma(self, timesteps: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        sigma = timesteps.to(dtype) / self.num_train_timesteps
        return 1 - sigma, sigma

    def snr(self, timesteps: Tensor) -> Tensor:
        alpha, sigma = self.alpha_sigma(timesteps)
        return (alpha / sigma).square()

    def fraction(self, timesteps: Tensor) -> Tensor:
        return timesteps / self.num_train_timesteps

    def timesteps(self, uniform: Tensor) -> Tensor:
        t = logit_normal(uniform, *self.logit_normal) if self.logit_normal else uniform
        return self.num_train_timesteps * self.shift * t / (1 + (self.shift - 1) * t)
