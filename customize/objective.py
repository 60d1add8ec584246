"""The mathematics of diffusion training, and nothing else: noising, targets, losses and weights, one per sample.

B batch, C H W of whatever is noised (latents or pixels), T timesteps. All formulas are those of
Ho, Jain & Abbeel 2020, "Denoising Diffusion Probabilistic Models" (DDPM), unless said otherwise.
"""

import torch
from torch import Tensor


def _per_sample(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.device, like.dtype).view(-1, *[1] * (like.dim() - 1))


def add_noise(clean: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """sqrt(a) * clean + sqrt(1 - a) * noise (DDPM, equation 4). clean, noise: [B, C, H, W]; alphas_cumprod: [B]."""
    a = _per_sample(alphas_cumprod, clean)
    return a.sqrt() * clean + (1 - a).sqrt() * noise


def velocity(clean: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """sqrt(a) * noise - sqrt(1 - a) * clean (Salimans & Ho 2022, "Progressive Distillation", appendix D)."""
    a = _per_sample(alphas_cumprod, clean)
    return a.sqrt() * noise - (1 - a).sqrt() * clean


def target(clean: Tensor, noise: Tensor, alphas_cumprod: Tensor, prediction_type: str) -> Tensor:
    """What the network should answer [B, C, H, W]: noise ("epsilon"), "v_prediction", or the clean "sample"."""
    match prediction_type:
        case "epsilon":
            return noise
        case "v_prediction":
            return velocity(clean, noise, alphas_cumprod)
        case "sample":
            return clean
    raise ValueError(f"unknown prediction_type {prediction_type!r}")


def mean_squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """One loss per sample [B], at least float32: the mean of the squared difference over all but the first axis."""
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    return (prediction.to(dtype) - target.to(dtype)).square().flatten(1).mean(1)


def signal_to_noise(alphas_cumprod: Tensor) -> Tensor:
    """a / (1 - a) (Kingma et al. 2021, "Variational Diffusion Models"); same shape."""
    return alphas_cumprod / (1 - alphas_cumprod)


def min_snr_weights(alphas_cumprod: Tensor, gamma: float, prediction_type: str) -> Tensor:
    """Weights [B] by Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy", section 3.4.

    The paper weighs the error of the clean sample by min(snr, gamma). An error of the noise is that error times snr,
    one of the velocity that error times (snr + 1), hence the divisions.
    """
    snr = signal_to_noise(alphas_cumprod)
    match prediction_type:
        case "epsilon":
            return (gamma / snr).clamp(max=1)
        case "v_prediction":
            return snr.clamp(max=gamma) / (snr + 1)
        case "sample":
            return snr.clamp(max=gamma)
    raise ValueError(f"unknown prediction_type {prediction_type!r}")


def offset_noise(noise: Tensor, per_channel: Tensor, strength: float) -> Tensor:
    """Noise [B, C, H, W] with a common shift per sample and channel (Guttenberg 2023, "Diffusion with Offset Noise").

    per_channel: [B, C], standard normal; strength: 0 leaves the noise as it is, 0.1 is usual.
    """
    return torch.add(noise, per_channel[:, :, None, None], alpha=strength)
