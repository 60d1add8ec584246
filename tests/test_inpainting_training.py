"""Inpainting UNets as base models: what they are given in training, against formulas and diffusers' pipelines."""

import json

import diffusers
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from kit import prepared, settings_for
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from torch.nn import functional as F

from customize.data.samples.random_masks import random_mask
from customize.diffusion import rng
from customize.inference import load_pipeline
from customize.training import preflight

PROMPT = "a photo of sks dog"
OPTIONS = {"num_inference_steps": 2, "guidance_scale": 4.0}


@pytest.fixture(scope="module", params=["1.5", "xl"])
def base(request, tiny_epsilon, tiny_xl, tmp_path_factory):
    """The folder of a tiny inpainting model, as diffusers saves it."""
    source, name = {"1.5": (tiny_epsilon, ""), "xl": (tiny_xl, "XL")}[request.param]
    pipeline = getattr(diffusers, f"StableDiffusion{name}Pipeline").from_pretrained(source)
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config({**pipeline.unet.config, "in_channels": 9})
    kind = getattr(diffusers, f"StableDiffusion{name}InpaintPipeline")
    folder = tmp_path_factory.mktemp("inpainting") / "base"
    components = {key: value for key, value in pipeline.components.items() if key != "unet"}
    options = {} if name else {"requires_safety_checker": False}
    kind(**components, unet=unet, **options).save_pretrained(folder)
    return folder


def images():
    """An image and a mask, of 16 x 16 pixels."""
    pixels = np.random.default_rng(5).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    mask = Image.new("L", (16, 16))
    ImageDraw.Draw(mask).ellipse((3, 2, 12, 11), fill=255)
    return {"image": Image.fromarray(pixels), "mask_image": mask}


def test_masks_are_whole_or_shapes_within_the_image():
    masks = [random_mask(24, 16, rng.generator(0, "mask", number)) for number in range(400)]
    assert torch.equal(masks[7], random_mask(24, 16, rng.generator(0, "mask", 7)))
    assert all(set(mask.unique().tolist()) <= {0.0, 1.0} and mask.any() and mask.shape == (1, 24, 16) for mask in masks)
    whole = [bool(mask.all()) for mask in masks]
    assert 160 < sum(whole) < 240
    others = [mask[0] for mask, is_whole in zip(masks, whole, strict=True) if not is_whole]
    filled = []
    for mask in others:
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        box = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        filled.append((mask.sum() / box).item())
    large = [share for share, mask in zip(filled, others, strict=True) if mask.sum() > 60]
    assert 0.3 < sum(share == 1 for share in large) / len(large) < 0.7  # rectangles
    assert all(share == 1 or abs(share - np.pi / 4) < 0.1 for share in large)  # and ellipses
    assert 0.1 < np.mean([mask.mean().item() for mask in others]) < 0.35


@pytest.mark.parametrize("method", ["lora", "textual_inversion"])
def test_the_first_loss_equals_a_formula(method, base, image_folder, tmp_path):
    settings = settings_for(method, base, image_folder, tmp_path / "run", train_batch_size=3, center_crop=True)
    context, training = prepared(settings)
    found = training.method
    [batch] = training.dataset.deal(0, range(3))
    vae = AutoencoderKL.from_pretrained(base, subfolder="vae")
    scheduler = diffusers.DDPMScheduler.from_config(context.family.scheduler.config)
    shape, dataset = batch.latents.shape[1:], training.dataset.dataset
    channels = []
    for position in range(3):
        index, variant = dataset.sampler.draw(0, position)
        pixels = training.dataset.read_pixels(index, [variant])
        mask = random_mask(16, 16, rng.generator(3, "instance/mask", 0, position))[None]
        noise = rng.normal(shape, 3, "instance/masked_latent", 0, [position])
        with torch.no_grad():
            posterior = vae.encode(pixels * (mask < 0.5)).latent_dist
        known = (posterior.mean + posterior.std * noise) * vae.config.scaling_factor
        channels.append(torch.cat([F.interpolate(mask, size=(8, 8)), known], 1))
    torch.testing.assert_close(batch.extra_channels, torch.cat(channels))
    inputs = torch.cat([scheduler.add_noise(batch.latents, batch.noise, batch.timesteps), *[torch.cat(channels)]], 1)
    with torch.no_grad():
        prediction = context.family.predict(inputs, batch.timesteps, found.conditioning(batch)).prediction
        expected = F.mse_loss(prediction, batch.noise, reduction="none").mean((1, 2, 3))
        torch.testing.assert_close(found(batch), expected)
    assert len({tuple(row.flatten().tolist()) for row in batch.extra_channels}) == 3


@pytest.mark.parametrize("method", ["lora", "full", "textual_inversion"])
def test_results_are_drawn_by_stock_and_by_ours_alike(method, base, image_folder, tmp_path):
    """Trained with sample images."""
    changes = {"max_train_steps": 1, "validation_prompt": (PROMPT,), "num_validation_images": 1, "sample_inference_steps": 1}
    settings = settings_for(method, base, image_folder, tmp_path / "run", **changes)
    folder = preflight.run(settings)
    kind = json.loads((base / "model_index.json").read_text())["_class_name"]
    stock = getattr(diffusers, kind).from_pretrained(folder if method == "full" else base)
    stock.set_progress_bar_config(disable=True)
    prompt = PROMPT
    if method == "lora":
        stock.load_lora_weights(folder, weight_name="pytorch_lora_weights.safetensors")
    elif method == "full":
        assert json.loads((folder / "model_index.json").read_text())["_class_name"] == kind
    elif kind == "StableDiffusionInpaintPipeline":
        stock.load_textual_inversion(folder, weight_name="learned_embeds.safetensors")
        prompt = "a photo of <new>"
    ours = load_pipeline(None, [(folder, 1.0)])
    found = ours.generate(prompt, **images(), **OPTIONS, seeds=4, output_type="latent", strength=1.0)
    given = {**images(), **OPTIONS, "strength": 1.0, "height": 16, "width": 16, "output_type": "latent"}
    expected = stock(prompt, **given, generator=torch.Generator().manual_seed(4)).images
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
    assert (folder / "samples/step-000001/000.png").is_file()


@pytest.mark.parametrize("base", ["1.5"], indirect=True)
def test_a_resumed_run_is_equal_to_the_bit(base, image_folder, tmp_path):
    """Masks are a function of the draw."""
    settings = settings_for("lora", base, image_folder, tmp_path / "run", max_train_steps=2, checkpointing_steps=1)
    straight = preflight.run(settings)
    parts = settings.model_copy(update={"output_dir": str(tmp_path / "parts"), "max_train_steps": 1})
    preflight.run(parts)
    resumed = preflight.run(parts.model_copy(update={"max_train_steps": 2, "resume_from_checkpoint": "latest"}))
    learned, again = (load_file(folder / "pytorch_lora_weights.safetensors") for folder in (straight, resumed))
    assert all(torch.equal(tensor, again[name]) for name, tensor in learned.items())


@pytest.mark.parametrize("base", ["1.5"], indirect=True)
@pytest.mark.parametrize("prior", ["images", "teacher"])
def test_class_images_and_a_teacher(prior, base, image_folder, tmp_path):
    changes = {"max_train_steps": 1, "prior_preservation": prior, "class_prompt": "a photo of dog", "sample_inference_steps": 2}
    if prior == "images":
        changes |= {"class_data_dir": str(tmp_path / "class"), "num_class_images": 1}
    folder = preflight.run(settings_for("lora", base, image_folder, tmp_path / "run", **changes))
    assert np.isfinite(json.loads((folder / "log.jsonl").read_text())["loss"])
