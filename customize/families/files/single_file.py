"""Stable Diffusion 1.x, 2.x and XL from one .safetensors file in the original (LDM) layout, without a connection."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import init_empty_weights
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from torch import Tensor, nn
from transformers import CLIPTextConfig

from customize.errors import InputError, Problem
from customize.families.files.clip_tokenizer import END, clip_tokenizer
from customize.families.files.ldm_header import CLIP_G, OPEN_CLIP, UNET, VAE, Layout
from customize.families.files.networks import copy_tensors
from customize.families.files.scheduler import load_scheduler
from customize.families.source import Source
from customize.families.stable_diffusion import StableDiffusion

Loaded = TypeVar("Loaded", bound=StableDiffusion)
CONVERT = {"unet": convert_ldm_unet_checkpoint, "vae": convert_ldm_vae_checkpoint}
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
PROJECTION = "text_projection"
ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
"""The scheduler of a model whose noise schedule ends in pure noise (Lin et al. 2023, sections 3.1 and 3.3)."""


def load_single_file(
    family: type[Loaded], classes: Mapping[str, type], source: Source, dtype: torch.dtype = torch.float32
) -> Loaded:
    """Loads the file on the CPU in `dtype`, one network after another. Configuration and tokenizers come with the project.

    classes: those of the networks, by the names of their folders. Raises InputError.
    """
    layout = family.spec.layout(source)
    try:
        networks = {part: load_part(kind, part, source.file, layout, dtype) for part, kind in classes.items()}
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        cause = " ".join(str(error).split())[:300]
        remedy = f"is it {family.spec.title}? get the file again, whole"
        raise InputError(Problem(str(source.file), f"cannot be loaded as {layout.config.name} ({cause})", remedy)) from error
    factor = 2 ** (len(networks["vae"].config.block_out_channels) - 1)
    networks["unet"].register_to_config(sample_size=layout.resolution // factor)
    pads = {part: "!" if prefix in (OPEN_CLIP, CLIP_G) else END for part, prefix in layout.text_encoders.items()}
    tokenizers = {part.replace("text_encoder", "tokenizer"): clip_tokenizer(pad) for part, pad in pads.items()}
    scheduler = load_scheduler(layout.config)
    changes = {"prediction_type": layout.prediction_type, **(ZERO_SNR if layout.zero_snr else {})}
    scheduler = type(scheduler).from_config(scheduler.config, **changes)
    return family(source.name, source.file, **networks, **tokenizers, scheduler=scheduler)


def load_part(network_class: type, part: str, file: Path, layout: Layout, dtype: torch.dtype) -> nn.Module:
    """One network of the file. Raises ValueError, and the errors of the libraries."""
    prefix = {"unet": UNET, "vae": VAE, **layout.text_encoders}[part]
    tensors = read_tensors(file, prefix, dtype)
    if part in layout.text_encoders:
        return load_text_encoder(network_class, part, tensors, prefix, layout.config)
    changes = {"in_channels": layout.channels} if part == "unet" else {}
    return load_network(network_class, part, tensors, layout.config, **changes)


def read_tensors(file: Path, prefix: str, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Copies of the tensors whose names begin with the prefix, in `dtype`, by their names in the file."""
    return copy_tensors(file, lambda name: name if name.startswith(prefix) else "", dtype)


def load_network(network_class: type, part: str, tensors: dict[str, Tensor], config: Path, **changes: int):
    """A UNet or VAE, of which diffusers converts the names. changes: to the configuration.

    Raises ValueError for a tensor too few, and in a UNet for one too many.
    """
    settings = {**network_class.load_config(config, subfolder=part), **changes}
    with torch.device("meta"):
        network = network_class.from_config(settings)
    converted = CONVERT[part](tensors, config=settings)
    fill(network, part, {name: tensor for name, tensor in converted.items() if tensor is not None})
    if part == "unet" and (surplus := len(tensors) - len(network.state_dict())):
        raise ValueError(f"it holds {surplus} tensors for which this UNet has no place")
    return network


def load_text_encoder(network_class: type, part: str, tensors: dict[str, Tensor], prefix: str, config: Path) -> nn.Module:
    """CLIP's or OpenCLIP's text encoder, of which all names begin with `prefix`, as a class of transformers.

    What the configuration does not have is left out: in Stable Diffusion 2.x the last layer and the projection. Raises
    ValueError for a tensor too few.
    """
    with init_empty_weights():
        text_encoder = network_class(CLIPTextConfig.from_pretrained(config, subfolder=part))
    tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    if prefix in (OPEN_CLIP, CLIP_G):
        tensors = from_open_clip(tensors)
    weights = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
    own = {name: name.removeprefix("text_model.") for name in text_encoder.state_dict()}  # which depends on the class
    fill(text_encoder, part, {name: weights[inner] for name, inner in own.items() if inner in weights})
    return text_encoder


def fill(network: nn.Module, part: str, tensors: dict[str, Tensor]) -> None:
    """Makes the tensors those of the network. Raises ValueError where some are missing, RuntimeError for other shapes."""
    if missing := network.load_state_dict(tensors, strict=False, assign=True).missing_keys:
        raise ValueError(f"{len(missing)} tensors of the {part} are missing, such as {missing[0]}")


def from_open_clip(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """OpenCLIP's names to transformers'; its one projection for query, key and value becomes three, and the one of the pooled
    text, which it multiplies from the right, is transposed."""
    weights = {}
    for name, tensor in tensors.items():
        for theirs, ours in OPEN_CLIP_NAMES.items():
            name = name.replace(theirs, ours)
        if ".in_proj_" in name:
            for part, third in zip("qkv", tensor.chunk(3), strict=True):
                weights[name.replace(".in_proj_", f".{part}_proj.")] = third.clone()
        elif name == PROJECTION:
            weights[f"{PROJECTION}.weight"] = tensor.T.contiguous()
        else:
            weights[name] = tensor
    return weights
