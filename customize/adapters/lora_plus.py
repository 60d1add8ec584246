"""LoRA+: a higher learning rate for the B of each LoRA, which starts at zero.

Hayou et al. 2024, "LoRA+: Efficient Low Rank Adaptation of Large Models".
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def parameter_groups(named: "Mapping[str, nn.Parameter]", rate: float, ratio: float | None, **facts: Any) -> list[dict[str, Any]]:
    """The trained parameters of a network, by name, as parameter groups at this learning rate; those of B, and magnitudes, at
    `ratio` times it, as peft's `create_loraplus_optimizer` has them. ratio: None makes one group; facts: more of each group."""
    of_b = [ratio is not None and ("lora_B" in name or parameter.ndim == 1) for name, parameter in named.items()]
    groups = []
    for is_b, own in ((False, rate), (True, rate * (ratio or 1))):
        parameters = [parameter for parameter, is_of_b in zip(named.values(), of_b, strict=True) if is_of_b is is_b]
        groups += [{"params": parameters, "lr": own, **facts}] if parameters else []
    return groups
