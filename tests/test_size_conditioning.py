"""Size conditioning, by a tiny family that takes it as SDXL does: in a batch, of class images, and in inference."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from families_of_tests import TwoEncoders
from kit import context_of, settings_for, write_images

from customize.data.buckets import squares
from customize.data.crops import variants
from customize.data.images.image_file import resize
from customize.families.conditioning import Crop
from customize.inference.pipeline import Pipeline
from customize.methods import prepare

SIZES = [(48, 32), (32, 80)]
"""(width, height)"""


@pytest.fixture
def setup(tiny_epsilon, tmp_path):
    """A prepared run on one wide and one tall image, with class images of 32 x 32 pixels."""
    write_images(tmp_path / "pictures", 1, SIZES[0])
    write_images(tmp_path / "tall", 1, SIZES[1], seed=1)
    (tmp_path / "tall/0.png").rename(tmp_path / "pictures/1.png")
    settings = settings_for(
        "lora", tiny_epsilon, tmp_path / "pictures", tmp_path / "run", train_batch_size=8, resolution=16,
        aspect_ratio_buckets=None,
        prior_preservation="images", class_prompt="a photo of dog", num_class_images=1, prior_loss_weight=0.5,
        class_data_dir=str(write_images(tmp_path / "class", 1, (32, 32), seed=2)),
    )  # fmt: skip
    context = context_of(TwoEncoders(tiny_epsilon), settings)
    return context, prepare(settings, context)


def test_the_loss_is_that_of_sizes_given_by_hand(setup):
    context, training = setup
    family, unet = context.family, context.family.unet
    [batch] = training.dataset.deal(0, range(8))
    assert len(set(batch.crops)) > 4 and len(batch.crops) == 16
    with torch.no_grad():
        losses = training.method(batch)
        for i in range(16):
            x, e, t = batch.latents[i : i + 1], batch.noise[i : i + 1], batch.timesteps[i]
            a = family.schedule.alphas_cumprod[t]
            crop = batch.crops[i]
            sizes = [*crop.original_size, *crop.top_left, *crop.target_size]
            first, second = (encoder.module(encoder.tokenize(batch.prompts[i : i + 1]))[0] for encoder in family.text_encoders)
            added = {"text_embeds": second.mean(1), "time_ids": torch.tensor([sizes]).float()}
            hidden = torch.cat([first, second], -1)
            output = unet(a.sqrt() * x + (1 - a).sqrt() * e, t, hidden, added_cond_kwargs=added).sample
            expected = (0.5 if i >= 8 else 1.0) * ((output - e) ** 2).mean()
            torch.testing.assert_close(losses[i], expected, rtol=1e-5, atol=1e-6)
    other = replace(batch, crops=(Crop.whole(16, 16),) * 16)
    assert (training.method(other) - losses).abs().max() > 1e-4


def test_each_sample_has_the_crop_of_its_pixels(setup):
    """The latents of a crop are those of its pixels, cut out by hand of the resized, and perhaps mirrored, image."""
    context, training = setup
    subject = training.dataset.subject
    for example, image in zip(context.examples.instances, subject.images, strict=True):
        resized = resize(example.open(), 16)
        cuts = variants(example, squares(16).fit(example.size), False, 3, True, context.settings.seed)
        for cut, crop, variant in zip(cuts, image.crops, range(len(cuts)), strict=True):
            assert crop.original_size == example.size[::-1] and crop.target_size == (16, 16)
            whole = resized.transpose(0) if cut.flip else resized
            top, left = crop.top_left
            pixels = torch.from_numpy(np.array(whole.crop((left, top, left + 16, top + 16))))
            encoded = context.family.latents.encode(pixels.permute(2, 0, 1)[None] / 127.5 - 1)[0]
            if variant in image.stored:
                torch.testing.assert_close(image.stored[variant], encoded, rtol=0, atol=1e-5)
    [class_image] = training.dataset.of_class.images
    assert {crop.original_size for crop in class_image.crops} == {(32, 32)}


@torch.no_grad()
def test_an_image_is_made_under_its_own_size(tiny_epsilon):
    family = TwoEncoders(tiny_epsilon)
    seen = []
    own = family.predict
    family.predict = lambda latents, t, conditioning: seen.append(conditioning) or own(latents, t, conditioning)
    options = {"num_inference_steps": 2, "guidance_scale": 3.0, "negative_prompt": "grey", "output_type": "latent"}
    wide = Pipeline(family).generate(["a dog", "a cat"], height=16, width=32, **options)
    assert wide.shape == (2, 4, 8, 16)
    assert all(each.tensors["time_ids"].tolist() == [[16, 32, 0, 0, 16, 32]] * 4 for each in seen) and seen
