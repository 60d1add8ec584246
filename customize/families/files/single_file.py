"""Stable Diffusion 1.x, 2.x and XL in one .safetensors file in the original (LDM) layout: read and written, without a
connection."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTokenizer

from customize.errors import InputError, Problem
from customize.families.base import Placement
from customize.families.files.clip_tokenizer import END, clip_tokenizer
from customize.families.files.ldm_header import CLIP_G, OPEN_CLIP, UNET, VAE, Layout
from customize.families.files.networks import copy_tensors
from customize.families.files.scheduler import changed_scheduler, load_scheduler
from customize.families.source import Source
from customize.families.specs.unet_names import original_names

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
VAE_NAMES = {  # diffusers' names, and LDM's for the same
    ".mid_block.attentions.0.": ".mid.attn_1.",
    ".mid_block.resnets.0.": ".mid.block_1.",
    ".mid_block.resnets.1.": ".mid.block_2.",
    ".down_blocks.": ".down.",
    ".resnets.": ".block.",
    "samplers.0.": "sample.",
    ".conv_norm_out.": ".norm_out.",
    ".conv_shortcut.": ".nin_shortcut.",
    ".attn_1.group_norm.": ".attn_1.norm.",
    ".attn_1.to_out.0.": ".attn_1.proj_out.",
    ".attn_1.to_": ".attn_1.",
}


def load_single_file(family: Any, classes: Mapping[str, type], source: Source, placement: Placement) -> Any:
    """Loads the file on the CPU, one network after another. Configuration and tokenizers come with the project.

    family: the class of what is returned; classes: those of the networks, by the names of their folders. Raises InputError.
    """
    layout = family.spec.layout(source)
    try:
        networks = {part: load_part(kind, part, source.file, layout, placement.dtype_of(part)) for part, kind in classes.items()}
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        cause = " ".join(str(error).split())[:300]
        remedy = f"is it {family.spec.title}? get the file again, whole"
        raise InputError(Problem(str(source.file), f"cannot be loaded as {layout.config.name} ({cause})", remedy)) from error
    factor = 2 ** (len(networks["vae"].config.block_out_channels) - 1)
    networks["unet"].register_to_config(sample_size=layout.resolution // factor)
    tokenizers = {part.replace("text_encoder", "tokenizer"): tokenizer_of(layout, part) for part in layout.text_encoders}
    scheduler = changed_scheduler(scheduler_of(layout), None, source.rescale_betas_zero_snr)
    return family(source.name, source.file, **networks, **tokenizers, scheduler=scheduler)


def tokenizer_of(layout: Layout, part: str) -> CLIPTokenizer:
    """The tokenizer of a text encoder."""
    return clip_tokenizer("!" if layout.text_encoders[part] in (OPEN_CLIP, CLIP_G) else END)


def scheduler_of(layout: Layout) -> Any:
    """The scheduler of diffusers, in the configuration that the file was trained with."""
    return changed_scheduler(load_scheduler(layout.config), layout.prediction_type, layout.zero_snr or None)


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


def original_tensors(networks: Mapping[str, nn.Module], layout: Layout) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of all that the file of these networks holds, one at a time, on their devices: the inverse of loading.

    networks: by the names of their folders. The tensors are those of the networks, or views of them, except for a text encoder's
    joined projections. OpenCLIP's `logit_scale`, and in 2.x its last layer and projection, are no part of the model and are left
    out. Raises ValueError for a UNet with modules that the layout does not have.
    """
    yield from unet_tensors(networks["unet"])
    last = len(networks["vae"].config.block_out_channels) - 1
    for name, tensor in networks["vae"].state_dict().items():
        for block in range(last + 1):  # the decoder's are counted from the last
            name = name.replace(f".up_blocks.{block}.", f".up.{last - block}.")
        for ours, theirs in VAE_NAMES.items():
            name = name.replace(ours, theirs)
        yield VAE + name, tensor[..., None, None] if ".attn_1." in name and tensor.dim() == 2 else tensor
    for part, prefix in layout.text_encoders.items():
        tensors = {name.removeprefix("text_model."): tensor for name, tensor in networks[part].state_dict().items()}
        to_original = to_open_clip if prefix in (OPEN_CLIP, CLIP_G) else to_clip
        yield from ((prefix + name, tensor) for name, tensor in to_original(tensors))
    yield from ((name, torch.zeros(0)) for name in layout.markers)


def unet_tensors(unet: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(name in the file, tensor) of a UNet."""
    tensors = unet.state_dict()
    parts = [name.rpartition(".") for name in tensors]
    for (module, _, leaf), original in zip(parts, original_names([module for module, *_ in parts]), strict=True):
        if original is None:
            raise ValueError(f"the original layout has no place for {module}")
        yield f"{UNET}{original}.{leaf}", tensors[f"{module}.{leaf}"]


def to_clip(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """CLIP's names as the first versions of transformers had them, with the positions that they kept as a tensor."""
    yield from ((f"text_model.{name}", tensor) for name, tensor in tensors.items())
    positions = len(tensors["embeddings.position_embedding.weight"])
    yield "text_model.embeddings.position_ids", torch.arange(positions)[None]


def to_open_clip(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The inverse of `from_open_clip`."""
    for name, tensor in tensors.items():
        if ".k_proj." in name or ".v_proj." in name:
            continue
        if ".q_proj." in name:
            tensor = torch.cat([tensors[name.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"])
            name = name.replace(".q_proj.", ".in_proj_")
        elif name == f"{PROJECTION}.weight":
            name, tensor = PROJECTION, tensor.T
        for theirs, ours in OPEN_CLIP_NAMES.items():
            name = name.replace(ours, theirs)
        yield name, tensor
