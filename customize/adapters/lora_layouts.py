"""The layouts of adapter files: how each program names modules and tensors, and where a layer's alpha stands.

A layout is stated once and used in both directions: to write a file, and to tell which layout a file has. Reading is more
tolerant than any layout (`lora_keys`): it takes the names of all of them, and older variants.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from customize.adapters.lora_keys import Place, split
from customize.families.specs.network_names import NetworkNames

Held = TypeVar("Held")
PLAIN, DECOMPOSED = {"A", "B", "alpha"}, {"magnitude", "dora_scale"}
"""Kinds of tensors of a LoRA, and those that make it a DoRA."""


@dataclass(frozen=True)
class LoraLayout:
    """How a program names the tensors of an adapter: the name of a module, then the end of `ends` for the tensor's kind.

    title: as in messages; read_by: the programs that read a LoRA in it.
    name: the name of a module in files, from the names of its network, the module's own and the original one; None if the
    layout has no name for it. ends: by kind (`lora_keys.KINDS`).
    alphas: whether each layer's alpha is a tensor; it is in the configuration in the metadata otherwise.
    others: whether the layout also holds adapters other than LoRA and DoRA (LoHa, LoKr, differences), under LyCORIS' names.
    """

    title: str
    read_by: str
    name: Callable[[NetworkNames, str, str | None], str | None]
    ends: Mapping[str, str]
    alphas: bool = False
    others: bool = False

    def names(self, network: NetworkNames, modules: Sequence[str]) -> dict[str, str]:
        """The name in files of each module of a network. modules: of the whole network, for the numbers of its blocks."""
        pairs = zip(modules, network.originals(modules), strict=True)
        found = {module: self.name(network, network.plain(module), original) for module, original in pairs}
        return {module: name for module, name in found.items() if name is not None}

    def readers(self, names: Iterable[str]) -> str:
        """The programs that read a file with these names of tensors. docs/files.md tells where their results differ."""
        kinds = {parts[1] for name in names if (parts := split(name))}
        if not self.others or kinds <= PLAIN:
            return self.read_by
        return f"programs that know {'DoRA' if kinds <= PLAIN | DECOMPOSED else 'adapters of LyCORIS'}, such as ComfyUI"

    def end(self, network: NetworkNames, kind: str) -> str | None:
        """The end of the names of tensors of a kind; None if the layout has none."""
        if kind == "magnitude" and self is DIFFUSERS and network.library == "transformers":
            return self.ends[kind] + ".weight"  # diffusers names the magnitudes in text encoders differently
        return self.ends.get(kind)


def original(network: NetworkNames, module: str, name: str | None) -> str | None:
    """The original name after ComfyUI's prefix."""
    return name and network.original_dotted[0] + name


def underscored(network: NetworkNames, module: str, name: str | None) -> str | None:
    """diffusers' name with underscores."""
    return network.underscored[0] + module.replace(".", "_")


def underscored_original(network: NetworkNames, module: str, name: str | None) -> str | None:
    """The original name with underscores."""
    return name and network.underscored[0] + name.replace(".", "_")


def kohya(network: NetworkNames, module: str, name: str | None) -> str | None:
    """The name that kohya's scripts give the module in this family."""
    return (underscored_original if network.kohya_is_original else underscored)(network, module, name)


def lycoris(network: NetworkNames, module: str, name: str | None) -> str | None:
    """The name that LyCORIS' wrapper of a single network gives."""
    return "lycoris_" + (network.inner + module).replace(".", "_")


def peft(network: NetworkNames, module: str, name: str | None) -> str | None:
    """The name that peft's `save_pretrained` gives."""
    return f"base_model.model.{network.inner}{module}"


def older(network: NetworkNames, module: str, name: str | None) -> str | None:
    """The name before peft: attention processors in a UNet, linear layers in a text encoder."""
    if network.library == "transformers":
        return f"{network.written(module)}.lora_linear_layer"
    for pattern, templates in network.older:
        if match := re.fullmatch(pattern, module):
            return f"{match.expand(templates[0])}_lora"
    return f"{network.written(module)}.lora"


OF_PEFT = {"A": ".lora_A.weight", "B": ".lora_B.weight", "magnitude": ".lora_magnitude_vector"}
OF_KOHYA = {
    "A": ".lora_down.weight", "B": ".lora_up.weight", "mid": ".lora_mid.weight", "alpha": ".alpha", "dora_scale": ".dora_scale",
}  # fmt: skip

DIFFUSERS = LoraLayout("diffusers", "diffusers", lambda network, module, _: network.written(module), OF_PEFT)
KOHYA = LoraLayout(
    "kohya", "ComfyUI, A1111, Forge, InvokeAI, SD.Next, kohya's scripts and diffusers", kohya, OF_KOHYA, True, True
)
LAYOUTS: Mapping[str, LoraLayout] = {
    "diffusers": DIFFUSERS,
    "diffusers-old": LoraLayout(
        "diffusers before 0.22", "diffusers, ComfyUI", older, {"A": ".down.weight", "B": ".up.weight"}
    ),
    "peft": LoraLayout("peft", "peft (a folder)", peft, OF_PEFT),
    "kohya": KOHYA,
    "kohya-diffusers": LoraLayout(
        "kohya with diffusers' names of blocks",
        "ComfyUI, Forge, InvokeAI, SD.Next and kohya's scripts; for SDXL, A1111 and diffusers without some convolutions",
        underscored, OF_KOHYA, True, True,
    ),
    "kohya-ldm": LoraLayout(
        "kohya with LDM's names of blocks",
        "ComfyUI, A1111 and Forge; but for SDXL, diffusers and SD.Next without convolutions",
        underscored_original, OF_KOHYA, True, True,
    ),
    "comfyui": LoraLayout("ComfyUI", "ComfyUI", original, OF_KOHYA, True, True),
    "lycoris": LoraLayout("LyCORIS", "LyCORIS, ComfyUI", lycoris, OF_KOHYA, True, True),
}  # fmt: skip
"""Layouts by name. kohya: what kohya's scripts write, which is one of the two below it, depending on the family."""


def named(
    layout: LoraLayout,
    layers: Mapping[Place, Mapping[str, Held]],
    networks: Mapping[str, NetworkNames],
    modules: Mapping[str, Sequence[str]],
) -> tuple[dict[str, Held], list[tuple[Place, str]]]:
    """The tensors of an adapter by their names in a layout, and those that it has no name for.

    layers: the tensors of each module by kind, where a kind that is not in `lora_keys.KINDS` is itself the end of the name;
    networks: the names of the networks; modules: all modules of each network.
    """
    names = {part: layout.names(networks[part], modules[part]) for part in {part for part, _ in layers}}
    tensors: dict[str, Held] = {}
    left_out = []
    for (part, module), own in layers.items():
        for kind, tensor in own.items():
            end = layout.end(networks[part], kind) or (kind if kind.startswith(".") and layout.others else None)
            if end is None or module not in names[part]:
                left_out.append(((part, module), kind))
            else:
                tensors[names[part][module] + end] = tensor
    return tensors, left_out
