"""Losses and their weights, one per sample. B samples, C latent channels, H W latent height and width."""

import torch
from torch import Tensor

from customize.diffusion.predictions import prediction


def mean_squared_error(output: Tensor, target: Tensor, loss_mask: Tensor | float = 1.0) -> Tensor:
    """The mean squared error per sample [B], in float32 or higher precision. loss_mask: as in `mean_over_places`."""
    dtype = torch.promote_types(output.dtype, torch.float32)
    return mean_over_places((output.to(dtype) - target.to(dtype)).square(), loss_mask)


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


def min_snr_weights(snr: Tensor, gamma: float, prediction_type: str) -> Tensor:
    """Weights [B] by Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy", section 3.4.

    snr: [B], the signal-to-noise ratio of each sample. The paper weights the squared error of the clean sample by
    min(snr, gamma). The squared error of the output is larger by (c_clean - c_noise * alpha / sigma)^2 (see `predictions`):
    by snr for epsilon, by snr + 1 for the velocity. Its weight is smaller by the same factor.
    """
    return prediction(prediction_type).min_snr(snr, gamma)
