"""Flags of diffusers' training scripts, for Stable Diffusion and SDXL, that are not settings here, and defaults that differ here.

Each such flag is another name of a setting, has no effect, or is not supported: see the table.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from customize.errors import Problem
from customize.families.source import SETTING, family_of
from customize.methods import DreamBoothSettings, TextualInversionSettings
from customize.settings import sharding_request
from customize.settings.common import Settings
from customize.settings.field import table, written

TEXTUAL_INVERSION = (TextualInversionSettings,)
DREAMBOOTH = (DreamBoothSettings,)
BOTH = (TextualInversionSettings, DreamBoothSettings)


@dataclass(frozen=True)
class Flag:
    """A flag that is not a setting. Exactly one of `means`, `changes`, `done` and `refused` is given; with `family`, both of the
    last two.

    means: the setting and its value when the flag is on; changes: what the flag does to the values of settings, in place;
    done: why the flag has no effect here; refused: why the flag is not supported, and what to do instead; family: that of the
    base models for which the flag has no effect, and is not refused.
    """

    commands: tuple[type[Settings], ...]
    type: type = bool
    many: bool = False
    means: tuple[str, Any] | None = None
    changes: Callable[[dict[str, Any]], None] | None = None
    done: str = ""
    refused: tuple[str, str] | None = None
    family: str = ""
    harmless: tuple[Any, ...] = ()  # values of a refused flag that ask for the default


def pivotal_tuning(values: dict[str, Any]) -> None:
    """`train_text_encoder_ti`: learns the word TOK, of two vectors, at the rate that it names after the text encoder."""
    values.setdefault("placeholder_token", "TOK")
    values.setdefault("num_vectors", 2)
    if "text_encoder_learning_rate" in values:
        rates = values.pop("text_encoder_learning_rate")
        values.setdefault("embedding_learning_rate", rates[0] if isinstance(rates, list) and len(rates) == 1 else rates)


def b_lora(values: dict[str, Any]) -> None:
    """`use_blora`: trains the blocks of SDXL that decide on content and on style."""
    values.setdefault("adapter", "lora")
    values.setdefault("lora_targets", ["b-lora-content", "b-lora-style"])


FLAGS: Mapping[str, Flag] = {
    "with_prior_preservation": Flag(DREAMBOOTH, means=("prior_preservation", "images")),
    "offset_noise": Flag(DREAMBOOTH, means=("noise_offset", 0.1)),
    "use_8bit_adam": Flag(DREAMBOOTH, means=("optimizer", "adamw_8bit")),
    "set_grads_to_none": Flag(DREAMBOOTH, done="gradients are always set to none between steps"),
    "enable_xformers_memory_efficient_attention": Flag(BOTH, done="torch's own attention saves the same memory"),
    "pre_compute_text_embeddings": Flag(DREAMBOOTH, done="prompts are encoded once unless the text encoder is trained"),
    "dataloader_num_workers": Flag(BOTH, int, done="images are decoded and encoded once, before training starts"),
    "local_rank": Flag(BOTH, int, done="processes are numbered by accelerate launch or torchrun"),
    "no_safe_serialization": Flag(
        TEXTUAL_INVERSION,
        refused=("pickles are neither read nor written", "leave it out: every program loads learned_embeds.safetensors"),
    ),
    "save_as_full_pipeline": Flag(
        TEXTUAL_INVERSION,
        refused=(
            "the base model does not change, so no copy of it is written",
            "leave it out, and use pipeline.load_textual_inversion() and save_pretrained() of diffusers for a copy",
        ),
    ),
    "tokenizer_name": Flag(
        BOTH,
        str,
        refused=(
            "the text encoder only works with its own tokenizer",
            "leave it out: the base model's own tokenizer is used",
        ),
    ),
    "tokenizer_max_length": Flag(
        DREAMBOOTH,
        int,
        harmless=(77,),
        refused=("every base model's text encoder reads 77 tokens", "leave it out, or give 77"),
    ),
    "text_encoder_use_attention_mask": Flag(
        DREAMBOOTH,
        done="DeepFloyd IF's text encoder always gets the attention mask of its prompts",
        refused=("Stable Diffusion was trained without an attention mask on its prompts", "leave it out"),
        family="deepfloyd_if",
    ),
    "class_labels_conditioning": Flag(
        DREAMBOOTH,
        str,
        done="stage II of DeepFloyd IF always takes the timesteps as class labels while it is trained, and stage I has none",
        refused=("of the supported base models only DeepFloyd IF's stage II has class labels", "leave it out"),
        family="deepfloyd_if",
    ),
    # SDXL
    "cache_dir": Flag(
        DREAMBOOTH,
        str,
        refused=("downloads go to the cache of the hub", "leave it out, and set HF_HOME=FOLDER before the command"),
    ),
    "do_edm_style_training": Flag(
        DREAMBOOTH,
        refused=(
            "models with EDM preconditioning are not supported",
            "leave it out, and use a base model that predicts epsilon or v",
        ),
    ),
    "output_kohya_format": Flag(DREAMBOOTH, means=("lora_format", "both")),
    "prodigy_decouple": Flag(DREAMBOOTH, str, done="weight decay is always decoupled"),
    "adam_weight_decay_text_encoder": Flag(
        DREAMBOOTH, str, refused=("one weight decay applies to all networks", "leave it out, and give --adam_weight_decay")
    ),
    "train_text_encoder_ti": Flag(DREAMBOOTH, changes=pivotal_tuning),
    "lora_unet_blocks": Flag(
        DREAMBOOTH,
        str,
        refused=("blocks are named by --lora_targets", 'give patterns, as in --lora_targets "up_blocks.0.attentions.1.*.to_q"'),
    ),
    "use_blora": Flag(DREAMBOOTH, changes=b_lora),
}

BOOLEANS = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}
"""Ways to write true and false."""

VALUES: Mapping[tuple[str, Any], Any] = {("image_interpolation_mode", "nearest_exact"): "nearest"}
"""Values that have a different name in diffusers' scripts."""

DIFFERENCES: Mapping[str, tuple[str, str]] = {
    "pretrained_model_name_or_path": ("required", "with the embedded model, everything can be tried without a download"),
    "resolution": ("512", "512 is wrong for a model that was trained at 768 or 64"),
    "learning_rate": (
        "1e-4 (textual inversion), 5e-6 (DreamBooth), 5e-4 (LoRA)",
        "chosen for our default steps; adapters tolerate more than full fine-tuning",
    ),
    "train_batch_size": ("16 (textual inversion), 4 (DreamBooth, LoRA)", "fits small GPUs"),
    "max_train_steps": (
        "5000 (textual inversion), from num_train_epochs (DreamBooth, LoRA)",
        "most concepts are learned much sooner; steps do not depend on the number of images",
    ),
    "num_train_epochs": (
        "100 (textual inversion), 1 (DreamBooth, LoRA)",
        "the length is given in steps unless epochs are requested",
    ),
    "lr_warmup_steps": ("500", "would be most of a short run; has no effect with the default schedule"),
    "repeats": ("100 (textual inversion)", "an epoch uses each image once"),
    "random_flip": ("always (textual inversion)", "flipping changes letters and faces"),
    "max_grad_norm": ("no limit (textual inversion)", "one bad step cannot destroy the learned words"),
    "rank": ("4", "a higher rank learns more detail for little more time"),
    "seed": ("none: a new one each time", "runs are reproducible"),
    "mixed_precision": ("that of accelerate launch (DreamBooth, LoRA)", "the same, and fp32 without accelerate launch"),
    "output_dir": ("text-inversion-model, dreambooth-model, lora-dreambooth-model", "a new folder for each run"),
    "save_steps": ("500 (textual inversion)", "the weights behind each set of sample images are available"),
    "num_validation_images": ("4", "sample images of generated prompts take a small part of the run"),
    "validation_steps": ("100", "sample images of generated prompts take a small part of the run"),
    "validation_epochs": ("50 (LoRA)", "sample images every validation_steps"),
    "validation_scheduler": ("DPMSolverMultistepScheduler (DreamBooth)", "the base model's own"),
}
"""Settings whose default differs from diffusers' scripts: their default, and the reason for ours."""


def flags(model: type[Settings]) -> dict[str, Flag]:
    """The flags that the command of `model` accepts besides its settings."""
    return {name: flag for name, flag in FLAGS.items() if model in flag.commands}


def translate(
    model: type[Settings], given: Mapping[str, Any], known: Mapping[str, Flag] | None = None
) -> tuple[dict[str, Any], list[str], list[Problem]]:
    """The given values as values of our settings, a line for each flag without effect, and the problems.

    known: the flags to translate; by default those of diffusers' scripts.
    """
    known = flags(model) if known is None else known
    values = {name: _value(name, value) for name, value in given.items() if name not in known}
    notes, problems = [], []
    for name, value in given.items():
        if name not in known or (value := _parsed(known[name], value)) in (None, False, ()):
            continue
        flag = known[name]
        if flag.family and flag.family == family_of(str(given.get(SETTING, "demo"))):
            flag = replace(flag, refused=None)
        if flag.type is bool and value is not True:
            problems.append(Problem(name, f'"{value}" is not true or false', "give true or false"))
        elif flag.means:
            setting, meaning = flag.means
            if values.setdefault(setting, meaning) != meaning:
                contradiction = f"means {setting} = {meaning}, but {written(values[setting])} is given too"
                problems.append(Problem(name, contradiction, f"leave out {name} or {setting}"))
        elif flag.changes:
            flag.changes(values)
        elif flag.refused and value not in flag.harmless:
            problems.append(Problem(name, *flag.refused))
        elif flag.done:
            notes.append(f"{name} has no effect: {flag.done}")
    return values, notes, problems


def _value(name: str, value: Any) -> Any:
    return VALUES.get((name, value), value) if isinstance(value, str) else value


def _parsed(flag: Flag, value: Any) -> Any:
    if isinstance(value, str) and flag.type is bool:
        return BOOLEANS.get(value.casefold(), value)
    if isinstance(value, str) and flag.type is int and value.strip().isdecimal():
        return int(value)
    return tuple(value) if isinstance(value, list) else value


def launched(model: type[Settings]) -> dict[str, Any]:
    """Settings that `accelerate launch` passes through the environment: its `--mixed_precision`."""
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION")
    return {"mixed_precision": precision} if precision and model in BOTH else {}


LAUNCHED_WITH = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor or context parallelism",
}
"""Requests of `accelerate launch`, in environment variables, to split a model over processes by other means than FSDP, which are
not supported: what ZeRO-2 and ZeRO-3 of DeepSpeed do, FSDP does."""


def launch_problems(model: type[Settings]) -> list[Problem]:
    """Requests of `accelerate launch` that are not supported."""
    requested = {name: what for name, what in LAUNCHED_WITH.items() if sharding_request.is_on(name)}
    remedy = "choose MULTI_GPU or FSDP in `accelerate config` (configs/accelerate/), or start without accelerate launch"
    return [
        Problem("accelerate launch", f"requests {what} ({name}={os.environ[name]}), which is not supported", remedy)
        for name, what in requested.items()
        if model in BOTH
    ]


def differences() -> list[tuple[str, str, str, str]]:
    """`DIFFERENCES` as rows for the documentation: setting, their default, our default, reason."""
    rows = []
    for name, (theirs, why) in DIFFERENCES.items():
        ours = {model.command: table(model)[name].default_text for model in BOTH if name in table(model)}
        words = [f"{text} ({command})" for command, text in ours.items()]
        rows.append((name, theirs, ", ".join(words) if len(set(ours.values())) > 1 else next(iter(ours.values())), why))
    return rows
