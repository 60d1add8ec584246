"""8-bit AdamW whose moments move to main memory where the GPU's is full (Dettmers et al. 2023, "QLoRA", section 3)."""

from typing import TYPE_CHECKING

from customize import events
from customize.optim.optimizers import Groups, Usual, adamw, adamw_8bit

if TYPE_CHECKING:
    import torch


class Settings(adamw.Settings):
    """Those of AdamW."""


class Optimizer(Usual):
    """That of bitsandbytes; without a GPU nothing is paged."""

    summary = "8-bit AdamW whose state moves to main memory where the GPU's is full"

    def build(self, settings, groups: Groups) -> "torch.optim.Optimizer":
        if not any(parameter.is_cuda for group in groups for parameter in group["params"]):
            events.note("paged_adamw_8bit without a GPU is adamw_8bit: nothing is paged")
            return adamw_8bit.Optimizer().build(settings, groups)
        from customize.optim.paging import Paged

        return Paged(groups, **adamw.options_of(settings))
