"""DeepFloyd IF's real architectures with random weights draw what diffusers' six pipelines draw: stage I-M at its real size, and
stages I and II with small widths. Takes minutes and gigabytes."""

import gc
from pathlib import Path

import numpy as np
import pytest
import torch
from deepfloyd_stock import noise_image, stock
from diffusers import (
    DDPMScheduler,
    IFImg2ImgPipeline,
    IFImg2ImgSuperResolutionPipeline,
    IFInpaintingPipeline,
    IFInpaintingSuperResolutionPipeline,
    IFPipeline,
    IFSuperResolutionPipeline,
    UNet2DConditionModel,
)
from PIL import Image

from customize.families.conditioning import Conditioning
from customize.families.deepfloyd_if import DeepFloydIF
from customize.families.specs.architectures import CONFIGS
from customize.inference.pipeline import ConditionedPipeline
from customize.storage.json_files import read_object

pytestmark = pytest.mark.slow
NARROW = dict(attention_head_dim=16, addition_embed_type_num_heads=2, encoder_hid_dim=32, cross_attention_dim=64, sample_size=64)
ARCHITECTURES = {
    "if_i_m": {},
    "if_i_m, narrow": {**NARROW, "block_out_channels": (32, 64, 64, 96)},
    "if_ii_l, narrow": {**NARROW, "block_out_channels": (32, 32, 64, 64, 96)},
}
NOISE = dict(beta_schedule="squaredcos_cap_v2", beta_start=1e-4, beta_end=0.02)
SCHEDULER = dict(**NOISE, variance_type="learned_range", thresholding=True, dynamic_thresholding_ratio=0.95, sample_max_value=1.5)
STEPS, SEED = 4, 3


PHOTO, SMALL = noise_image(64, 1), noise_image(16, 2)
MASK = Image.fromarray(np.pad(np.full((32, 32), 255, np.uint8), 16))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def ours(request):
    """Our pipeline, with random vectors for the prompts "dog" and ""."""
    torch.manual_seed(0)
    config = read_object(CONFIGS / request.param.partition(",")[0] / "unet/config.json")
    unet = UNet2DConditionModel.from_config({**config, **ARCHITECTURES[request.param]})
    noising = DDPMScheduler(**NOISE) if unet.config.in_channels == 6 else None
    family = DeepFloydIF(request.param, Path("nowhere"), unet, DDPMScheduler(**SCHEDULER), None, noising)
    vectors = {text: torch.randn(1, 77, unet.config.encoder_hid_dim) for text in ("dog", "")}
    yield ConditionedPipeline(
        family, lambda texts: Conditioning({"encoder_hidden_states": torch.cat([vectors[text] for text in texts])})
    )
    del family, unet
    gc.collect()


def theirs(ours, cls, **options) -> torch.Tensor:
    """The image [1, 3, 64, 64] of diffusers' pipeline."""
    texts = {
        name: ours.condition([text]).tensors["encoder_hidden_states"]
        for name, text in (("prompt_embeds", "dog"), ("negative_prompt_embeds", ""))
    }
    return stock(ours, cls, [SEED], num_inference_steps=STEPS, **texts, **options)


@pytest.mark.parametrize("start", ["noise", "image", "mask"])
def test_the_architecture_draws_what_stock_draws(ours, start):
    enlarges = ours.family.super_resolution is not None
    guidance = 4.0 if enlarges else 10.0 if start == "image" else 7.0
    kinds = {
        "noise": (IFPipeline, IFSuperResolutionPipeline),
        "image": (IFImg2ImgPipeline, IFImg2ImgSuperResolutionPipeline),
        "mask": (IFInpaintingPipeline, IFInpaintingSuperResolutionPipeline),
    }
    options = {"guidance_scale": guidance} | ({} if start == "noise" else {"strength": 0.75})
    asked, mine = dict(options), dict(options)
    if start != "noise":
        asked["original_image" if enlarges else "image"], mine["image"] = [PHOTO], PHOTO
    if start == "mask":
        asked["mask_image"], mine["mask_image"] = [MASK], MASK
    if enlarges:
        asked["image"], mine["low_res_image"] = [SMALL], SMALL
    found = ours.generate("dog", num_inference_steps=STEPS, seeds=SEED, output_type="latent", **mine)
    torch.testing.assert_close(found, theirs(ours, kinds[start][enlarges], **asked), rtol=0, atol=1e-4)
    assert found.shape == (1, 3, 64, 64) and found.std() > 0.1
