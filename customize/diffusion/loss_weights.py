"""The table of loss weights: how much a sample counts in the loss, by its signal-to-noise ratio. Needs no torch.

A weight is a factor of the squared error of the network's output. What a paper states for another prediction, that of the clean
sample or of the noise, is divided by how much larger the squared error of the output is (`predictions.Prediction.squared_error`):
so every prediction type weighs the same error of the image alike.

snr: (alpha / sigma)^2 [B] of each sample; ratio [B]: the squared error of the output over that of the clean sample.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from customize.diffusion.predictions import prediction

if TYPE_CHECKING:
    from torch import Tensor

LEAST = 1e-30
"""Stands for an SNR of 0 where the noise is predicted, whose weight is the limit there."""
BOUNDS = 1e-3, 1e3
"""Of what "debiased" divides by. kohya's sd-scripts have the same upper bound; Stable Diffusion has 0.0047 to 1,176."""
USUAL_GAMMA = 5.0
"""gamma of min-SNR in its paper."""
MIN_SNR, SOFT_MIN_SNR, DEBIASED, P2, NOISE = "min_snr", "soft_min_snr", "debiased", "p2", "noise"
WEIGHTINGS: "Mapping[str, Callable[[Tensor, Tensor, float], Tensor]]" = {
    # Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy", section 3.4; strength: gamma
    MIN_SNR: lambda snr, ratio, gamma: snr.clamp(max=gamma) / ratio,
    # Crowson et al. 2024, "Scalable High-Resolution Pixel-Space Image Synthesis with Hourglass Diffusion Transformers": instead
    # of min(snr, gamma) a smooth snr gamma / (snr + gamma); strength: gamma
    SOFT_MIN_SNR: lambda snr, ratio, gamma: gamma / (1 + gamma / snr) / ratio,
    # Yu et al. 2023, "Debias the Training of Diffusion Models": by how much an error of the output is larger than that of the
    # clean sample, which is 1 / sqrt(snr) where the noise is predicted
    DEBIASED: lambda snr, ratio, _: ratio.clamp(*BOUNDS) ** -0.5,
    # Choi et al. 2022, "Perception Prioritized Training of Diffusion Models", equation 8 with k = 1: (1 + snr)^-gamma where the
    # noise is predicted; strength: gamma
    P2: lambda snr, ratio, gamma: snr / ratio / (1 + snr) ** gamma,
    # As if the noise were predicted, and beside it the velocity with a factor; strength: that factor. kohya's sd-scripts:
    # scale_v_pred_loss_like_noise_pred, v_pred_like_loss
    NOISE: lambda snr, ratio, factor: (snr + factor * (snr + 1)) / ratio,
}
"""By the values of the setting `loss_weighting`: (snr, ratio, strength) -> weights [B]."""


class Weighting(NamedTuple):
    """A row of the table, and its parameter."""

    name: str
    strength: float

    def weights(self, snr: "Tensor", prediction_type: str) -> "Tensor":
        """The weight of each sample [B]. A sample without noise (snr infinite) counts nothing where a formula leaves it open."""
        squared_error = prediction(prediction_type).squared_error
        snr = snr.where(squared_error(snr) > 0, LEAST)
        return WEIGHTINGS[self.name](snr, squared_error(snr), self.strength).nan_to_num(nan=0)
