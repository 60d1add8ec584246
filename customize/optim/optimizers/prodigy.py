"""Prodigy: Adam that estimates its own learning rate (Mishchenko & Defazio 2024, algorithm 4).

Each parameter group (a network, new words) has an estimate of its own: prodigyopt's optimizer allows one rate, and the vectors of
words need another one than weights.
"""

from contextlib import redirect_stdout
from typing import TYPE_CHECKING

from customize.optim.optimizers import Groups, Usual, adamw, option

if TYPE_CHECKING:
    import torch


class Settings(adamw.Settings):
    """Those of AdamW, and of the estimate, with the defaults of diffusers' scripts."""

    prodigy_beta3: float | None = option(None, "decay of the estimate's means; none: the root of adam_beta2", ge=0, lt=1)
    prodigy_d_coef: float = option(1.0, "factor of the estimated learning rate, to learn faster or more slowly", gt=0, le=100)
    prodigy_use_bias_correction: bool = option(True, "Adam's bias correction in the steps")
    prodigy_safeguard_warmup: bool = option(True, "leave the learning rate out of the estimate's denominator: for warm-ups")


class Optimizer(Usual):
    """That of prodigyopt."""

    summary = "Prodigy: finds its own learning rate, of which learning_rate is a factor"
    package = "prodigyopt"
    learning_rate = 1.0
    counters = ("k", "d", "d_max", "d_numerator")

    def build(self, settings, groups: Groups) -> "torch.optim.Optimizer":
        from prodigyopt import Prodigy

        from customize.optim.together import Together

        more = {
            "beta3": settings.prodigy_beta3,
            "d_coef": settings.prodigy_d_coef,
            "use_bias_correction": settings.prodigy_use_bias_correction,
            "safeguard_warmup": settings.prodigy_safeguard_warmup,
        }
        with redirect_stdout(None):  # it says that weight decay is decoupled
            return Together(*(Prodigy([group], **adamw.options_of(settings), **more) for group in groups))
