"""BOFT: the rows of W are rotated by a butterfly, a product of several block-diagonal rotations of rows ever further apart.

Liu et al. 2024, "Parameter-Efficient Orthogonal Finetuning via Butterfly Factorization", in the form of LyCORIS.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel

from customize.adapters import lora, oft
from customize.settings.field import override, setting

if TYPE_CHECKING:
    from torch import Tensor


class Settings(BaseModel):
    """The settings of a BOFT."""

    lora_targets: tuple[str, ...] = override(lora.Settings, "lora_targets", ("attention",))
    boft_block_size: int = setting(
        8,
        "method",
        "BOFT: rows that are rotated together, at most; an even divisor of a layer's number of outputs",
        ge=2,
        le=4096,
    )
    boft_n_butterfly_factor: int = setting(
        4, "method", "BOFT: rotations in a row, at most: as many as the number of blocks can be halved, and one", ge=1, le=16
    )


class Adapter(oft.Adapter):
    """oft_blocks [stages, out / b, b, b]; stage i rotates rows that are 2^i b / 2 apart."""

    title = "BOFT"
    algorithm = "boft"

    def start(self, shape: Sequence[int], rank: int, settings) -> "dict[str, Tensor]":
        import torch

        size = even_block_size(shape[0], settings.boft_block_size)
        blocks = shape[0] // size
        halvings = (blocks & -blocks).bit_length() - 1
        return {"oft_blocks": torch.zeros(min(settings.boft_n_butterfly_factor, halvings + 1), blocks, size, size)}


def even_block_size(rows: int, most: int) -> int:
    """The largest even divisor of a number of rows that is at most `most`. Raises ValueError for an odd number."""
    if rows % 2:
        raise ValueError(f"a layer has {rows} outputs, which a butterfly cannot pair")
    return next(size for size in range(min(rows, most) // 2 * 2, 0, -2) if rows % size == 0)
