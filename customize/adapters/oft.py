"""OFT: the rows of W are rotated in blocks, W_k becomes R_k^T W_k with R_k = (I + Q_k) (I - Q_k)^-1, Q_k skew-symmetric.

Qiu et al. 2023, "Controlling Text-to-Image Diffusion by Orthogonal Finetuning", in the form of kohya's scripts and LyCORIS
(diag-oft), without a bound on Q. peft rotates the inputs instead (Qiu et al. 2025), in files that no other program reads.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from customize.adapters import lora
from customize.adapters.weight_adapter import WeightAdapter
from customize.settings.field import override, setting

if TYPE_CHECKING:
    from torch import Tensor

UNBOUNDED = 10_000.0
"""The alpha in files, a bound on the norm of Q that is never reached: A1111 takes 0 as a bound, and fails without one."""


class Settings(BaseModel):
    """The settings of an OFT."""

    lora_targets: tuple[str, ...] = override(lora.Settings, "lora_targets", ("attention",))
    oft_block_size: int = setting(
        32, "method", "OFT: rows that are rotated together, at most; a divisor of a layer's number of outputs", ge=2, le=4096
    )


class Adapter(WeightAdapter):
    """oft_blocks [out / b, b, b], of which Q is the difference from its transpose."""

    title = "OFT"
    algorithm = "diag-oft"
    kinds = ("oft_blocks",)

    def start(self, shape: Sequence[int], rank: int, settings) -> "dict[str, Tensor]":
        import torch

        size = block_size(shape[0], settings.oft_block_size)
        return {"oft_blocks": torch.zeros(shape[0] // size, size, size)}

    def alpha(self, rank: int, settings) -> float | None:
        return None

    def in_file(self, layer: Any) -> "dict[str, Tensor]":
        import torch

        return {**super().in_file(layer), "alpha": torch.tensor(UNBOUNDED)}


def block_size(rows: int, most: int) -> int:
    """The largest divisor of a number of rows that is at most `most`."""
    return next(divisor for divisor in range(min(rows, most), 0, -1) if rows % divisor == 0)
