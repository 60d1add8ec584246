"""Losses and their weights, one per sample. B samples."""

import torch
from torch import Tensor

from customize.diffusion.predictions import prediction


def mean_squared_error(output: Tensor, target: Tensor) -> Tensor:
    """One loss per sample [B], at least float32: the mean of the squared difference over all but the first axis."""
    dtype = torch.promote_types(output.dtype, torch.float32)
    return (output.to(dtype) - target.to(dtype)).square().flatten(1).mean(1)


def min_snr_weights(snr: Tensor, gamma: float, prediction_type: str) -> Tensor:
    """Weights [B] by Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy", section 3.4.

    snr: [B], the signal-to-noise ratio of each sample. The paper weights the squared error of the clean sample by
    min(snr, gamma). The same error of the output is (c_clean - c_noise * alpha / sigma)^2 times as large (see `predictions`):
    snr times for epsilon, snr + 1 times for the velocity, and its weight is as much smaller.
    """
    return prediction(prediction_type).min_snr(snr, gamma)
