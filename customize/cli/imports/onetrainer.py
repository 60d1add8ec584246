"""Configurations of OneTrainer: the JSON that it saves, and its file of concepts."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from customize.cli.imports.documents import text_of
from customize.cli.imports.several_folders import Folder, teach
from customize.cli.imports.translation import Reading
from customize.errors import InputError
from customize.methods import DreamBoothSettings, TextualInversionSettings

PROGRAM = "OneTrainer"
LAYERS = ("attention", "feed-forward", "projections", "convolutions")
PRESETS = {"full": LAYERS, "attn-mlp": LAYERS[:3], "attn-only": LAYERS[:1]}
"""Layers that get an adapter, by the names of presets there."""
FAMILIES = ("STABLE_DIFFUSION_15", "STABLE_DIFFUSION_20", "STABLE_DIFFUSION_21", "STABLE_DIFFUSION_XL_10_BASE")
PLACES = {
    "unet.learning_rate": "learning_rate", "text_encoder.learning_rate": "text_encoder_learning_rate",
    "text_encoder_layer_skip": "clip_skip", "optimizer.optimizer": "optimizer_type", "optimizer.beta1": "beta1",
    "optimizer.beta2": "beta2", "optimizer.eps": "eps", "optimizer.weight_decay": "weight_decay",
    "offset_noise_weight": "noise_offset",
    "rescale_noise_scheduler_to_zero_terminal_snr": "zero_terminal_snr", "force_v_prediction": "v_parameterization",
    "vae.model_name": "vae", "output_dtype": "save_precision", "train_dtype": "mixed_precision",
    "lora_model_name": "init_weights",
    "embedding.placeholder": "placeholder_token", "embedding.token_count": "token_count",
    "embedding.initial_embedding_text": "initial_embedding_text",
}  # fmt: skip
"""Where a setting stands there, apart from the names that `cli/flags` knows."""
OF_EMBEDDINGS = ("placeholder_token", "token_count", "initial_embedding_text")
OF_LORAS = ("lora_rank", "lora_alpha", "lora_decompose")
TYPES = {"FLOAT_32": "fp32", "FLOAT_16": "fp16", "BFLOAT_16": "bf16", "TFLOAT_32": "fp32", "NONE": "fp32"}
TOP = frozenset(
    "base_model_name learning_rate learning_rate_scheduler learning_rate_warmup_steps learning_rate_cycles epochs batch_size"
    " gradient_accumulation_steps resolution clip_grad_norm lora_rank lora_alpha lora_decompose embedding_learning_rate"
    " aspect_ratio_bucketing latent_caching dataloader_threads ema ema_decay workspace_dir continue_last_backup seed"
    " masked_training timestep_distribution compile loss_weight_fn perturbation_noise_weight noising_weight noising_bias"
    " mse_strength mae_strength log_cosh_strength huber_strength".split()
)
"""Names at the top that `cli/flags` is asked about."""
DEFAULTS = {"learning_rate": 3e-6, "num_train_epochs": 100, "lr_warmup_steps": 200, "rank": 16, "lora_alpha": 1.0}
SOURCES = {"sample": "files", "filename": "file_names", "concept": "prompt"}


def of_document(whole: Mapping[str, Any], source: Path) -> Reading | None:
    """The settings of a run; None for a configuration of another program."""
    if "training_method" not in whole:
        return None
    method, kind = str(whole["training_method"]), str(whole.get("model_type", FAMILIES[0]))
    words = method == "EMBEDDING"
    found = Reading(PROGRAM, TextualInversionSettings if words else DreamBoothSettings, {})
    given = found.values
    if kind not in FAMILIES:
        found.lose(f"model_type = {kind}", "only Stable Diffusion 1.x, 2.x and XL are supported", "take another base model")
    if method == "LORA":
        given["peft_type"] = whole.get("peft_type", "LORA")
        layers(whole, found)
    elif not words:
        given["adapter"] = "none"
    given |= {name: value for name, value in whole.items() if name in TOP and value not in (None, "", "NONE", "OFF")}
    given |= {name: value for place, name in PLACES.items() if (value := at(whole, place)) not in (None, "", False)}
    if "ema" not in given:
        given.pop("ema_decay", None)
    for name in () if words else OF_EMBEDDINGS:
        given.pop(name, None)
    for name in OF_LORAS if method != "LORA" else ():
        given.pop(name, None)
    for name in ("mixed_precision", "save_precision"):
        if name in given:
            given[name] = TYPES.get(str(given[name]), given[name])
    if str(given.get("learning_rate_scheduler", "")).isupper():
        given["learning_rate_scheduler"] = str(given["learning_rate_scheduler"]).lower()
    if not words:
        given["train_text_encoder"] = at(whole, "text_encoder.train") is not False
        given.setdefault("gradient_checkpointing", at(whole, "unet.gradient_checkpointing") is not False)
        ends(whole, found)
    if gamma := {"MIN_SNR_GAMMA": "snr_gamma", "P2": "p2_gamma"}.get(str(whole.get("loss_weight_fn"))):
        given[gamma] = whole.get("loss_weight_strength", 5.0)
    for name, setting in ("min_noising_strength", "min_timestep"), ("max_noising_strength", "max_timestep"):
        if isinstance(share := whole.get(name), float):
            found.written[setting], given[setting] = f"{name} = {share}", round(share * 1000)
    found.defaults |= {name: value for name, value in DEFAULTS.items() if method == "LORA" or name not in ("rank", "lora_alpha")}
    concepts(whole, found, source)
    found.strange = sorted(
        name for name, value in whole.items()
        if value and not isinstance(value, dict | list) and name not in TOP | set(PLACES) and name not in READ
    )  # fmt: skip
    return found


def ends(whole: Mapping[str, Any], found: Reading) -> None:
    """After which epoch a part keeps its weights, as a share of all."""
    epochs = whole.get("epochs", DEFAULTS["num_train_epochs"])
    for part, setting in ("unet", "unet_train_fraction"), ("text_encoder", "text_encoder_train_fraction"):
        last, unit = at(whole, f"{part}.stop_training_after"), at(whole, f"{part}.stop_training_after_unit")
        if at(whole, f"{part}.train") is False or not isinstance(last, int | float) or not isinstance(epochs, int | float):
            continue
        written = f"{part}.stop_training_after = {last}"
        if unit == "EPOCH" and 0 < last < epochs:
            found.written[setting], found.values[setting] = written, last / epochs
        elif unit not in (None, "NEVER", "EPOCH"):
            found.lose(f"{written} {unit}", "the end of a part is a share of the steps", f"give --{setting}, such as 0.5")


def layers(whole: Mapping[str, Any], found: Reading) -> None:
    """Which layers get an adapter: all, unless a preset or a filter of its own chooses some."""
    preset = str(whole.get("layer_filter_preset", "full"))
    if preset in PRESETS:
        found.written["lora_targets"] = f"layer_filter_preset = {preset}"
        found.values["lora_targets"] = list(PRESETS[preset])
    else:
        remedy = "give --lora_targets, whose names are those of modules"
        found.lose(f"layer_filter = {whole.get('layer_filter', '')}", "a filter is not a list of layers here", remedy)


READ = frozenset(
    "training_method model_type peft_type layer_filter layer_filter_preset loss_weight_strength huber_delta concept_file_name"
    " __version min_noising_strength max_noising_strength".split()
)


def at(whole: Mapping[str, Any], place: str) -> Any:
    """The value at a place such as unet.learning_rate; None where there is none."""
    value: Any = whole
    for name in place.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def concepts(whole: Mapping[str, Any], found: Reading, source: Path) -> None:
    """The concepts that are enabled; of the first one how its captions' tags are drawn, which is the run's."""
    every = whole.get("concepts") or listed(whole, found, source)
    enabled = [each for each in every if isinstance(each, dict) and each.get("enabled", True)]
    own = [each for each in enabled if each.get("type", "STANDARD") == "STANDARD"]
    for each in enabled:
        if each not in own:
            what = f"its type is {each['type']}, and images to learn are taken"
            found.lose(named(each), what, "give them as --validation_data_dir, or as --class_data_dir with a --class_prompt")
    several = teach(found, [folder(each, found) for each in own])
    for each in own[:1]:
        text = each["text"] if isinstance(each.get("text"), dict) else {}
        found.values |= {"train_data_dir": each.get("path"), "captions": SOURCES.get(str(text.get("prompt_source")), "auto")}
        if text.get("prompt_source") == "concept":
            if found.model is TextualInversionSettings:
                found.values["captions"] = "templates"
            found.values["caption_templates"] = text.get("prompt_path")
        if text.get("enable_tag_shuffling"):
            found.values |= {"shuffle_tags": True, "keep_tags": text.get("keep_tags_count", 1)}
        if text.get("tag_dropout_enable") and text.get("tag_dropout_mode", "FULL") == "RANDOM":
            found.values["tag_dropout"] = text.get("tag_dropout_probability", 0.0)
        elif text.get("tag_dropout_enable"):
            mode = text.get("tag_dropout_mode", "FULL")
            found.lose(f"tag_dropout_mode = {mode}", "each tag is left out by itself", "give --tag_dropout or --caption_dropout")
        if at(each, "image.enable_random_flip"):
            found.values["random_flip"] = True
    for name in ("train_data_dir", "captions", "caption_templates") if several else ():
        found.values.pop(name, None)


def named(concept: Mapping[str, Any]) -> str:
    """A concept in the report."""
    return f"concept {concept.get('name') or concept.get('path')}"


def folder(concept: Mapping[str, Any], found: Reading) -> Folder:
    """The folder of a concept. It is called by its name, since there is no prompt there."""
    text = concept["text"] if isinstance(concept.get("text"), dict) else {}
    prompt = concept.get("name") or os.path.basename(str(concept.get("path") or "").rstrip("/\\").replace("\\", "/"))
    own = {"instance_data_dir": concept.get("path"), "instance_prompt": prompt}
    own |= {"captions": SOURCES.get(str(text.get("prompt_source")), "auto")}
    own |= {"caption_templates": text.get("prompt_path")} if text.get("prompt_source") == "concept" else {}
    balancing, by = concept.get("balancing", 1.0), concept.get("balancing_strategy", "REPEATS")
    if by == "REPEATS" and isinstance(balancing, int | float) and balancing == max(1, round(balancing)):
        own["repeats"] = round(balancing)
    else:
        what = f"{balancing} {str(by).lower()} of {named(concept)}: a whole number of repeats of each image is taken"
        found.lose(f"balancing = {balancing}", what, "give --repeats, or repeats in the table of the concept")
    drawn = ("enable_tag_shuffling", "keep_tags_count", "tag_dropout_enable", "tag_dropout_mode", "tag_dropout_probability")
    others = {name: text[name] for name in drawn if name in text}
    return Folder(named(concept), own, {**others, "enable_random_flip": at(concept, "image.enable_random_flip")})


def listed(whole: Mapping[str, Any], found: Reading, source: Path) -> list[Any]:
    """The concepts in the file that `concept_file_name` names, in the current folder or above the configuration."""
    name = str(whole.get("concept_file_name") or "")
    for path in (Path(name), source.parent / name, source.parent.parent / name) if name else ():
        if path.is_file():
            try:
                every = json.loads(text_of(path))
                return every if isinstance(every, list) else []
            except (ValueError, RecursionError, InputError):
                break
    if name:
        found.lose(f"concept_file_name = {name}", "it cannot be read here", "give the folder of images")
    return []
