"""Loads a network of a model in diffusers' layout: builds it from checked values, compares it with its file, loads the weights.

Nothing in the model's folder determines a class, an implementation or a way of loading.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from customize.errors import InputError, Problem
from customize.families.files.configurations import OF_NETWORKS, Shapes, kind_of
from customize.families.files.folder_check import AGAIN, weight_files
from customize.printable import printable
from customize.storage.json_files import read_object
from customize.storage.safetensors_header import read_header
from customize.storage.untrusted_files import refusing

OTHER = f"is it Stable Diffusion 1.x, 2.x or XL, or DeepFloyd IF? {AGAIN}"
OTHER_PARTS_OF_CLIP = ("text_projection.", "logit_scale", "vision_model.", "visual_projection.", "embeddings.position_ids")
"""Other tensors that the file of a text encoder may hold; they are ignored."""
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Old and current names of the attention layers in the autoencoders of Stable Diffusion 1.x."""
CONFIGURATIONS = {CLIPTextModel: CLIPTextConfig, CLIPTextModelWithProjection: CLIPTextConfig, T5EncoderModel: T5Config}
"""Of the networks of transformers."""
AT_A_TIME = 64


def load_network(
    network_class: type, folder: Path, part: str, variant: str | None = None, dtype: torch.dtype = torch.float32
) -> nn.Module:
    """Loads the network in `folder`, the component `part` of a model, or a network of that kind.

    Raises InputError if its configuration and file contradict each other.
    """
    values = OF_NETWORKS[kind_of(part)]
    declared = read_object(folder / "config.json")
    config = {name: declared[name] for name in values if name in declared}
    headers = [read_header(file).tensors for file in weight_files(folder, variant)]
    shapes = {own: info.shape for header in headers for name, info in header.items() if (own := own_name(part, name))}
    where = printable(folder)
    if size_of(part, config) > 2 * len(shapes) + 2000:
        what = f"its configuration defines far more than the {len(shapes)} tensors in its file"
        raise InputError(Problem(where, what, AGAIN))
    with refusing(where, OTHER):
        network = build(network_class, config)
    tied = getattr(network, "all_tied_weights_keys", {})
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items() if name not in tied}
    refuse_mismatch(where, expected, shapes)
    with refusing(where, OTHER):
        network.load_state_dict(tensors_of(folder, part, variant, dtype), assign=True, strict=not tied)
        if tied:
            network.tie_weights()
    return network


def build(network_class: type, config: dict) -> nn.Module:
    """The network on the meta device, without memory for its weights."""
    if configuration := CONFIGURATIONS.get(network_class):
        with init_empty_weights():  # keeps buffers such as the position ids on the CPU
            return network_class(configuration(**config))
    with torch.device("meta"):
        return network_class.from_config(config)


def size_of(part: str, config: dict) -> int:
    """A lower bound of the number of tensors of a network with this configuration."""
    if kind_of(part) == "text_encoder":
        return 16 * config.get("num_hidden_layers", 12)
    if part == "t5":
        return 8 * config.get("num_layers", 6)
    blocks = len(config.get("block_out_channels", (320, 640, 1280, 1280)))
    depth = config.get("transformer_layers_per_block", 1)
    depth = max(depth) if isinstance(depth, list) else depth
    layers = config.get("layers_per_block", 1)
    return sum(layers if isinstance(layers, list) else [layers] * blocks) * (8 + depth)


def own_name(part: str, name: str) -> str:
    """The name in the network of a tensor in the file; empty for one that is not used."""
    if part == "text_encoder":
        name = name.removeprefix("text_model.")
        return "" if name.startswith(OTHER_PARTS_OF_CLIP) else name
    if part == "t5":
        return "" if name == "encoder.embed_tokens.weight" else name  # the same as shared.weight
    if part == "vae" and ".attentions." in name:
        parts = name.split(".")
        parts[-2] = OLD_NAMES.get(parts[-2], parts[-2])
        return ".".join(parts)
    return name


def refuse_mismatch(where: str, expected: Shapes, found: Shapes) -> None:
    """Raises InputError if tensors are missing, unexpected, or of another shape."""
    for names, what in (
        (expected.keys() - found, "of its tensors missing"),
        (found.keys() - expected, "of its tensors unexpected"),
    ):
        if names:
            raise InputError(Problem(where, printable(f"{len(names)} {what}, such as {min(names)[:200]}"), AGAIN))
    if wrong := sorted(name for name in expected if expected[name] != found[name]):
        shapes = f"{list(found[wrong[0]])} in its file, {list(expected[wrong[0]])} in its configuration"
        raise InputError(Problem(where, f"cannot be loaded: {wrong[0]} is {shapes}", OTHER))


def tensors_of(folder: Path, part: str, variant: str | None, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of a network's files, by their names in the network, each a copy in `dtype`."""
    tensors: dict[str, Tensor] = {}
    for file in weight_files(folder, variant):
        tensors |= copy_tensors(file, partial(own_name, part), dtype)
    return tensors


def copy_tensors(file: Path, rename: Callable[[str], str], dtype: torch.dtype) -> dict[str, Tensor]:
    """Copies of a file's tensors in `dtype`, by the names that `rename` gives them; tensors without a name are left out.

    The file is reopened every `AT_A_TIME` tensors, because the pages read from a mapped file stay in memory until it is closed.
    """
    tensors: dict[str, Tensor] = {}
    with safe_open(file, framework="pt") as opened:
        names = [(name, own) for name in opened.keys() if (own := rename(name))]
    for start in range(0, len(names), AT_A_TIME):
        with safe_open(file, framework="pt") as opened:
            some = names[start : start + AT_A_TIME]
            tensors |= {own: opened.get_tensor(name).to(dtype, copy=True) for name, own in some}
    return tensors
