"""The configurations of a model: which values are read, what each may be, and whether the tensors contradict them.

Only what is listed here reaches a library; the rest of a file (code, classes, ways to compute, quantisation) is never obeyed.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from customize.diffusion.predictions import DISCRETE_PREDICTIONS

Shapes = Mapping[str, tuple[int, ...]]
Check = Callable[[Any], bool]
ACTIVATIONS = ("silu", "swish", "mish", "gelu", "relu")
CLIP_ACTIVATIONS = ("quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu")
DOWN = ("CrossAttnDownBlock2D", "DownBlock2D", "AttnDownBlock2D", "SimpleCrossAttnDownBlock2D", "ResnetDownsampleBlock2D")
UP = ("CrossAttnUpBlock2D", "UpBlock2D", "AttnUpBlock2D", "SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D")
VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range")
MOST_BLOCKS = 200
MIDDLE = ("UNetMidBlock2DCrossAttn", "UNetMidBlock2DSimpleCrossAttn", "UNetMidBlock2D")


def whole(least: int, most: int) -> Check:
    """Whether a value is a whole number of that range."""
    return lambda value: type(value) is int and least <= value <= most


def number(least: float, most: float) -> Check:
    """Whether a value is a number of that range; NaN is in none."""
    return lambda value: type(value) in (int, float) and least <= value <= most


def one_of(*values: Any) -> Check:
    """Whether a value is one of these and of the same type."""
    return lambda value: any(type(value) is type(each) and value == each for each in values)


def or_none(is_fit: Check) -> Check:
    """The same check for a value that may be None."""
    return lambda value: value is None or is_fit(value)


def each(is_fit: Check, most: int = 8) -> Check:
    """The same check for every value of a list."""
    return lambda values: isinstance(values, list) and 0 < len(values) <= most and all(map(is_fit, values))


def one_or_each(is_fit: Check) -> Check:
    """The same check for one value, or for a list with one value per block."""
    return lambda value: is_fit(value) or each(is_fit)(value)


flag, channels, layers = one_of(True, False), whole(1, 16_384), whole(1, 64)
is_count = whole(1, 1_000_000)

UNET: dict[str, Check] = {
    "sample_size": or_none(whole(1, 8192)), "in_channels": whole(1, 64), "out_channels": whole(1, 64),
    "center_input_sample": flag, "flip_sin_to_cos": flag, "freq_shift": number(0, 1),
    "down_block_types": each(one_of(*DOWN)), "mid_block_type": or_none(one_of(*MIDDLE)), "up_block_types": each(one_of(*UP)),
    "only_cross_attention": one_or_each(flag), "block_out_channels": each(channels), "layers_per_block": one_or_each(layers),
    "downsample_padding": whole(0, 2), "mid_block_scale_factor": number(1e-3, 1e3), "dropout": number(0, 1),
    "act_fn": one_of(*ACTIVATIONS), "norm_num_groups": or_none(channels), "norm_eps": number(1e-12, 1),
    "cross_attention_dim": one_or_each(channels), "transformer_layers_per_block": one_or_each(layers),
    "attention_head_dim": one_or_each(channels), "num_attention_heads": or_none(one_or_each(channels)),
    "dual_cross_attention": flag, "use_linear_projection": flag, "upcast_attention": or_none(flag),
    "resnet_time_scale_shift": one_of("default", "scale_shift"), "resnet_skip_time_act": flag,
    "resnet_out_scale_factor": number(1e-3, 1e3), "time_embedding_type": one_of("positional", "fourier"),
    "time_embedding_dim": or_none(channels), "time_embedding_act_fn": or_none(one_of(*ACTIVATIONS)),
    "timestep_post_act": or_none(one_of(*ACTIVATIONS)), "time_cond_proj_dim": or_none(channels),
    "conv_in_kernel": one_of(1, 3, 5, 7), "conv_out_kernel": one_of(1, 3, 5, 7),
    "mid_block_only_cross_attention": or_none(flag), "cross_attention_norm": or_none(one_of("layer_norm", "group_norm")),
    "addition_embed_type": or_none(one_of("text_time", "text")), "addition_time_embed_dim": or_none(channels),
    "addition_embed_type_num_heads": channels, "encoder_hid_dim": or_none(channels),
    "encoder_hid_dim_type": or_none(one_of("text_proj")), "class_embed_type": or_none(one_of("timestep")),
    "projection_class_embeddings_input_dim": or_none(whole(1, 65_536)), "num_class_embeds": or_none(whole(1, 65_536)),
}  # fmt: skip
VAE: dict[str, Check] = {
    "in_channels": one_of(3), "out_channels": one_of(3),
    "down_block_types": each(one_of("DownEncoderBlock2D", "AttnDownEncoderBlock2D")),
    "up_block_types": each(one_of("UpDecoderBlock2D", "AttnUpDecoderBlock2D")),
    "block_out_channels": each(channels), "layers_per_block": layers, "act_fn": one_of(*ACTIVATIONS),
    "latent_channels": whole(1, 64), "norm_num_groups": channels, "sample_size": or_none(whole(1, 65_536)),
    "scaling_factor": number(1e-4, 1e4), "shift_factor": or_none(one_of(0, 0.0)), "latents_mean": one_of(None),
    "latents_std": one_of(None), "force_upcast": flag, "use_quant_conv": flag, "use_post_quant_conv": flag,
    "mid_block_add_attention": flag,
}  # fmt: skip
token_id = or_none(whole(-1, 1_000_000))
TEXT_ENCODER: dict[str, Check] = {
    "vocab_size": is_count, "hidden_size": channels, "intermediate_size": whole(1, 65_536),
    "projection_dim": or_none(whole(0, 16_384)), "num_hidden_layers": whole(1, 128), "num_attention_heads": whole(1, 1024),
    "max_position_embeddings": or_none(whole(1, 65_536)), "hidden_act": one_of(*CLIP_ACTIVATIONS),
    "layer_norm_eps": number(1e-12, 1), "attention_dropout": number(0, 1), "initializer_range": number(0, 1e3),
    "initializer_factor": number(0, 1e3), "pad_token_id": token_id, "bos_token_id": token_id, "eos_token_id": token_id,
}  # fmt: skip
T5: dict[str, Check] = {
    "vocab_size": is_count, "d_model": channels, "d_kv": channels, "d_ff": whole(1, 65_536), "num_layers": whole(1, 128),
    "num_heads": whole(1, 1024), "relative_attention_num_buckets": whole(1, 1024),
    "relative_attention_max_distance": whole(1, 65_536), "dropout_rate": number(0, 1), "layer_norm_epsilon": number(1e-12, 1),
    "initializer_factor": number(0, 1e3), "feed_forward_proj": one_of("relu", "gated-gelu"), "pad_token_id": token_id,
    "eos_token_id": token_id,
}  # fmt: skip
limit = or_none(number(-1e30, 1e30))
SCHEDULER: dict[str, Check] = {
    "num_train_timesteps": whole(1, 10_000), "prediction_type": one_of(*DISCRETE_PREDICTIONS),
    "beta_start": number(0, 0.999), "beta_end": number(0, 0.999),
    "beta_schedule": one_of("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace"),
    "trained_betas": or_none(each(number(0, 0.999), 10_000)),
    "variance_type": or_none(one_of(*VARIANCES)),
    "clip_sample": flag, "clip_sample_range": number(1e-6, 1e6), "thresholding": flag,
    "dynamic_thresholding_ratio": number(0.01, 1), "sample_max_value": number(1e-6, 1e6),
    "timestep_spacing": one_of("leading", "linspace", "trailing"), "steps_offset": whole(0, 10),
    "set_alpha_to_one": flag, "skip_prk_steps": flag, "rescale_betas_zero_snr": flag,
    "solver_order": whole(1, 3), "lower_order_final": flag, "euler_at_final": flag, "predict_x0": flag,
    "use_karras_sigmas": or_none(flag), "use_exponential_sigmas": or_none(flag), "use_beta_sigmas": or_none(flag),
    "use_lu_lambdas": or_none(flag), "sigma_min": limit, "sigma_max": limit, "original_inference_steps": whole(1, 10_000),
    "timestep_scaling": number(0, 1e6), "disable_corrector": lambda value: value == [] or each(whole(0, 10_000), 1000)(value),
}  # fmt: skip
"""Other plain values of a scheduler are passed on: each scheduler class has settings of its own."""
TOKENIZER: dict[str, Check] = {"model_max_length": or_none(number(1, 1e40))}
OF_NETWORKS: dict[str, dict[str, Check]] = {"unet": UNET, "vae": VAE, "text_encoder": TEXT_ENCODER, "t5": T5}
"""The valid values in the configuration of a network, by its kind."""


def kind_of(part: str) -> str:
    """The kind of a network by the name of its folder: that of `text_encoder_2` is `text_encoder`; a kind stays what it is."""
    return part.removesuffix("_2")


def faults(values: Mapping[str, Check], config: Mapping[str, Any]) -> Iterator[str]:
    """Values of a configuration that are out of range, as messages."""
    for name, is_fit in values.items():
        if name in config and not is_fit(config[name]):
            yield f"{name} is {str(config[name])[:80]!r}, which is not understood here"


def scheduler_faults(config: Mapping[str, Any]) -> Iterator[str]:
    """Values of a scheduler that are each valid but contradict each other."""
    steps, betas = config.get("num_train_timesteps", 1000), config.get("trained_betas")
    if betas is not None and len(betas) != steps:
        yield f"trained_betas has {len(betas)} entries, num_train_timesteps is {steps}"
    if betas is None and config.get("beta_start", 1e-4) > config.get("beta_end", 0.02):
        yield f"beta_start {config.get('beta_start', 1e-4)} is above beta_end {config.get('beta_end', 0.02)}"
    if config.get("original_inference_steps", 1) > steps:
        yield f"original_inference_steps is {config['original_inference_steps']}, num_train_timesteps {steps}"


def contradictions(part: str, config: Mapping[str, Any], shapes: Shapes) -> Iterator[str]:
    """Valid values of a network's configuration that the names and shapes of its tensors contradict."""
    part = kind_of(part)
    for name, seen in SEEN[part](shapes):
        declared = config.get(name)
        if declared is not None and seen and not fits(declared, seen):
            shown = seen if isinstance(declared, list) or len(set(seen)) > 1 else seen[0]
            yield f"{name} is {declared}, but its tensors show {shown}"
    if part == "unet":
        counts = [len(config[name]) for name in ("block_out_channels", "down_block_types", "up_block_types") if name in config]
        if len(set(counts)) > 1:
            yield f"block_out_channels, down_block_types and up_block_types have {' and '.join(map(str, counts))} entries"
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if part == "text_encoder" and (config.get(name) or 0) >= (rows := config.get("vocab_size", 49_408)):
            yield f"{name} is {config[name]}, but vocab_size is {rows}"
    if part == "text_encoder" and config.get("hidden_size", 512) % config.get("num_attention_heads", 8):
        yield f"hidden_size {config.get('hidden_size')} is no multiple of num_attention_heads {config.get('num_attention_heads')}"


def fits(declared: Any, seen: list[int | None]) -> bool:
    """Whether a value declared for all blocks, or for each, is the value seen in each; None: the tensors do not show it."""
    values = declared if isinstance(declared, list) else [declared] * len(seen)
    return len(values) == len(seen) and all(each in (None, value) for value, each in zip(values, seen, strict=True))


def unet_seen(shapes: Shapes) -> Iterator[tuple[str, list[int | None]]]:
    """What the tensors of a UNet show of its configuration."""
    blocks = range(count(shapes, r"down_blocks\.(\d+)\."))
    yield "layers_per_block", [count(shapes, rf"down_blocks\.{i}\.resnets\.(\d+)\.") for i in blocks]
    yield "block_out_channels", sizes(shapes, [f"down_blocks.{i}.resnets.0.conv1.weight" for i in blocks], 0)
    depths = [count(shapes, rf"down_blocks\.{i}\.attentions\.0\.transformer_blocks\.(\d+)\.") or None for i in blocks]
    yield "transformer_layers_per_block", depths if any(depths) else []
    yield "in_channels", sizes(shapes, ["conv_in.weight"], 1)
    yield "out_channels", sizes(shapes, ["conv_out.weight"], 0)
    keys = [name for name in shapes if name.endswith("attn2.to_k.weight")]
    if len(widths := set(sizes(shapes, keys, 1))) == 1:
        yield "cross_attention_dim", list(widths) * len(blocks)
    yield "time_cond_proj_dim", sizes(shapes, ["time_embedding.cond_proj.weight"], 1)


def vae_seen(shapes: Shapes) -> Iterator[tuple[str, list[int]]]:
    """What the tensors of an autoencoder show of its configuration."""
    blocks = range(count(shapes, r"encoder\.down_blocks\.(\d+)\."))
    yield "layers_per_block", [count(shapes, rf"encoder\.down_blocks\.{i}\.resnets\.(\d+)\.") for i in blocks]
    yield "block_out_channels", sizes(shapes, [f"encoder.down_blocks.{i}.resnets.0.conv1.weight" for i in blocks], 0)
    yield "latent_channels", sizes(shapes, ["decoder.conv_in.weight"], 1)


def text_encoder_seen(shapes: Shapes) -> Iterator[tuple[str, list[int]]]:
    """What the tensors of CLIP's text encoder show of its configuration."""
    shapes = {name.removeprefix("text_model."): shape for name, shape in shapes.items()}
    yield "num_hidden_layers", [count(shapes, r"encoder\.layers\.(\d+)\.")] if shapes else []
    yield "vocab_size", sizes(shapes, ["embeddings.token_embedding.weight"], 0)
    yield "hidden_size", sizes(shapes, ["embeddings.token_embedding.weight"], 1)
    yield "max_position_embeddings", sizes(shapes, ["embeddings.position_embedding.weight"], 0)
    yield "intermediate_size", sizes(shapes, ["encoder.layers.0.mlp.fc1.weight"], 0)


def t5_seen(shapes: Shapes) -> Iterator[tuple[str, list[int]]]:
    """What the tensors of T5's encoder show of its configuration."""
    yield "num_layers", [count(shapes, r"encoder\.block\.(\d+)\.")] if shapes else []
    yield "vocab_size", sizes(shapes, ["shared.weight"], 0)
    yield "d_model", sizes(shapes, ["shared.weight"], 1)
    yield "num_heads", sizes(shapes, ["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"], 1)


SEEN = {"unet": unet_seen, "vae": vae_seen, "text_encoder": text_encoder_seen, "t5": t5_seen}


def count(shapes: Shapes, pattern: str) -> int:
    """One more than the largest number in the pattern's group at the start of a name, at most `MOST_BLOCKS`."""
    found = (re.match(pattern, name) for name in shapes)
    return min(1 + max((int(each[1][:9]) for each in found if each), default=-1), MOST_BLOCKS)


def sizes(shapes: Shapes, names: list[str], axis: int) -> list[int]:
    """The sizes of these tensors along an axis; missing tensors are left out."""
    return [shapes[name][axis] for name in names if len(shapes.get(name, ())) > axis and len(shapes[name]) > 1]
