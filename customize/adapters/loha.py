"""LoHa: a change (A1 B1) o (A2 B2) * alpha / rank, the product by numbers of two products of low rank.

Hyeon-Woo et al. 2022, "FedPara: Low-Rank Hadamard Product for Communication-Efficient Federated Learning", in the form and with
the initial values of LyCORIS (Yeh et al. 2024, "Navigating Text-To-Image Customization").
"""

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from pydantic import BaseModel

from customize.adapters import lora
from customize.adapters.weight_adapter import WeightAdapter
from customize.settings.field import override

if TYPE_CHECKING:
    from torch import Tensor


class Settings(BaseModel):
    """The settings of a LoHa. The rank of its change is up to the square of `rank`."""

    rank: int = override(lora.Settings, "rank", 8)
    lora_alpha: float | None = override(lora.Settings, "lora_alpha", None, default_in_words="none: the rank")
    lora_targets: tuple[str, ...] = override(lora.Settings, "lora_targets", ("attention",))
    rank_pattern: tuple[str, ...] = override(lora.Settings, "rank_pattern", ())


class Adapter(WeightAdapter):
    """hada_w1_a, hada_w2_a [out, rank], hada_w1_b, hada_w2_b [rank, in * ...]."""

    title = "LoHa"
    algorithm = "loha"
    kinds = ("hada_w1_a",)

    def start(self, shape: Sequence[int], rank: int, settings) -> "dict[str, Tensor]":
        import torch

        rows, columns = shape[0], prod(shape[1:])
        return {
            "hada_w1_a": 0.1 * torch.randn(rows, rank),
            "hada_w1_b": torch.randn(rank, columns),
            "hada_w2_a": torch.zeros(rows, rank),
            "hada_w2_b": torch.randn(rank, columns),
        }
