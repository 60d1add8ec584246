"""How programs name the tensors of an adapter: every layout to the modules of our networks, and ours to kohya's names.

A tensor's name is a module's name in some spelling, then what it is beside that module:

    unet.mid_block.attentions.0.proj_in.lora_A.weight           diffusers (peft); text_encoder.text_model.encoder...
    unet.mid_block...attn1.processor.to_q_lora.down.weight      diffusers before 0.22
    base_model.model.mid_block.attentions.0.proj_in.lora_A...   peft's save_pretrained
    lora_unet_mid_block_attentions_0_proj_in.lora_down.weight   kohya, OneTrainer; lora_te_text_model_encoder_..., .alpha
    lora_unet_middle_block_1_proj_in.lora_down.weight           the same with the names of the original (LDM) UNet
    diffusion_model.middle_block.1.proj_in.lora_A.weight        ComfyUI; clip_l.transformer.text_model.encoder...
    lycoris_mid_block_attentions_0_proj_in.hada_w1_a            LyCORIS
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

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
    **{name: rf"\.{name}" for name in (
        "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2",
        "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2",
    )},
}  # fmt: skip
"""What a tensor is, by how its name ends. magnitude: peft's of a DoRA, of output rows; dora_scale: of
others, whose shape tells the axis; weight, bias: a difference as it stands."""
ENDS = re.compile("(?:" + "|".join(f"(?P<{kind}>{pattern})" for kind, pattern in KINDS.items()) + ")$")
ATTENTION = re.compile(r"(.*\.attn\d)\.(to_[qkv]|to_out)(\.0)?")
TEXT_ATTENTION = re.compile(r"(.*\.self_attn)\.(q|k|v|out)_proj")
DOTTED_UNET = ("unet.", "", "base_model.model.", "base_model.model.unet.", "unet.base_model.model.", "lora_unet.")
UNDERSCORED_UNET = ("lora_unet_", "lycoris_")
DOTTED_TEXT = (
    "text_encoder.text_model.", "text_encoder.", "text_model.", "base_model.model.text_model.", "base_model.model.",
    "text_encoder.base_model.model.text_model.", "lora_te.text_model.", "clip_l.text_model.", "clip_l.transformer.text_model.",
    "clip_h.transformer.text_model.", "text_encoders.clip_l.transformer.text_model.",
    "text_encoders.clip_h.transformer.text_model.",
)  # fmt: skip
UNDERSCORED_TEXT = ("lora_te_text_model_", "lora_te1_text_model_", "lora_te_", "lora_te1_", "lycoris_text_model_")
IN_BLOCKS = re.compile(r"(down|mid|up)_blocks?(?:\.(\d+))?\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)(?:\.(.+))?")
IN_RESNETS = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
AT_THE_ENDS = {
    "conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
Place = tuple[str, str]
"""A network, "unet" or "text_encoder", and the name of a module in it."""


def split(name: str) -> tuple[str, str] | None:
    """A tensor's name in two: a module's name in some spelling, and one of `KINDS`. None for any other name."""
    end = ENDS.search(name)
    return (name[: end.start()], str(end.lastgroup)) if end and end.start() else None


def sorted_out(
    tensors: Mapping[str, Held], unet: Iterable[str], text_encoder: Iterable[str]
) -> tuple[dict[Place, dict[str, Held]], dict[tuple[Place, str], str]]:
    """The tensors of a file by the module that they belong to and by what they are, and the name that each has in the file.

    unet, text_encoder: the names of the networks' modules. A tensor whose module is not there, or that would take the
    place of another one, is in neither.
    """
    known = spellings(unet, text_encoder)
    found: dict[Place, dict[str, Held]] = {}
    names: dict[tuple[Place, str], str] = {}
    for name, tensor in tensors.items():
        if not (parts := split(name)):
            continue
        place, kind = known.get(parts[0]), parts[1]
        if place and (place, kind) not in names:
            found.setdefault(place, {})[kind] = tensor
            names[place, kind] = name
    return found, names


def by_module(
    tensors: Mapping[str, Held], unet: Iterable[str], text_encoder: Iterable[str]
) -> tuple[dict[Place, dict[str, Held]], dict[tuple[Place, str], str]]:
    """As `sorted_out`, for kinds that have no spelling here: what a tensor is, is whatever follows the module in its name."""
    known = spellings(unet, text_encoder)
    found: dict[Place, dict[str, Held]] = {}
    names: dict[tuple[Place, str], str] = {}
    for name, tensor in tensors.items():
        heads = (name[:at] for at in range(len(name) - 1, 0, -1) if name[at] == ".")
        if head := next((head for head in heads if head in known), None):
            place, kind = known[head], name[len(head) + 1 :]
            found.setdefault(place, {})[kind] = tensor
            names[place, kind] = name
    return found, names


def spellings(unet: Iterable[str], text_encoder: Iterable[str]) -> dict[str, Place]:
    """Every name that a file may have for each module."""
    unet = list(unet)
    known: dict[str, Place] = {}
    for module, original in zip(unet, original_names(unet), strict=True):
        for name in spelled(module, DOTTED_UNET, UNDERSCORED_UNET):
            known[name] = "unet", module
        if original:
            for name in spelled(original, ("diffusion_model.", "model.diffusion_model."), UNDERSCORED_UNET):
                known.setdefault(name, ("unet", module))
        if attention := ATTENTION.fullmatch(module):
            for prefix in ("unet.", ""):
                known[f"{prefix}{attention[1]}.processor.{attention[2]}"] = "unet", module
    for module in text_encoder:
        plain = module.removeprefix("text_model.")
        for name in spelled(plain, DOTTED_TEXT, UNDERSCORED_TEXT):
            known[name] = "text_encoder", module
        if attention := TEXT_ATTENTION.fullmatch(plain):
            for prefix in ("text_encoder.text_model.", "text_encoder."):
                known[f"{prefix}{attention[1]}.to_{attention[2]}"] = "text_encoder", module
    return known


def spelled(module: str, dotted: Iterable[str], underscored: Iterable[str]) -> Iterator[str]:
    """The module's name behind each prefix."""
    yield from (prefix + module for prefix in dotted)
    yield from (prefix + module.replace(".", "_") for prefix in underscored)


def original_names(modules: Iterable[str]) -> list[str | None]:
    """What the original (LDM) code calls each module of a `UNet2DConditionModel`; None where it has no counterpart."""
    modules = list(modules)
    blocks = [match for module in modules if (match := IN_BLOCKS.fullmatch(module))]
    layers = 1 + max((int(match[4]) for match in blocks if match[1] == "down" and match[3] == "resnets"), default=0)
    attentive = {int(match[2]) for match in blocks if match[1] == "up" and match[3] == "attentions"}
    return [original_name(module, layers, attentive) for module in modules]


def original_name(module: str, layers: int, attentive: set[int]) -> str | None:
    """One of `original_names`. layers: `layers_per_block`; attentive: those of the up blocks that have attention."""
    if module in AT_THE_ENDS:
        return AT_THE_ENDS[module]
    match = IN_BLOCKS.fullmatch(module)
    if not match:
        return None
    way, block, kind, number, rest = match[1], int(match[2] or 0), match[3], int(match[4]), match[5] or ""
    rest = IN_RESNETS.get(rest, rest) if kind == "resnets" else rest
    if way == "mid":
        where = f"middle_block.{2 * number if kind == 'resnets' else 1}"
    elif kind == "downsamplers":
        where, rest = f"input_blocks.{(layers + 1) * (block + 1)}.0", "op" if rest == "conv" else rest
    elif kind == "upsamplers":
        where = f"output_blocks.{(layers + 1) * block + layers}.{1 + (block in attentive)}"
    else:
        first = (layers + 1) * block + number + (way == "down")
        where = f"{'input' if way == 'down' else 'output'}_blocks.{first}.{int(kind == 'attentions')}"
    return f"{where}.{rest}" if rest else where


def kohya_name(part: str, module: str) -> str:
    """What kohya's scripts, A1111 and ComfyUI call a module; part: "unet" or "text_encoder"."""
    prefix = "lora_unet_" if part == "unet" else "lora_te_text_model_"
    return prefix + module.removeprefix("text_model.").replace(".", "_")
