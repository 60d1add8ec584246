"""The modules of the trainable networks of known base models, by formula from their configurations, without torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from customize.families.specs.network_names import NetworkNames
from customize.storage.json_files import read_object

CONFIGS = Path(__file__).parents[1] / "configs"
Shapes = dict[str, tuple[int, ...]]
"""The shape of the weight of each module that has one, by its name without `NetworkNames.inner`."""


@dataclass(frozen=True, eq=False)
class Architecture:
    """A base model: its name in messages, the names of its networks in files, and the modules of each network."""

    title: str
    networks: Mapping[str, NetworkNames]
    shapes: Mapping[str, Shapes]

    @property
    def modules(self) -> dict[str, list[str]]:
        """The names of all modules of each network."""
        return {part: list(shapes) for part, shapes in self.shapes.items()}


@cache
def known(title: str, config: str, networks: tuple[tuple[str, NetworkNames], ...]) -> Architecture:
    """The architecture with the configurations in the folder `config` of families/configs."""
    return of_folder(title, CONFIGS / config, dict(networks))


def of_folder(title: str, folder: Path, networks: Mapping[str, NetworkNames]) -> Architecture:
    """The architecture of a UNet and CLIP text encoders in diffusers' layout. Raises OSError or ValueError where a
    configuration cannot be read, KeyError or TypeError where it lacks something."""
    configs = {part: read_object(folder / part / "config.json") for part in networks}
    made = {part: unet_shapes(config) if part == "unet" else clip_shapes(config) for part, config in configs.items()}
    return Architecture(title, networks, made)


def unet_shapes(config: Mapping[str, Any]) -> Shapes:
    """The modules of diffusers' `UNet2DConditionModel` of a configuration."""
    channels = config["block_out_channels"]
    count, embedding = len(channels), 4 * channels[0]
    layers = per_block(config.get("layers_per_block", 2), count)
    depths = per_block(config.get("transformer_layers_per_block", 1), count)
    is_simple = config.get("mid_block_type") == "UNetMidBlock2DSimpleCrossAttn"
    in_time = embedding, 2 if config.get("resnet_time_scale_shift") == "scale_shift" else 1
    width, linear = config["cross_attention_dim"], bool(config.get("use_linear_projection"))

    def attention(name: str, size: int, depth: int) -> Shapes:
        return simple_attention(name, size, width) if is_simple else transformer(name, size, depth, width, linear)

    def sampler(name: str, size: int) -> Shapes:
        return resnet(name, size, size, *in_time) if is_simple else {f"{name}.conv": (size, size, 3, 3)}

    shapes: Shapes = {
        "conv_in": (channels[0], config.get("in_channels", 4), 3, 3), "conv_norm_out": (channels[0],),
        "conv_out": (config.get("out_channels", 4), channels[0], 3, 3), **embeddings(config, channels[0], embedding),
    }  # fmt: skip
    before = channels[0]
    for i, (kind, out) in enumerate(zip(config["down_block_types"], channels, strict=True)):
        for j in range(layers[i]):
            shapes |= resnet(f"down_blocks.{i}.resnets.{j}", before if j == 0 else out, out, *in_time)
            if "CrossAttn" in kind:
                shapes |= attention(f"down_blocks.{i}.attentions.{j}", out, depths[i])
        if i < count - 1:
            shapes |= sampler(f"down_blocks.{i}.downsamplers.0", out)
        before = out
    for j in range(2):
        shapes |= resnet(f"mid_block.resnets.{j}", before, before, *in_time)
    shapes |= attention("mid_block.attentions.0", before, depths[-1])
    for i, (kind, out) in enumerate(zip(config["up_block_types"], channels[::-1], strict=True)):
        beside = channels[::-1][min(i + 1, count - 1)]
        for j in range(layers[::-1][i] + 1):
            skipped = beside if j == layers[::-1][i] else out
            shapes |= resnet(f"up_blocks.{i}.resnets.{j}", (before if j == 0 else out) + skipped, out, *in_time)
            if "CrossAttn" in kind:
                shapes |= attention(f"up_blocks.{i}.attentions.{j}", out, depths[::-1][i])
        if i < count - 1:
            shapes |= sampler(f"up_blocks.{i}.upsamplers.0", out)
        before = out
    return shapes


def embeddings(config: Mapping[str, Any], channels: int, embedding: int) -> Shapes:
    """The modules outside the blocks that embed the timestep and further inputs: an image's size, or prompt and class label."""
    ends: Shapes = {"linear_1": (embedding, channels), "linear_2": (embedding, embedding)}
    shapes = under("time_embedding", ends)
    if config.get("class_embed_type") == "timestep":
        shapes |= under("class_embedding", ends)
    if config.get("addition_embed_type") == "text_time":
        shapes |= under("add_embedding", {**ends, "linear_1": (embedding, config["projection_class_embeddings_input_dim"])})
    if config.get("addition_embed_type") == "text":
        read = config["encoder_hid_dim"]
        pool: Shapes = {f"pool.{side}_proj": (read, read) for side in "kqv"}
        pool |= {"norm1": (read,), "proj": (embedding, read), "norm2": (embedding,)}
        shapes |= {"encoder_hid_proj": (config["cross_attention_dim"], read), **under("add_embedding", pool)}
    return shapes


def per_block(value: int | list[int], count: int) -> list[int]:
    """A value for each block of a configuration that may give one for all."""
    return list(value) if isinstance(value, list) else [value] * count


def resnet(name: str, channels: int, out: int, embedding: int, in_time: int = 1) -> Shapes:
    """The modules of a residual block. in_time: numbers that the timestep gives for each channel, a shift or also a scale."""
    own: Shapes = {
        "norm1": (channels,), "conv1": (out, channels, 3, 3), "time_emb_proj": (in_time * out, embedding), "norm2": (out,),
        "conv2": (out, out, 3, 3),
    }  # fmt: skip
    return under(name, own | ({"conv_shortcut": (out, channels, 1, 1)} if channels != out else {}))


def transformer(name: str, channels: int, depth: int, width: int, linear: bool) -> Shapes:
    """The modules of a spatial transformer. width: of the prompt embeddings; linear: whether its projections are linear."""
    square = (channels, channels)
    projection = square if linear else (*square, 1, 1)
    own: Shapes = {"norm": (channels,), "proj_in": projection, "proj_out": projection}
    for k in range(depth):
        block: Shapes = {f"norm{i}": (channels,) for i in (1, 2, 3)}
        for attention, read in (("attn1", channels), ("attn2", width)):
            keys: Shapes = {"to_q": square, "to_k": (channels, read), "to_v": (channels, read), "to_out.0": square}
            block |= under(attention, keys)
        block |= {"ff.net.0.proj": (8 * channels, channels), "ff.net.2": (channels, 4 * channels)}
        own |= under(f"transformer_blocks.{k}", block)
    return under(name, own)


def simple_attention(name: str, channels: int, width: int) -> Shapes:
    """The modules of an attention layer of DeepFloyd IF, which reads image and prompt. width: of the prompt embeddings."""
    own: Shapes = {each: (channels, channels) for each in ("to_q", "to_k", "to_v", "to_out.0")}
    own |= {"add_k_proj": (channels, width), "add_v_proj": (channels, width), "group_norm": (channels,), "norm_cross": (width,)}
    return under(name, own)


def clip_shapes(config: Mapping[str, Any]) -> Shapes:
    """The modules of transformers' `CLIPTextModel` or `CLIPTextModelWithProjection` of a configuration."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    shapes: Shapes = {
        "embeddings.token_embedding": (config["vocab_size"], width), "final_layer_norm": (width,),
        "embeddings.position_embedding": (config.get("max_position_embeddings", 77), width),
    }  # fmt: skip
    for i in range(config["num_hidden_layers"]):
        layer: Shapes = {f"self_attn.{side}_proj": (width, width) for side in ("q", "k", "v", "out")}
        layer |= {"mlp.fc1": (inner, width), "mlp.fc2": (width, inner), "layer_norm1": (width,), "layer_norm2": (width,)}
        shapes |= under(f"encoder.layers.{i}", layer)
    if "CLIPTextModelWithProjection" in config.get("architectures", []):
        shapes["text_projection"] = (config["projection_dim"], width)
    return shapes


def under(name: str, modules: Mapping[str, tuple[int, ...]]) -> Shapes:
    """The modules of a part, with its name before theirs."""
    return {f"{name}.{module}": shape for module, shape in modules.items()}
