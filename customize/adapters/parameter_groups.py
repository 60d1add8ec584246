"""Parameter groups of a network: the learning rates of its parts, as factors of its own.

A block, group of layers or module has the factor that `lr_pattern` gives it. LoRA+ has a higher rate for the B of each LoRA,
which starts at zero: Hayou et al. 2024, "LoRA+: Efficient Low Rank Adaptation of Large Models".
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from customize.adapters.targets import values_of
from customize.errors import InputError, Problem

if TYPE_CHECKING:
    from torch import nn

Factors = Mapping[str, float]
"""The factors of trained parameters that have another than 1, by name."""


def factors_of(
    networks: "Sequence[nn.Module]", pattern: Sequence[str], presets: Mapping[str, Sequence[str]]
) -> list[dict[str, float]]:
    """The `Factors` of each network. Raises InputError for a part without a trained layer, and if nothing is left to be trained.

    pattern: of the setting `lr_pattern`, PART=FACTOR, matched as `rank_pattern` is (`targets.values_of`).
    """
    layers = [dict(trained(network)) for network in networks]
    values = values_of([[*own.values()] for own in layers], pattern, presets, "lr_pattern", "is trained")
    found = [
        {name: factors[layer] for name, layer in own.items() if factors.get(layer, 1) != 1}
        for own, factors in zip(layers, values, strict=True)
    ]
    if all(factors.get(name) == 0 for own, factors in zip(layers, found, strict=True) for name in own):
        raise InputError(Problem("lr_pattern", "leaves nothing to be trained: every factor is 0", "give a factor above 0"))
    return found


def trained(network: "nn.Module") -> Iterator[tuple[str, str]]:
    """(name, layer) of each trained parameter: the layer is the module of the network that it changes, or belongs to."""
    from customize.adapters.peft_layers import is_tuner_layer

    seen = set()
    for layer, module in network.named_modules():
        for name, parameter in module.named_parameters(prefix=layer, recurse=is_tuner_layer(module)):
            if parameter.requires_grad and name not in seen:
                seen.add(name)
                yield name, layer


def groups_of(
    named: "Mapping[str, nn.Parameter]", rate: float, factors: Factors, ratio: float | None, **facts: Any
) -> list[dict[str, Any]]:
    """The trained parameters of a network, by name, as parameter groups at this learning rate times their factors, those without
    one first. ratio: of LoRA+; facts: more of each group."""
    found = []
    for factor in sorted({factors.get(name, 1.0) for name in named}, key=lambda factor: (factor != 1, factor)):
        own = {name: parameter for name, parameter in named.items() if factors.get(name, 1.0) == factor}
        found += lora_plus(own, rate * factor, ratio, **facts)
    return found


def lora_plus(named: "Mapping[str, nn.Parameter]", rate: float, ratio: float | None, **facts: Any) -> list[dict[str, Any]]:
    """Parameters as groups at this learning rate; those of B, and magnitudes, at `ratio` times it, as peft's
    `create_loraplus_optimizer` has them. ratio: None makes one group."""
    of_b = [ratio is not None and ("lora_B" in name or parameter.ndim == 1) for name, parameter in named.items()]
    groups = []
    for is_b, own in ((False, rate), (True, rate * (ratio or 1))):
        parameters = [parameter for parameter, is_of_b in zip(named.values(), of_b, strict=True) if is_of_b is is_b]
        groups += [{"params": parameters, "lr": own, **facts}] if parameters else []
    return groups
