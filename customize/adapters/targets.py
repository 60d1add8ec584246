"""Which modules of a network get an adapter, and of which rank.

Names of modules are those of the network, such as `up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from customize.errors import InputError, Problem

if TYPE_CHECKING:
    from torch import nn


def targets_of(networks: "Sequence[nn.Module]", targets: Sequence[str], presets: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """For each network, names of modules or ends of them, as peft's `target_modules`. Raises InputError for a target that no
    network has, and for a network without any.

    targets: of the setting `lora_targets`; presets: `Family.lora_targets`.
    """
    ends = {target: presets.get(target, (target,)) for target in targets}
    found = [{target: present(network, group) for target, group in ends.items()} for network in networks]
    unknown = [target for target in ends if not any(each[target] for each in found)]
    if unknown or not all(any(each.values()) for each in found):
        remedy = f"name linear or convolution modules of each trained network, or groups: {', '.join(presets)}"
        raise InputError(Problem("lora_targets", f"{', '.join(unknown or targets)} not found in the network", remedy))
    return [[name for group in each.values() for name in group] for each in found]


def ranks_of(
    modules: Sequence[Sequence[str]], rank: int, pattern: Sequence[str], presets: Mapping[str, Sequence[str]]
) -> list[dict[str, int]]:
    """The ranks of modules that have another than `rank`, by name, for each network. Raises InputError for a part without any.

    modules: of each network, those that get an adapter; pattern: of the setting `rank_pattern`, PART=RANK.
    """
    found = values_of(modules, pattern, presets, "rank_pattern", "gets an adapter")
    return [{name: int(value) for name, value in own.items() if value != rank} for own in found]


def values_of(
    modules: Sequence[Collection[str]], pattern: Sequence[str], presets: Mapping[str, Sequence[str]], setting: str, what: str
) -> list[dict[str, float]]:
    """The values of modules that a pattern names, by name, for each network. Raises InputError for a part without any.

    pattern: of this setting, PART=VALUE, the first that a module is in counts. A part is a preset, a module, or any whole part of
    a dotted name, such as `up_blocks.1`; what: all modules do or have.
    """
    parts = [(part, presets.get(part, (part,)), float(value)) for part, _, value in (each.partition("=") for each in pattern)]
    found, used = [], set()
    for names in modules:
        fitting = {
            name: [(part, value) for part, group, value in parts if any(is_in(name, each) for each in group)] for name in names
        }
        used |= {part for fits in fitting.values() for part, _ in fits}
        found.append({name: fits[0][1] for name, fits in fitting.items() if fits})
    if unknown := [part for part, *_ in parts if part not in used]:
        remedy = f"name blocks, modules, or groups: {', '.join(presets)}"
        raise InputError(Problem(setting, f"{', '.join(unknown)} has no layer that {what}", remedy))
    return found


def is_in(name: str, part: str) -> bool:
    """Whether a part of a network is in a module's name; one with `*` is a pattern of the whole name."""
    return fnmatchcase(name, part) if "*" in part else f".{part}." in f".{name}."


def present(network: "nn.Module", ends: Sequence[str]) -> list[str]:
    """The ends that match names of linear or convolution modules of the network; for a pattern with `*`, these names."""
    names = adaptable(network)
    found = []
    for end in ends:
        found += [name for name in names if is_in(name, end)] if "*" in end else [end] * any(map(ends_with(end), names))
    return found


def adaptable(network: "nn.Module") -> list[str]:
    """The names of the linear and convolution modules of a network."""
    from torch import nn

    return [name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]


def adapted(network: "nn.Module", target_modules: Sequence[str]) -> list[str]:
    """The names of the modules that have one of these names, or end with one."""
    ends = [ends_with(end) for end in target_modules]
    return [name for name in adaptable(network) if any(fits(name) for fits in ends)]


def ends_with(end: str) -> Callable[[str], bool]:
    """Whether a module's name is this one, or ends with it after a dot, as in peft."""
    return lambda name: name == end or name.endswith(f".{end}")
