"""Losses and their weights, one per sample. B samples."""

import torch
from torch import Tensor

from customize.diffusion.predictions import prediction


def mean_squared_error(output: Tensor, target: Tensor) -> Tensor:
    """The mean squared error per sample [B], in float32 or higher precision."""
    dtype = torch.promote_types(output.dtype, torch.float32)
    return (output.to(dtype) - target.to(dtype)).square().flatten(1).mean(1)


def min_snr_weights(snr: Tensor, gamma: float, prediction_type: str) -> Tensor:
    """Weights [B] by Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy", section 3.4.

    snr: [B], the signal-to-noise ratio of each sample. The paper weights the squared error of the clean sample by
    min(snr, gamma). The squared error of the output is larger by (c_clean - c_noise * alpha / sigma)^2 (see `predictions`):
    by snr for epsilon, by snr + 1 for the velocity. Its weight is smaller by the same factor.
    """
    return prediction(prediction_type).min_snr(snr, gamma)
