"""The table of distributions of training timesteps: maps of uniform draws in [0, 1) to [0, 1). Needs no torch.

B samples.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LEVELS = 1000
"""The scale of `min_timestep` and `max_timestep` where timesteps are continuous."""
BELOW_ONE = 1 - 2**-24
UNIFORM = "uniform"


def logit_normal(uniform: "Tensor", mean: float, deviation: float) -> "Tensor":
    """The quantile function of t where log(t / (1 - t)) is normal. uniform, result: [B] in [0, 1].

    Esser et al. 2024, "Scaling Rectified Flow Transformers" (SD3), equation 19.
    """
    return (mean + deviation * math.sqrt(2) * (2 * uniform - 1).erfinv()).sigmoid()


DISTRIBUTIONS: "Mapping[str, Callable[[Tensor, float, float], Tensor]]" = {
    UNIFORM: lambda uniform, mean, deviation: uniform,
    "logit_normal": logit_normal,
}
"""By the values of the setting `timestep_sampling`: quantile functions, which rise from 0 to 1 with the noise."""


@dataclass(frozen=True)
class TimestepSampling:
    """Which noise levels are drawn, how often. The fields are settings."""

    timestep_sampling: str = UNIFORM
    logit_mean: float = 0.0
    logit_std: float = 1.0
    min_timestep: int = 0
    max_timestep: int = LEVELS
    stratified_timesteps: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether the base model's own distribution is used as it is."""
        return (self.timestep_sampling, self.min_timestep, self.max_timestep) == (UNIFORM, 0, LEVELS)

    def mapped(self, uniform: "Tensor", num_levels: int | None) -> "Tensor":
        """Uniform draws [B] in [0, 1) as draws of the distribution between the bounds, in [0, 1).

        num_levels: that of the schedule. The bounds are timesteps t of a discrete schedule, min_timestep <= t < max_timestep;
        where timesteps are continuous, thousandths.
        """
        if self.is_plain:
            return uniform
        levels, quantile = num_levels or LEVELS, DISTRIBUTIONS[self.timestep_sampling]
        low, high = self.min_timestep, min(self.max_timestep, levels)
        place = low + (high - low) * quantile(uniform.double(), self.logit_mean, self.logit_std)
        if num_levels:
            place = place.floor().clamp(max=high - 1) + 0.5
        return (place / levels).clamp(max=BELOW_ONE).to(uniform.dtype)
