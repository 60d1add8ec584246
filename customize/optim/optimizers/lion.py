"""Lion: steps by the sign of a mean of gradients.

Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms", algorithm 2.

A step moves every weight by the learning rate, where AdamW's moves it by about a quarter of it while gradients are noise: the
default rate is a fifth of AdamW's, and the weight decay five times as high, as the paper's section 5 says (3 to 10).
"""

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from customize.optim.optimizers import Groups, Usual, adamw, option

if TYPE_CHECKING:
    import torch


class Settings(BaseModel):
    """The settings of Lion; beta1 is that of the step's direction, beta2 that of the mean which is kept."""

    adam_beta1: float = option(0.9, adamw.BETA1, ge=0, lt=1)
    adam_beta2: float = option(0.99, adamw.BETA2, ge=0, lt=1)
    adam_weight_decay: float = option(5e-2, adamw.WEIGHT_DECAY, ge=0, le=10)


def options_of(settings) -> dict[str, Any]:
    """The settings of Lion under the names of bitsandbytes."""
    return {"betas": (settings.adam_beta1, settings.adam_beta2), "weight_decay": settings.adam_weight_decay}


class Optimizer(Usual):
    """That of bitsandbytes in 32 bits."""

    summary = "Lion of bitsandbytes: half of AdamW's memory"
    share = 0.2

    def build(self, settings, groups: Groups) -> "torch.optim.Optimizer":
        from bitsandbytes.optim import Lion

        return Lion(groups, **options_of(settings))
