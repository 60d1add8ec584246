"""A second pass on enlarged images, against diffusers' pipelines, one after the other."""

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from customize.cli.main import main
from customize.errors import InputError
from customize.inference.run import command
from customize.settings.inference import InferenceSettings


@pytest.mark.parametrize(("scale", "strength", "size"), [(2, 0.5, (32, 32)), (1.4, 0.75, (22, 22))])
def test_a_second_pass_is_image_to_image_of_the_enlarged_image(tiny_epsilon, tmp_path, scale, strength, size):
    words = ["--pretrained_model_name_or_path", str(tiny_epsilon), "--prompt", "a dog", "--scheduler", "DDIM", "--seed", "7"]
    words += ["--num_inference_steps", "4", "--num_images", "2", "--hires_scale", f"{scale}", "--hires_strength", f"{strength}"]
    assert main(InferenceSettings, command.run, [*words, "--output_dir", str(tmp_path / "out")]) == 0
    first = diffusers.StableDiffusionPipeline.from_pretrained(tiny_epsilon, safety_checker=None)
    first.scheduler = diffusers.DDIMScheduler.from_config(first.scheduler.config, clip_sample=False)
    second = diffusers.StableDiffusionImg2ImgPipeline(**first.components, requires_safety_checker=False)
    for pipe in (first, second):
        pipe.set_progress_bar_config(disable=True)
    for number in range(2):
        generator = torch.Generator().manual_seed(7 + number)
        (small,) = first("a dog", num_inference_steps=4, generator=generator).images
        generator = torch.Generator().manual_seed(7 + number)
        large = small.resize(size, Image.Resampling.LANCZOS)
        (expected,) = second("a dog", image=large, strength=strength, num_inference_steps=4, generator=generator).images
        with Image.open(tmp_path / f"out/{number:03d}.png") as image:
            found, text = np.asarray(image.convert("RGB")), image.text["parameters"]
        assert image.size == size and np.abs(found.astype(int) - np.asarray(expected)).max() <= 2
        assert f"Size: 16x16, Model: tiny_epsilon, Denoising strength: {strength}, Hires upscale: {float(scale)}" in text
    again = ["--like", str(tmp_path / "out/001.png"), "--output_dir", str(tmp_path / "again")]
    assert main(InferenceSettings, command.run, again) == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / "again/000.png")), found)


@pytest.mark.parametrize(("given", "where"), [
    ({"image": "a.png"}, "hires_scale"), ({"trace": True}, "trace"), ({"attention": True}, "attention"),
    ({"prompt": ("a", "b"), "illusion": "hybrid"}, "hires_scale"), ({"hires_scale": 1}, "hires_scale"),
    ({"hires_scale": None, "hires_strength": 0.4}, "hires_strength"),
])  # fmt: skip
def test_settings_that_exclude_a_second_pass_are_refused(given, where):
    with pytest.raises(InputError) as caught:
        InferenceSettings(**{"prompt": "a", "hires_scale": 2, **given})
    assert [problem.where for problem in caught.value.problems] == [where]
