"""Adafactor: the squared gradients of a matrix as a row times a column (Shazeer & Stern 2018, algorithms 4 and 5).

transformers' implementation, since torch's always scales a step by the root mean square of the weights (section 8 of the paper)
and so would hardly move what starts at zero, such as the B of a LoRA. Here the learning rate is the step, as AdamW's is.
"""

from typing import TYPE_CHECKING

from pydantic import BaseModel

from customize.optim.optimizers import Groups, Usual, adamw, option

if TYPE_CHECKING:
    import torch


class Settings(BaseModel):
    """Neither a mean of gradients nor a fixed decay of their squares: that of step t is 1 - t^-0.8 (section 7.2)."""

    adam_weight_decay: float = option(1e-2, adamw.WEIGHT_DECAY, ge=0, le=10)


class Optimizer(Usual):
    """That of transformers, with updates clipped to a root mean square of 1 (section 6)."""

    summary = "Adafactor: next to no memory, no momentum"

    def build(self, settings, groups: Groups) -> "torch.optim.Optimizer":
        from transformers.optimization import Adafactor

        return Adafactor(groups, scale_parameter=False, relative_step=False, weight_decay=settings.adam_weight_decay)
