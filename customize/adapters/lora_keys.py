"""How programs name the tensors of an adapter: maps the names of every layout to modules of a base model's networks.

A tensor's name is a spelling of a module's name, followed by the kind of the tensor. A family defines the spellings of its
networks (`families.specs.network_names`); those of Stable Diffusion:

    unet.mid_block.attentions.0.proj_in.lora_A.weight           diffusers (peft); text_encoder.text_model.encoder...
    unet.mid_block...attn1.processor.to_q_lora.down.weight      diffusers before 0.22
    base_model.model.mid_block.attentions.0.proj_in.lora_A...   peft's save_pretrained
    lora_unet_mid_block_attentions_0_proj_in.lora_down.weight   kohya, OneTrainer; lora_te_text_model_encoder_..., .alpha
    lora_unet_middle_block_1_proj_in.lora_down.weight           the same with the names of the original (LDM) UNet
    diffusion_model.middle_block.1.proj_in.lora_A.weight        ComfyUI; clip_l.transformer.text_model.encoder...
    lycoris_mid_block_attentions_0_proj_in.hada_w1_a            LyCORIS
"""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import TypeVar

from customize.families.specs.network_names import NetworkNames

Held = TypeVar("Held")

ADAPTER_METADATA = "lora_adapter_metadata"
"""The metadata entry from which diffusers' loaders configure an adapter: rank, alpha and the like."""

KINDS = {
    "A": r"\.lora_A(\.\w+)?\.weight|(\.|_)lora\.down\.weight|\.lora_down\.weight|\.lora_linear_layer\.down\.weight",
    "B": r"\.lora_B(\.\w+)?\.weight|(\.|_)lora\.up\.weight|\.lora_up\.weight|\.lora_linear_layer\.up\.weight",
    "mid": r"\.lora_mid\.weight",
    "alpha": r"(_lora|\.lora|\.lora_linear_layer)?\.alpha",
    "magnitude": r"\.lora_magnitude_vector(\.\w+)?",
    "dora_scale": r"\.dora_scale",
    "weight": r"\.diff|\.w_norm",
    "bias": r"\.diff_b|\.b_norm",
    "B_bias": r"\.lora_B(\.\w+)?\.bias|\.lora_up\.bias",
    "oft_R": r"\.oft_R(\.\w+)?\.weight",
    "scaled_oft": r"\.oft_R(\.\w+)?\.scaled_oft",
    **{name: rf"\.{name}\.weight" for name in ("a1", "a2", "b1", "b2")},
    **{name: rf"\.{name}(\.\w+)?" for name in (
        "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2",
        "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2",
        "oft_blocks", "rescale", "on_input", "ia3_l",
    )},
}  # fmt: skip
"""The kinds of tensors, by the end of their names. magnitude: of a DoRA by peft, over output rows; dora_scale: of a DoRA by
other programs, with the axis given by its shape; weight, bias: the change itself; B_bias: what is added after B; a1 to b2: of a
GLoRA; ia3_l: of an (IA)^3 by peft, ia3 and on_input by LyCORIS; oft_blocks, rescale: of an OFT; oft_R: of an OFT of inputs."""
ENDS = re.compile("(?:" + "|".join(f"(?P<{kind}>{pattern})" for kind, pattern in KINDS.items()) + ")$")
IA3 = re.compile(r"((?:lora|lycoris)_\w+)\.weight")
"""The factors of an (IA)^3 by LyCORIS, kind `ia3`."""
Place = tuple[str, str]
"""The folder name of a network, and the name of a module in it."""


@lru_cache(1 << 17)
def split(name: str) -> tuple[str, str] | None:
    """Splits a tensor's name into a spelling of a module's name and its kind. None for any other name."""
    if own := IA3.fullmatch(name):
        return own[1], "ia3"
    end = ENDS.search(name)
    return (name[: end.start()], str(end.lastgroup)) if end and end.start() else None


def sorted_out(
    tensors: Mapping[str, Held], modules: Mapping[str, Iterable[str]], names: Mapping[str, NetworkNames]
) -> tuple[dict[Place, dict[str, Held]], dict[tuple[Place, str], str]]:
    """The tensors of a file by module and kind, and the name of each in the file.

    modules: the names of the modules of each network; names: their names in files. Both results leave out tensors of unknown
    modules, and a second tensor for the same module and kind.
    """
    return sorted_among(tensors, spellings(modules, names))


def sorted_among(
    tensors: Mapping[str, Held], known: Mapping[str, Place]
) -> tuple[dict[Place, dict[str, Held]], dict[tuple[Place, str], str]]:
    """As `sorted_out`, with the names that files may use for each module: `spellings`."""
    return sorted_by(tensors, lambda name: (known.get(parts[0]), parts[1]) if (parts := split(name)) else (None, ""))


def by_module(
    tensors: Mapping[str, Held], modules: Mapping[str, Iterable[str]], names: Mapping[str, NetworkNames]
) -> tuple[dict[Place, dict[str, Held]], dict[tuple[Place, str], str]]:
    """As `sorted_out`, for adapters of other kinds: the kind is whatever follows the module in a tensor's name."""
    known = spellings(modules, names)

    def place_and_kind(name: str) -> tuple[Place | None, str]:
        heads = (name[:at] for at in range(len(name) - 1, 0, -1) if name[at] == ".")
        head = next((head for head in heads if head in known), None)
        return (None, "") if head is None else (known[head], name[len(head) + 1 :])

    return sorted_by(tensors, place_and_kind)


def sorted_by(
    tensors: Mapping[str, Held], place_and_kind: Callable[[str], tuple[Place | None, str]]
) -> tuple[dict[Place, dict[str, Held]], dict[tuple[Place, str], str]]:
    """The result of `sorted_out` and `by_module`. place_and_kind: of a tensor's name; the place is None for an unknown module."""
    found: dict[Place, dict[str, Held]] = {}
    names: dict[tuple[Place, str], str] = {}
    for name, tensor in tensors.items():
        place, kind = place_and_kind(name)
        if place and (place, kind) not in names:
            found.setdefault(place, {})[kind] = tensor
            names[place, kind] = name
    return found, names


def spellings(modules: Mapping[str, Iterable[str]], names: Mapping[str, NetworkNames]) -> dict[str, Place]:
    """Every name that a file may use for each module. A name that two networks share belongs to the first."""
    known: dict[str, Place] = {}
    for network, own in modules.items():
        for name, module in names[network].in_files(list(own)):
            known.setdefault(name, (network, module))
    return known


def network_of(name: str, names: Mapping[str, NetworkNames]) -> str | None:
    """The network that a tensor belongs to, by the longest matching prefix of its name; None if no prefix matches."""
    prefixes = [(prefix, network) for network, own in names.items() for prefix in own.prefixes if name.startswith(prefix)]
    return max(prefixes, key=lambda each: len(each[0]))[1] if prefixes else None
