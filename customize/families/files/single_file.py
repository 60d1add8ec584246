"""Stable Diffusion 1.x and 2.x from one .safetensors file in the original (LDM) layout, without a connection."""

from pathlib import Path

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import safe_open
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from customize.errors import InputError, Problem
from customize.families.files.clip_tokenizer import END, clip_tokenizer
from customize.families.files.ldm_header import CLIP, OPEN_CLIP, UNET, VAE, read_layout
from customize.families.files.scheduler import load_scheduler
from customize.families.source import Source
from customize.families.stable_diffusion import StableDiffusion

OPEN_CLIP_NAMES = {  # OpenCLIP's names, and transformers' for the same
    "positional_embedding": "embeddings.position_embedding.weight",
    "token_embedding.": "embeddings.token_embedding.",
    "ln_final.": "final_layer_norm.",
    "transformer.resblocks.": "encoder.layers.",
    ".ln_1.": ".layer_norm1.",
    ".ln_2.": ".layer_norm2.",
    ".attn.": ".self_attn.",
    ".mlp.c_fc.": ".mlp.fc1.",
    ".mlp.c_proj.": ".mlp.fc2.",
}


def load_single_file(source: Source, prediction_type: str | None = None) -> StableDiffusion:
    """Loads the file in float32 on the CPU. Configuration and tokenizer come with the project.

    prediction_type: "epsilon" or "v_prediction", over what the file says or `read_layout` assumes. Raises InputError.
    """
    layout = read_layout(source.file, prediction_type)
    config = layout.config
    try:
        unet = load_network(UNet2DConditionModel, "unet", read_tensors(source.file, UNET), config, in_channels=layout.channels)
        vae = load_network(AutoencoderKL, "vae", read_tensors(source.file, VAE), config)
        text_encoder = load_text_encoder(read_tensors(source.file, CLIP, OPEN_CLIP), config)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        cause = " ".join(str(error).split())[:300]
        remedy = "is it Stable Diffusion 1.x or 2.x? get the file again, whole"
        raise InputError(Problem(str(source.file), f"cannot be loaded as {config.name} ({cause})", remedy)) from error
    unet.register_to_config(sample_size=layout.resolution // 2 ** (len(vae.config.block_out_channels) - 1))
    tokenizer = clip_tokenizer(END if config.name == "sd15" else "!")
    scheduler = load_scheduler(config)
    scheduler.register_to_config(prediction_type=layout.prediction_type)
    return StableDiffusion(source.name, source.file, unet, vae, text_encoder, tokenizer, scheduler)


def read_tensors(file: Path, *prefixes: str) -> dict[str, Tensor]:
    """Copies of the tensors whose names begin with a prefix, in float32, by their names in the file."""
    with safe_open(file, framework="pt") as tensors:
        names = [name for name in tensors.keys() if name.startswith(prefixes)]
        return {name: tensors.get_tensor(name).to(torch.float32, copy=True) for name in names}


def load_network(network_class: type, part: str, tensors: dict[str, Tensor], config: Path, **changes: int):
    """A UNet or VAE, converted by diffusers. changes: to the configuration.

    Raises ValueError for a tensor too few, and in a UNet for one too many.
    """
    try:
        network = network_class.from_single_file(tensors, config=str(config), subfolder=part, local_files_only=True, **changes)
    except NotImplementedError as error:  # a weight that no tensor was found for has no data to be moved
        raise ValueError(f"tensors of the {part} are missing") from error
    if part == "unet" and (surplus := len(tensors) - len(network.state_dict())):
        raise ValueError(f"it holds {surplus} tensors for which this UNet has no place")
    return network


def load_text_encoder(tensors: dict[str, Tensor], config: Path) -> CLIPTextModel:
    """CLIP (1.x) or OpenCLIP (2.x) as transformers' CLIPTextModel. Raises ValueError for a tensor too few.

    Stable Diffusion 2.x reads the last layer but one, so that the last (and the projection) are left out.
    """
    with init_empty_weights():
        text_encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(config, subfolder="text_encoder"))
    weights = from_clip(tensors) | from_open_clip(tensors)
    if missing := text_encoder.load_state_dict(weights, strict=False, assign=True).missing_keys:
        raise ValueError(f"{len(missing)} tensors of the text encoder are missing, such as {missing[0]}")
    return text_encoder


def from_clip(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """CLIP's names as the first transformers versions had them, with or without text_model, to today's."""
    return {
        name.removeprefix(CLIP).removeprefix("text_model."): tensor for name, tensor in tensors.items() if name.startswith(CLIP)
    }


def from_open_clip(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """OpenCLIP's names to transformers'; its one projection for query, key and value becomes three."""
    weights = {}
    for name, tensor in tensors.items():
        if not name.startswith(OPEN_CLIP):
            continue
        name = name.removeprefix(OPEN_CLIP)
        for theirs, ours in OPEN_CLIP_NAMES.items():
            name = name.replace(theirs, ours)
        if ".in_proj_" in name:
            for part, third in zip("qkv", tensor.chunk(3), strict=True):
                weights[name.replace(".in_proj_", f".{part}_proj.")] = third.clone()
        else:
            weights[name] = tensor
    return weights
