"""One picture of several prompts, from the settings to the pixels; the way from one prompt to another."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from customize import families
from customize.errors import InputError
from customize.families.conditioning import slerp
from customize.inference.estimates import mixed
from customize.inference.illusions.build import composition
from customize.inference.pipeline import Pipeline
from customize.inference.prompt_estimates import InterpolatedPrompt
from customize.inference.request import Composition
from customize.inference.run import command
from customize.settings.inference import InferenceSettings

PROMPTS = ("a photo of a dog", "a red cat")
OPTIONS = {"num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "latent"}


@pytest.fixture(scope="module")
def pipeline(tiny_v) -> Pipeline:
    return Pipeline(families.load(families.locate(str(tiny_v))))


def test_slerp_against_the_formula_in_float64():
    first, second = (torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    found = slerp(first, second, 0.3)
    for a, b, c in zip(first.view(-1, 16), second.view(-1, 16), found.view(-1, 16), strict=True):
        a, b = a.double().numpy(), b.double().numpy()
        angle = math.acos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        expected = (math.sin(0.7 * angle) * a + math.sin(0.3 * angle) * b) / math.sin(angle)
        assert np.allclose(c.numpy(), expected, atol=1e-6)
    assert torch.allclose(slerp(first, first, 0.4), first) and torch.allclose(slerp(first, 2 * first, 0.5), 1.5 * first)
    unit = torch.nn.functional.normalize(first, dim=-1), torch.nn.functional.normalize(second, dim=-1)
    assert torch.allclose(slerp(*unit, 0.5).norm(dim=-1), torch.ones(2, 5), atol=1e-6)


@pytest.mark.parametrize("spherical", [False, True])
def test_the_ends_of_an_interpolation_are_its_prompts(pipeline, spherical):
    ways = [InterpolatedPrompt(*PROMPTS, part, spherical) for part in (0.0, 0.5, 1.0)]
    first, middle, last = pipeline.generate(ways, seeds=3, **OPTIONS)
    expected = pipeline.generate(list(PROMPTS), seeds=3, **OPTIONS)
    assert torch.allclose(torch.stack([first, last]), expected, atol=1e-5)
    assert min((middle - end).abs().max() for end in expected) > 1e-4


def test_a_composition_is_given_an_estimate_for_each_prompt(pipeline):
    mean = Composition(lambda estimates: mixed([(estimate, 1.0) for estimate in estimates]))
    pair = pipeline.generate([PROMPTS, PROMPTS[::-1]], composition=mean, seeds=[1, 2], **OPTIONS)
    alone = pipeline.generate(PROMPTS, composition=mean, seeds=1, **OPTIONS)
    assert torch.allclose(pair[:1], alone, atol=1e-5) and not torch.allclose(pair[0], pair[1], atol=1e-3)
    single = pipeline.generate([PROMPTS[:1]], composition=Composition(lambda estimates: estimates[0]), seeds=1, **OPTIONS)
    assert torch.equal(single, pipeline.generate(PROMPTS[0], seeds=1, **OPTIONS))


@pytest.mark.parametrize(
    "settings",
    [
        {"illusion": "anagram", "view": ["identity", "flip"]},
        {"illusion": "alternating_anagram", "view": ["identity", "rotate_180"]},
        {"illusion": "looking_glass", "view": ["identity", "flip"]},
        {"illusion": "hybrid"}, {"illusion": "motion"}, {"illusion": "colour"}, {"between": 0.4, "interpolation": "spherical"},
    ],
)  # fmt: skip
def test_the_command_combines_all_prompts_in_one_image(tiny_v, tmp_path, settings):
    common = {"pretrained_model_name_or_path": str(tiny_v), "num_inference_steps": 3, "prompt": PROMPTS, "num_images": 2}
    command.run(InferenceSettings(**common, **settings, output_dir=str(tmp_path / "one")))
    images = sorted((tmp_path / "one").glob("[0-9]*.png"))
    assert len(images) == 2 and len(list((tmp_path / "one").glob("*-illusion.gif"))) == (2 if "illusion" in settings else 0)
    stored = json.loads(Image.open(images[1]).text["customize"])["settings"]
    assert stored.pop("pretrained_model_name_or_path") == tiny_v.name  # an image names no folder
    stored |= {"pretrained_model_name_or_path": str(tiny_v)}
    assert (
        stored["prompt"] == list(PROMPTS)
        and stored["seed"] == 1
        and settings.items() <= {**stored, "view": stored.get("view")}.items()
    )
    command.run(InferenceSettings(**stored, output_dir=str(tmp_path / "again")))
    first, again = (np.asarray(Image.open(file), dtype=int) for file in (images[1], tmp_path / "again/000.png"))
    assert np.abs(first - again).max() <= 1


@pytest.mark.parametrize(
    "settings",
    [{"illusion": "hybrid"}, {"illusion": "colour"}, {"illusion": "anagram", "view": ["identity", "flip"]}],
)
def test_every_prompt_affects_the_image(pipeline, settings):
    settings = InferenceSettings(prompt=PROMPTS, **settings)
    found = [
        pipeline.generate(prompts, composition=composition(settings, pipeline), seeds=1, **OPTIONS)
        for prompts in (PROMPTS, (PROMPTS[0], "a tree"), ("a tree", PROMPTS[1]))
    ]
    assert min((found[0] - other).abs().max() for other in found[1:]) > 1e-5


def test_an_anagram_of_latents_has_no_views_of_colours(tiny_v, tmp_path):
    settings = InferenceSettings(
        pretrained_model_name_or_path=str(tiny_v), prompt=PROMPTS, illusion="anagram", view=["identity", "negate"],
        output_dir=str(tmp_path / "out"),
    )  # fmt: skip
    with pytest.raises(InputError, match="LookingGlass"):
        command.run(settings)
    assert not (tmp_path / "out").exists()


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8))


def test_a_component_of_an_image_is_kept_in_an_illusion(pipeline):
    asked = InferenceSettings(prompt="a red cat", illusion="colour", image="x.png", image_part="grey")
    found = pipeline.generate(
        [("a red cat",)] * 2, composition=composition(asked, pipeline), image=[picture(1), picture(2)], seeds=[3, 4], **OPTIONS
    )
    clean = pipeline.encode([picture(1), picture(2)], [torch.Generator().manual_seed(seed) for seed in (3, 4)])
    assert torch.allclose(found.mean(1), clean.mean(1), atol=1e-5)
    free = pipeline.generate("a red cat", seeds=[3, 4], **OPTIONS)
    assert not torch.allclose(free.mean(1), clean.mean(1), atol=0.1) and not torch.allclose(found, clean, atol=0.1)


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"illusion": "triple", "image_part": "low", "prompt": ["a", "b"]}, "image_part"),
        ({"illusion": "hybrid", "image_part": "grey"}, "image_part"),
        ({"illusion": "hybrid", "image_part": "low", "prompt": ["a", "b"]}, "prompt"),
        ({"illusion": "hybrid", "image_part": "low", "strength": 0.5}, "strength"),
        ({"illusion": "hybrid", "prompt": ["a", "b"]}, "image"),
        ({"illusion": "hybrid", "image_part": "low", "mask_image": "m.png"}, "mask_image"),
        ({"image_part": "low"}, "image_part"),
    ],
)
def test_unsupported_illusions_of_an_image_are_refused(values, where):
    with pytest.raises(InputError) as caught:
        InferenceSettings(**{"prompt": "a", "image": "x.png", **values})
    assert where in [problem.where for problem in caught.value.problems]


def test_a_large_image_is_decoded_in_tiles_like_stock(pipeline):
    latents = torch.randn(1, 4, 24, 16, generator=torch.Generator().manual_seed(0))
    vae = pipeline.family.vae
    whole = pipeline.decode(latents)[0]
    pipeline.generate("a", height=32, width=32, vae_tiling=True, **OPTIONS)
    tiled = pipeline.decode(latents)[0]
    vae.disable_tiling()
    expected = (vae.tiled_decode(latents / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1).mul(255).round()
    assert np.array_equal(np.asarray(tiled), expected[0].permute(1, 2, 0).to(torch.uint8).numpy())
    assert not np.array_equal(np.asarray(tiled), np.asarray(whole))
    pipeline.generate("a", **OPTIONS)
    assert np.array_equal(np.asarray(pipeline.decode(latents)[0]), np.asarray(whole))
