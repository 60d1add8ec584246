"""The modules of diffusers' `UNet2DConditionModel` in files of adapters, and in the original code of latent diffusion (LDM)."""

import re
from collections.abc import Sequence

from customize.families.specs.network_names import NetworkNames

IN_BLOCKS = re.compile(r"(down|mid|up)_blocks?(?:\.(\d+))?\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)(?:\.(.+))?")
IN_RESNETS = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
AT_THE_ENDS = {
    "conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0", "conv_out": "out.2", "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip


def original_names(modules: Sequence[str]) -> list[str | None]:
    """The name of each module in the original code; None for a module that it does not have."""
    blocks = [match for module in modules if (match := IN_BLOCKS.fullmatch(module))]
    layers = 1 + max((int(match[4]) for match in blocks if match[1] == "down" and match[3] == "resnets"), default=0)
    attentive = {int(match[2]) for match in blocks if match[1] == "up" and match[3] == "attentions"}
    return [original_name(module, layers, attentive) for module in modules]


def original_name(module: str, layers: int, attentive: set[int]) -> str | None:
    """One of `original_names`. layers: `layers_per_block`; attentive: the up blocks with attention."""
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


UNET = NetworkNames(
    dotted=("unet.", "", "base_model.model.", "base_model.model.unet.", "unet.base_model.model.", "lora_unet."),
    underscored=("lora_unet_", "lycoris_", "oft_unet_"),
    original=original_names,
    original_dotted=("diffusion_model.", "model.diffusion_model."),
    older=((r"(.*\.attn\d)\.(to_[qkv]|to_out(?=\.0))(\.0)?", (r"unet.\1.processor.\2", r"\1.processor.\2")),),
    reads_prompt=("attn2.to_k", "attn2.to_v"),
)
