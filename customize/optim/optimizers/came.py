"""CAME: Adafactor with momentum, scaled down where the momentum is unsure (Luo et al. 2023, algorithm 2)."""

from typing import TYPE_CHECKING

from pydantic import BaseModel

from customize.optim.optimizers import Groups, Usual, adamw, option

if TYPE_CHECKING:
    import torch

BETA3 = 0.9999
"""The decay of the mean of squared differences from the momentum: the paper's."""


class Settings(BaseModel):
    """The settings of CAME."""

    adam_beta1: float = option(0.9, adamw.BETA1, ge=0, lt=1)
    adam_beta2: float = option(0.999, adamw.BETA2, ge=0, lt=1)
    adam_weight_decay: float = option(1e-2, adamw.WEIGHT_DECAY, ge=0, le=10)


class Optimizer(Usual):
    """That of pytorch-optimizer; the package of the paper's authors has had no release since February 2024."""

    summary = "CAME: Adafactor with momentum, half of AdamW's memory"
    package = "pytorch_optimizer"
    counters = ("step",)

    def build(self, settings, groups: Groups) -> "torch.optim.Optimizer":
        from pytorch_optimizer import CAME

        betas = (settings.adam_beta1, settings.adam_beta2, BETA3)
        return CAME([{**group, "step": 0} for group in groups], betas=betas, weight_decay=settings.adam_weight_decay)
