"""AdamW with moments of 8 bits (Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization").

bitsandbytes stores the two moments of tensors of at least 4,096 elements in 8 bits, of smaller ones in 32.
"""

from typing import TYPE_CHECKING

from customize.optim.optimizers import Groups, Usual, adamw

if TYPE_CHECKING:
    import torch


class Settings(adamw.Settings):
    """Those of AdamW."""


class Optimizer(Usual):
    """That of bitsandbytes."""

    summary = "8-bit AdamW of bitsandbytes: a quarter of its memory"

    def build(self, settings, groups: Groups) -> "torch.optim.Optimizer":
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(groups, **adamw.options_of(settings))
