"""Lion with a mean of 8 bits; of tensors of less than 4,096 elements it has 32."""

from typing import TYPE_CHECKING

from customize.optim.optimizers import Groups, lion

if TYPE_CHECKING:
    import torch


class Settings(lion.Settings):
    """Those of Lion."""


class Optimizer(lion.Optimizer):
    """That of bitsandbytes."""

    summary = "8-bit Lion of bitsandbytes: an eighth of AdamW's memory"

    def build(self, settings, groups: Groups) -> "torch.optim.Optimizer":
        from bitsandbytes.optim import Lion8bit

        return Lion8bit(groups, **lion.options_of(settings))
