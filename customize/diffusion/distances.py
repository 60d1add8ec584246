"""The table of distances between the network's output and its target, by element. Needs no torch.

difference: [B, ...], output minus target; c: the threshold of each sample, [B, 1, ...] or a number. Below it a distance is about
the squared difference, above it about proportional to the difference, so that single large errors weigh less.
"""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    Level = float | Tensor

L2 = "l2"
DISTANCES: "Mapping[str, Callable[[Tensor, Level], Tensor]]" = {
    L2: lambda difference, c: difference.square(),
    "l1": lambda difference, c: difference.abs(),
    # Charbonnier et al. 1997, the pseudo-Huber loss: 2 c (sqrt(d^2 + c^2) - c), without the cancellation for small d
    "huber": lambda difference, c: 2 * c * _above(difference, c),
    # 2 (sqrt(d^2 + c^2) - c), which is d^2 / c below the threshold and 2 |d| above it
    "smooth_l1": lambda difference, c: 2 * _above(difference, c),
    # 2 c^2 log cosh(d / c)
    "log_cosh": lambda difference, c: 2 * c**2 * _log_cosh((difference / c).abs()),
}
"""By the values of the setting `loss_type`; names and factors are those of kohya's sd-scripts."""
SCHEDULES: "Mapping[str, Callable[[float, Tensor, Tensor], Level]]" = {
    "constant": lambda c, snr, fraction: c,
    "exponential": lambda c, snr, fraction: c**fraction,
    "snr": lambda c, snr, fraction: (1 - c) / (1 + snr**-0.5) ** 2 + c,
}
"""The threshold of each sample [B] by the setting `huber_schedule`: from 1 without noise to about c in pure noise, or always c.

Khrapov et al. 2024, "Improving Diffusion Models's Data-Corruption Resistance using Scheduled Pseudo-Huber Loss"; snr: [B];
fraction: how far the timestep is in the schedule, [B] in [0, 1].
"""


def _above(difference: "Tensor", c: "Level") -> "Tensor":
    """sqrt(d^2 + c^2) - c."""
    return difference.square() / ((difference.square() + c**2).sqrt() + c)


def _log_cosh(x: "Tensor") -> "Tensor":
    """log cosh of x >= 0."""
    return x + (-2 * x).exp().log1p() - math.log(2)
