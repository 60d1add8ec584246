"""Converts diffusers' names and shapes to the original (LDM) layout of Stable Diffusion and SDXL: the inverse of `single_file`.

Covers the random models of `random_models.py` and the tests; b numbers a block, i a layer within it.
"""

import re
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import CLIPTextModel

from customize.families.files.ldm_header import CLIP, CLIP_G, CLIP_L, OPEN_CLIP, UNET, VAE
from customize.families.files.single_file import OPEN_CLIP_NAMES

Rules = dict[str, str | Callable[[re.Match], str]]


def to_ldm(unet, vae, text_encoder, text_encoder_2=None) -> dict[str, Tensor]:
    """The weights of a UNet, VAE and text encoder as one checkpoint: CLIP as 1.x has it, OpenCLIP as 2.x, or both, as SDXL."""
    tensors = {UNET + name: tensor for name, tensor in unet_to_ldm(unet).items()}
    tensors |= {VAE + name: tensor for name, tensor in vae_to_ldm(vae).items()}
    if text_encoder_2 is not None:
        tensors |= text_encoder_to_clip(text_encoder, CLIP_L) | text_encoder_to_open_clip(text_encoder_2, CLIP_G)
    elif text_encoder.config.hidden_act == "quick_gelu":
        tensors |= text_encoder_to_clip(text_encoder)
    else:
        tensors |= text_encoder_to_open_clip(text_encoder)
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def unet_to_ldm(unet) -> dict[str, Tensor]:
    """LDM numbers all down (up) layers in one list; the first convolution is down layer 0."""
    n = unet.config.layers_per_block + 1  # LDM's layers per block; in down blocks, the last is the downsampler
    attends = [block.startswith("CrossAttn") for block in unet.config.up_block_types]
    place = {"resnets": 0, "attentions": 1}
    rules: Rules = {
        r"(resnets\.\d+)\.norm1\.": r"\1.in_layers.0.",
        r"(resnets\.\d+)\.conv1\.": r"\1.in_layers.2.",
        r"(resnets\.\d+)\.time_emb_proj\.": r"\1.emb_layers.1.",
        r"(resnets\.\d+)\.norm2\.": r"\1.out_layers.0.",
        r"(resnets\.\d+)\.conv2\.": r"\1.out_layers.3.",
        r"(resnets\.\d+)\.conv_shortcut\.": r"\1.skip_connection.",
        r"^down_blocks\.(\d+)\.(resnets|attentions)\.(\d+)": (
            lambda m: f"input_blocks.{1 + n * int(m[1]) + int(m[3])}.{place[m[2]]}"
        ),
        r"^down_blocks\.(\d+)\.downsamplers\.0\.conv": lambda m: f"input_blocks.{n * (int(m[1]) + 1)}.0.op",
        r"^up_blocks\.(\d+)\.(resnets|attentions)\.(\d+)": (lambda m: f"output_blocks.{n * int(m[1]) + int(m[3])}.{place[m[2]]}"),
        r"^up_blocks\.(\d+)\.upsamplers\.0": (
            lambda m: f"output_blocks.{n * (int(m[1]) + 1) - 1}.{2 if attends[int(m[1])] else 1}"
        ),
        r"^mid_block\.resnets\.(\d+)": lambda m: f"middle_block.{2 * int(m[1])}",
        r"^mid_block\.attentions\.0": "middle_block.1",
        r"^conv_in": "input_blocks.0.0",
        r"^conv_norm_out": "out.0",
        r"^conv_out": "out.2",
        r"^time_embedding\.linear_1": "time_embed.0",
        r"^time_embedding\.linear_2": "time_embed.2",
        r"^add_embedding\.linear_1": "label_emb.0.0",
        r"^add_embedding\.linear_2": "label_emb.0.2",
    }
    return rename(unet.state_dict(), rules)


def vae_to_ldm(vae) -> dict[str, Tensor]:
    """LDM counts the decoder's blocks from the last, and writes the attention's projections as 1 x 1 convolutions."""
    last = len(vae.config.block_out_channels) - 1
    rules: Rules = {
        r"\.down_blocks\.(\d+)\.": r".down.\1.",
        r"\.up_blocks\.(\d+)\.": lambda m: f".up.{last - int(m[1])}.",
        r"\.mid_block\.resnets\.(\d+)\.": lambda m: f".mid.block_{int(m[1]) + 1}.",
        r"\.mid_block\.attentions\.0\.": ".mid.attn_1.",
        r"\.resnets\.": ".block.",
        r"\.(up|down)samplers\.0\.": r".\1sample.",
        r"\.conv_norm_out\.": ".norm_out.",
        r"\.conv_shortcut\.": ".nin_shortcut.",
        r"attn_1\.group_norm\.": "attn_1.norm.",
        r"attn_1\.to_([qkv])\.": r"attn_1.\1.",
        r"attn_1\.to_out\.0\.": "attn_1.proj_out.",
    }
    renamed = rename(vae.state_dict(), rules)
    return {
        name: tensor[..., None, None] if ".attn_1." in name and tensor.dim() == 2 else tensor for name, tensor in renamed.items()
    }


def text_encoder_to_clip(text_encoder: CLIPTextModel, prefix: str = CLIP) -> dict[str, Tensor]:
    """As the first transformers versions named it, which 1.x files keep."""
    return {f"{prefix}text_model.{name}": tensor for name, tensor in text_encoder.state_dict().items()}


def text_encoder_to_open_clip(text_encoder, prefix: str = OPEN_CLIP) -> dict[str, Tensor]:
    """OpenCLIP's names; query, key and value become one projection, and the one of the pooled text is transposed."""
    rules: Rules = {"^text_model\\.": ""} | {re.escape(ours): theirs for theirs, ours in reversed(OPEN_CLIP_NAMES.items())}
    weights = rename(text_encoder.state_dict(), rules)
    for query in [name for name in weights if ".q_proj." in name]:
        parts = [weights.pop(query.replace(".q_proj.", f".{part}_proj.")) for part in "qkv"]
        weights[query.replace(".q_proj.", ".in_proj_")] = torch.cat(parts)
    if (projection := weights.pop("text_projection.weight", None)) is not None:
        weights["text_projection"] = projection.T
    return {prefix + name: tensor for name, tensor in weights.items()}


def rename(tensors: dict[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """Applies all rules to each name, in order."""
    renamed = {}
    for name, tensor in tensors.items():
        for pattern, replacement in rules.items():
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed
