"""From a located source to a family object with its networks in memory."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from customize.errors import InputError, Problem
from customize.families.scheduler import load_scheduler
from customize.families.single_file import load_single_file
from customize.families.source import SETTING, Source, check_folder
from customize.families.stable_diffusion import StableDiffusion


def load(source: Source) -> StableDiffusion:
    """Loads a base model in float32 on the CPU; the safety checker and feature extractor stay where they are.

    Raises InputError, also for weights that are NaN or infinite.
    """
    if source.file:
        family = load_single_file(source, source.prediction_type)
    else:
        folder = source.folder or check_folder(download(source.name, source.revision, source.variant), source.variant)
        family = load_folder(source.name, folder, source.variant, source.prediction_type)
    weights = [(name, weight) for network in family.networks for name, weight in network.named_parameters()]
    broken = [name for name, weight in weights if not weight.sum().isfinite() and not weight.isfinite().all()]
    if broken:
        what = f"holds NaN or infinity in {len(broken)} of {len(weights)} tensors, such as {broken[0]}"
        raise InputError(Problem(str(family.source), what, "get the model again, whole"))
    return family


def download(name: str, revision: str | None, variant: str | None) -> Path:
    """The local copy of a hub model, fetched when it is not there yet. Raises InputError when it cannot be had."""
    try:
        return Path(
            DiffusionPipeline.download(
                name, revision=revision, variant=variant, use_safetensors=True,
                safety_checker=None, feature_extractor=None,
            )
        )  # fmt: skip
    except (OSError, ValueError) as error:
        cause = str(error).strip().splitlines()[0].split(" (")[0][:150]
        remedy = "check the name and the network, or give a local folder or .safetensors file instead"
        raise InputError(Problem(SETTING, f"{name} is no local folder and the hub gave none ({cause})", remedy)) from error


def load_folder(name: str, folder: Path, variant: str | None = None, prediction_type: str | None = None) -> StableDiffusion:
    """Loads a folder in diffusers' layout that `check_folder` found whole."""

    def part(cls, subfolder: str):
        try:
            return cls.from_pretrained(
                folder, subfolder=subfolder, variant=variant, use_safetensors=True, torch_dtype=torch.float32
            )
        except (OSError, ValueError, RuntimeError, NotImplementedError) as error:
            cause = str(error).strip().splitlines()[0]
            remedy = "is it Stable Diffusion 1.x or 2.x? copy the model again, whole"
            raise InputError(Problem(f"{folder / subfolder}", f"cannot be loaded ({cause})", remedy)) from error

    transformers_logging.disable_progress_bar()
    unet, vae = part(UNet2DConditionModel, "unet"), part(AutoencoderKL, "vae")
    text_encoder = part(CLIPTextModel, "text_encoder")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    scheduler = load_scheduler(folder)
    if prediction_type:
        scheduler.register_to_config(prediction_type=prediction_type)
    return StableDiffusion(name, folder, unet, vae, text_encoder, tokenizer, scheduler)
