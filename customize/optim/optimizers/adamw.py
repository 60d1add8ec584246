"""AdamW: Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2)."""

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from customize.optim.optimizers import Groups, Usual, option

if TYPE_CHECKING:
    import torch

BETA1 = "decay of the optimizer's mean of gradients"
BETA2 = "decay of the optimizer's mean of squared gradients"
WEIGHT_DECAY = "decoupled weight decay: times the learning rate, the share that a step takes off every weight"


class Settings(BaseModel):
    """The settings of AdamW, which its relatives share."""

    adam_beta1: float = option(0.9, BETA1, ge=0, lt=1)
    adam_beta2: float = option(0.999, BETA2, ge=0, lt=1)
    adam_epsilon: float = option(1e-8, "epsilon, added to the optimizer's denominator", gt=0, le=1)
    adam_weight_decay: float = option(1e-2, WEIGHT_DECAY, ge=0, le=10)


def options_of(settings) -> dict[str, Any]:
    """The settings of AdamW under torch's names."""
    return {
        "betas": (settings.adam_beta1, settings.adam_beta2),
        "eps": settings.adam_epsilon,
        "weight_decay": settings.adam_weight_decay,
    }


class Optimizer(Usual):
    """torch's, fused."""

    summary = "AdamW of torch"
    steps_shards = True

    def build(self, settings, groups: Groups) -> "torch.optim.Optimizer":
        from torch.optim import AdamW

        return AdamW(groups, fused=True, **options_of(settings))
