"""LoKr: a change that is the Kronecker product of a small matrix and a product of low rank, * alpha / rank.

Edalati et al. 2022, "KronA"; in the form and with the initial values of LyCORIS (Yeh et al. 2024, "Navigating Text-To-Image
Customization").
"""

from collections.abc import Sequence
from math import isqrt, prod
from typing import TYPE_CHECKING

from pydantic import BaseModel

from customize.adapters import lora
from customize.adapters.weight_adapter import WeightAdapter
from customize.settings.field import override, setting

if TYPE_CHECKING:
    from torch import Tensor


class Settings(BaseModel):
    """The settings of a LoKr."""

    rank: int = override(lora.Settings, "rank", 16)
    lora_alpha: float | None = override(lora.Settings, "lora_alpha", None, default_in_words="none: the rank")
    lora_targets: tuple[str, ...] = override(lora.Settings, "lora_targets", ("attention",))
    rank_pattern: tuple[str, ...] = override(lora.Settings, "rank_pattern", ())
    decompose_factor: int | None = setting(
        None, "method", "LoKr: largest size of the first factor of the Kronecker product; the smaller, the more is trained",
        ge=1, le=4096, default_in_words="none: the square root of the layer's size",
    )  # fmt: skip
    decompose_both: bool = setting(False, "method", "LoKr: the first factor is a product of low rank, too")


class Adapter(WeightAdapter):
    """lokr_w1 [l, m] or lokr_w1_a [l, rank], lokr_w1_b [rank, m]; lokr_w2 [out / l, in / m, ...] or lokr_w2_a [out / l, rank],
    lokr_w2_b [rank, in / m * ...]; a factor is full where the rank is at least half of its larger side."""

    title = "LoKr"
    algorithm = "lokr"
    learning_rate = 1e-3
    kinds = ("lokr_w1", "lokr_w1_a")

    def start(self, shape: Sequence[int], rank: int, settings) -> "dict[str, Tensor]":
        import torch

        (rows, rows_2), (columns, columns_2) = (pair(size, settings.decompose_factor) for size in shape[:2])
        if settings.decompose_both and 2 * rank < max(rows, columns):
            found = {"lokr_w1_a": uniform(rows, rank), "lokr_w1_b": uniform(rank, columns)}
        else:
            found = {"lokr_w1": uniform(rows, columns)}
        if 2 * rank < max(rows_2, columns_2):
            return found | {"lokr_w2_a": uniform(rows_2, rank), "lokr_w2_b": torch.zeros(rank, columns_2 * prod(shape[2:]))}
        return found | {"lokr_w2": torch.zeros(rows_2, columns_2, *shape[2:])}


def pair(size: int, most: int | None) -> tuple[int, int]:
    """The divisors of a size that are nearest to each other, the smaller first, which is at most `most`."""
    largest = min(isqrt(size), most or size)
    first = next(divisor for divisor in range(largest, 0, -1) if size % divisor == 0)
    return first, size // first


def uniform(rows: int, columns: int) -> "Tensor":
    """Uniform within +- 1 / sqrt(columns), as torch's linear layers start (He et al. 2015 with a slope of sqrt(5))."""
    import torch

    return (2 * torch.rand(rows, columns) - 1) / columns**0.5
