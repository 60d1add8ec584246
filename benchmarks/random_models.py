"""Builds a model with random weights and the architecture of Stable Diffusion 1.5, 2.1 or XL, for measurements and tests.

    python benchmarks/random_models.py sd15 /tmp/models/sd15 --single_file /tmp/models/sd15.safetensors

Folder and file take about 2.1 GB (1.5), 2.6 GB (2.1) or 6.9 GB (XL) each in float16; building 1.5 or 2.1 takes 6 GB of memory.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from benchmarks.ldm_layout import to_ldm
from customize.families.files.clip_tokenizer import END, clip_tokenizer
from customize.families.files.ldm_header import CONFIGS
from customize.families.loading import load_scheduler


def random_pipeline(config: Path, seed: int = 0) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    """A pipeline with the architecture of a configuration folder, with random weights in torch's default dtype."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(config, subfolder="unet"))
    vae = AutoencoderKL.from_config(AutoencoderKL.load_config(config, subfolder="vae"))
    text_encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(config, subfolder="text_encoder"))
    if config.name == "sdxl":
        text_encoder_2 = CLIPTextModelWithProjection(CLIPTextConfig.from_pretrained(config, subfolder="text_encoder_2"))
        return StableDiffusionXLPipeline(
            vae, text_encoder, text_encoder_2, clip_tokenizer(), clip_tokenizer("!"), unet, load_scheduler(config),
            add_watermarker=False,
        )  # fmt: skip
    return StableDiffusionPipeline(
        vae, text_encoder, clip_tokenizer(END if config.name == "sd15" else "!"), unet, load_scheduler(config),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=["sd15", "sd21", "sdxl"])
    parser.add_argument("output_folder", type=Path)
    parser.add_argument("--single_file", type=Path, help="also write the weights to this file, in the original layout")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=["float16", "float32"], default="float16")
    arguments = parser.parse_args()
    torch.set_default_dtype(getattr(torch, arguments.dtype))
    pipeline = random_pipeline(CONFIGS / arguments.model, arguments.seed)
    pipeline.save_pretrained(arguments.output_folder)
    if arguments.single_file:
        parts = [name for name in ("unet", "vae", "text_encoder", "text_encoder_2") if name in pipeline.components]
        tensors = to_ldm(*(pipeline.components[name] for name in parts))
        save_file(tensors, arguments.single_file, metadata={"format": "pt"})


if __name__ == "__main__":
    main()
