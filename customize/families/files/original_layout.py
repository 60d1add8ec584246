"""Which models fit a single file in the original (LDM) layout: those of a published architecture, since the file has no
configuration of its own. torch is not imported."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from customize.errors import InputError, Problem
from customize.families.files.configurations import OF_NETWORKS, kind_of
from customize.families.files.ldm_header import CLIP, CLIP_G, CLIP_L, CONFIGS, OPEN_CLIP, Layout
from customize.printable import printable
from customize.storage.json_files import read_object

Configs = Mapping[str, Mapping[str, Any]]
"""Configurations by the name of their folder."""
SETTING = "save_model_as"
FOLDER = "leave it out: the result is a folder in diffusers' layout"
FREE = {
    "sample_size", "in_channels", "upcast_attention", "force_upcast", "attention_dropout",
    "initializer_factor", "initializer_range", "bos_token_id", "eos_token_id", "pad_token_id", "projection_dim",
}  # fmt: skip
"""Values of networks that the file determines in another way, or that change no output."""
QUICK_GELU = "quick_gelu"
"""The activation of CLIP, the text encoder of 1.x; that of OpenCLIP, of 2.x, is another."""
NOISE = {"num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas"}
"""Values of a scheduler that determine the noise levels of training, apart from zero terminal SNR."""


def configurations(folder: Path, parts: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """The configurations of a model's networks and scheduler, in diffusers' layout."""
    networks = {part: read_object(folder / part / "config.json") for part in parts}
    return {**networks, "scheduler": read_object(folder / "scheduler/scheduler_config.json")}


def sd_layout(configs: Configs, where: object) -> Layout:
    """The layout of Stable Diffusion 1.x or 2.x. Raises InputError, with the model's name `where`, for other architectures."""
    predicts = configs["scheduler"].get("prediction_type", "epsilon")
    is_v1 = configs["text_encoder"].get("hidden_act", QUICK_GELU) == QUICK_GELU
    name = "sd15" if is_v1 else "sd21_base" if predicts == "epsilon" else "sd21"
    return layout_of(configs, name, {"text_encoder": CLIP if is_v1 else OPEN_CLIP}, where)


def xl_layout(configs: Configs, where: object) -> Layout:
    """As `sd_layout`, of SDXL."""
    return layout_of(configs, "sdxl", {"text_encoder": CLIP_L, "text_encoder_2": CLIP_G}, where)


def layout_of(configs: Configs, name: str, text_encoders: Mapping[str, str], where: object) -> Layout:
    """The layout with the configuration `name`, for a model with these configurations. Raises InputError where they differ."""
    folder, unet, scheduler = CONFIGS / name, configs["unet"], configs["scheduler"]
    predicts = scheduler.get("prediction_type", "epsilon")
    zero_snr = bool(scheduler.get("rescale_betas_zero_snr"))
    what = difference(configs, folder)
    if predicts not in ("epsilon", "v_prediction") or (zero_snr and predicts == "epsilon"):
        what = f"predicts {predicts}{' with zero terminal SNR' * zero_snr}, which no file of this layout tells"
    if what:
        raise InputError(Problem(SETTING, f"{printable(where)} does not fit a single file: {printable(what)}", FOLDER))
    declared, factor = unet.get("sample_size"), 2 ** (len(read_object(folder / "vae/config.json")["block_out_channels"]) - 1)
    latents = declared if isinstance(declared, int) else read_object(folder / "unet/config.json")["sample_size"]
    return Layout(folder, predicts, latents * factor, unet.get("in_channels", 4), text_encoders, zero_snr)


def difference(configs: Configs, folder: Path) -> str:
    """The first value that is not that of the published architecture in `folder`, in words; empty if none is.

    Values that a configuration does not contain are the defaults of the libraries, and are not compared.
    """
    for part, config in configs.items():
        known = read_object(folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json"))
        names = NOISE if part == "scheduler" else OF_NETWORKS[kind_of(part)].keys() - FREE
        for name in sorted(names & {*known, "time_cond_proj_dim"}):
            if name in config and (own := json.loads(json.dumps(config[name]))) != known.get(name):
                return f"{name} of its {part} is {own}, not {known.get(name)}"
    return ""
