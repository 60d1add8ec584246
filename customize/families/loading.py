"""Loads Stable Diffusion 1.x and 2.x, and downloads models from the hub."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel

from customize.errors import InputError, Problem
from customize.families.base import Family, Placement
from customize.families.files.clip_tokenizer import load_tokenizer
from customize.families.files.folder_check import AGAIN
from customize.families.files.networks import OTHER, load_network
from customize.families.files.scheduler import changed_scheduler, load_scheduler
from customize.families.files.single_file import load_single_file
from customize.families.source import SETTING, Source
from customize.families.stable_diffusion import StableDiffusion
from customize.storage.untrusted_files import refusing

Loaded = TypeVar("Loaded", bound=StableDiffusion)
CLASSES = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}


def load(source: Source, placement: Placement) -> StableDiffusion:
    """Loads a base model without its safety checker and feature extractor.

    Raises InputError, also for weights and noise levels that are NaN or infinite.
    """
    load_model = load_single_file if source.file else load_folder
    return placed(load_model(StableDiffusion, CLASSES, source, placement), placement)


def placed(family: Loaded, placement: Placement) -> Loaded:
    """The family on its device. Raises InputError for weights and noise levels that are NaN or infinite."""
    family.to(placement.device)
    refuse_broken(family, placement)
    if not family.schedule.alphas_cumprod.isfinite().all():
        raise InputError(Problem(f"{family.source}/scheduler", "defines noise levels that are NaN or infinite", AGAIN))
    return family


def refuse_broken(family: Family, placement: Placement) -> None:
    """Raises InputError for weights that are NaN or infinite."""
    weights = [(name, weight) for network in family.components.values() for name, weight in network.named_parameters()]
    broken = [name for name, weight in weights if not weight.sum().isfinite() and not weight.isfinite().all()]
    if broken:
        what = f"holds NaN or infinity in {len(broken)} of {len(weights)} tensors, such as {broken[0]}"
        remedy = AGAIN
        if placement.dtype == torch.float16:  # in which the largest number is 65,504
            what, remedy = f"{what}, in float16", f"use --mixed_precision no or bf16; if that does not help, {AGAIN}"
        raise InputError(Problem(str(family.source), what, remedy))


def download(source: Source) -> Path:
    """The folder of a hub model, which is downloaded unless cached. Raises InputError if that fails."""
    name = source.name
    left_out = ["safety_checker", "feature_extractor", "watermarker"]
    left_out += [] if source.loads_text_encoder else ["text_encoder", "tokenizer"]
    left_out += [] if source.with_denoiser else ["unet"]
    options = {"revision": source.revision, "variant": source.variant, "use_safetensors": True, **dict.fromkeys(left_out)}
    try:
        return Path(DiffusionPipeline.download(name, **options))
    except (OSError, ValueError) as error:
        cause = str(error).strip().splitlines()[0].split(" (")[0][:150]
        remedy = "check the name and the network, or give a local folder or .safetensors file instead"
        raise InputError(
            Problem(SETTING, f"{name} is neither a local folder nor available on the hub ({cause})", remedy)
        ) from error


def load_folder(
    family: type[StableDiffusion], classes: Mapping[str, type], source: Source, placement: Placement, **options: Any
) -> StableDiffusion:
    """Loads a folder in diffusers' layout that passed the check of the family's spec, on the CPU. Raises InputError.

    classes: of the networks, by folder name; options: further arguments of the family.
    """
    folder = source.folder
    assert folder, "a model on the hub is downloaded by families.load"
    networks = {
        part: load_network(kind, folder / part, part, source.variant, placement.dtype_of(part)) for part, kind in classes.items()
    }
    tokenizers = {part: load_tokenizer(folder, part) for part in family.spec.parts.tokenizers}
    for part, tokenizer in tokenizers.items():
        config = networks[part.replace("tokenizer", "text_encoder")].config
        if len(tokenizer) > config.vocab_size:
            what = f"its {part} has {len(tokenizer)} tokens, its text encoder {config.vocab_size}"
            raise InputError(Problem(str(folder), what, AGAIN))
        tokenizer.model_max_length = min(tokenizer.model_max_length, config.max_position_embeddings)
    scheduler = changed_scheduler(load_scheduler(folder), source.prediction_type, source.rescale_betas_zero_snr)
    with refusing(folder / "scheduler", OTHER):
        return family(source.name, folder, **networks, **tokenizers, scheduler=scheduler, **options)
