"""The loss of each sample. B samples, C latent channels, H W latent height and width."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from customize.diffusion.distances import DISTANCES, L2, SCHEDULES
from customize.diffusion.predictions import per_sample
from customize.diffusion.process import NoiseSchedule


@dataclass(frozen=True)
class Distance:
    """How far an output is from its target. The fields are settings: a row of `distances.DISTANCES`, and its threshold."""

    loss_type: str = L2
    huber_schedule: str = "snr"
    huber_c: float = 0.1

    def losses(
        self, output: Tensor, target: Tensor, schedule: NoiseSchedule, timesteps: Tensor, loss_mask: Tensor | float = 1.0
    ) -> Tensor:
        """The mean distance per sample [B], in float32 or higher precision. output, target: [B, C, H, W]; timesteps: [B];
        loss_mask: as in `mean_over_places`."""
        difference = difference_of(output, target)
        c = SCHEDULES[self.huber_schedule](self.huber_c, schedule.snr(timesteps), schedule.fraction(timesteps))
        return mean_over_places(DISTANCES[self.loss_type](difference, per_sample(c, difference)), loss_mask)


def mean_squared_error(output: Tensor, target: Tensor, loss_mask: Tensor | float = 1.0) -> Tensor:
    """The mean squared error per sample [B], in float32 or higher precision. loss_mask: as in `mean_over_places`."""
    return mean_over_places(difference_of(output, target).square(), loss_mask)


def difference_of(output: Tensor, target: Tensor) -> Tensor:
    """output - target, in float32 or higher precision."""
    dtype = torch.promote_types(output.dtype, torch.float32)
    return output.to(dtype) - target.to(dtype)


def mean_over_places(errors: Tensor, loss_mask: Tensor | float = 1.0) -> Tensor:
    """The mean of each sample's errors [B, C, H, W], weighted: [B]. loss_mask: [B, 1, H, W], of mean 1 over a sample's places."""
    return (errors * loss_mask).flatten(1).mean(1)


def masked_weights(mask: Tensor, unmasked_weight: float = 0.0) -> Tensor:
    """The weights of places [B, 1, H, W], of mean 1: w / mean(w), w = mask + (1 - mask) * unmasked_weight.

    mask: [B, 1, H, W] in [0, 1], 1 where the subject is, and not 0 everywhere. The loss is the mean over the places of the
    subject, whatever part of the image they are, so that a small subject takes steps as large as a large one.
    """
    weights = mask + (1 - mask) * unmasked_weight
    return weights / weights.mean((2, 3), keepdim=True)


def masked_prior_weights(mask: Tensor, prior_weight: float) -> Tensor:
    """The weights of places [B, 1, H, W] where those outside of the mask learn from the base model: mask / mean(mask) +
    prior_weight * (1 - mask) / mean(1 - mask), so that the loss is the mean inside plus `prior_weight` times the mean outside."""
    outside = 1 - mask
    share = outside.mean((2, 3), keepdim=True).clamp(min=torch.finfo(mask.dtype).tiny)
    return masked_weights(mask) + prior_weight * outside / share


def direct_consistency(losses: Tensor, base: Tensor, beta: float) -> Tensor:
    """-log sigmoid(-beta (losses - base)) [B], of losses [B] and those of the base model for the same samples.

    Lee et al. 2024, "Direct Consistency Optimization for Robust Customization of Text-to-Image Diffusion Models": the gradient of
    a sample fades where the network is already better than the base model. beta includes the paper's number of timesteps T; its
    authors use 1000 to 2000 with mean squared errors.
    """
    return -F.logsigmoid(-beta * (losses - base))
