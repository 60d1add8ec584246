"""The sampler on DeepFloyd IF equals diffusers' pipelines: both stages, from noise, from an image and with a mask, with learned
variance, thresholding, guidance and lists of timesteps."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from deepfloyd_stock import noise_image, stock
from diffusers import (
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    IFImg2ImgPipeline,
    IFImg2ImgSuperResolutionPipeline,
    IFInpaintingPipeline,
    IFInpaintingSuperResolutionPipeline,
    IFPipeline,
    IFSuperResolutionPipeline,
)
from diffusers.pipelines.deepfloyd_if import smart27_timesteps
from models import tiny_deepfloyd_if
from PIL import Image

from customize.errors import InputError
from customize.inference import load_pipeline
from customize.inference.estimates import dynamic_threshold
from customize.inference.illusions.illusion_estimates import anagram
from customize.inference.illusions.views import parse_view
from customize.inference.inpainting import as_pixels
from customize.inference.request import Composition
from customize.inference.schedulers import timesteps_of
from customize.inference.solvers import Solver
from customize.settings.inference import InferenceSettings
from customize.settings.sampler_names import TIMESTEPS, num_timesteps

PROMPT, NEGATIVE, SEEDS = "a photo of sks dog", "blue house", [3, 4]


PHOTOS, SMALL = [noise_image(16, 1), noise_image(16, 2)], [noise_image(4, 3), noise_image(4, 4)]
MASK = Image.fromarray(np.pad(np.full((8, 8), 255, np.uint8), ((2, 6), (4, 4))))
SCHEDULERS = {
    "learned range": {},
    "fixed variance": {"variance_type": "fixed_small"},
    "no thresholding": {"thresholding": False, "clip_sample": False},
}


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """Our pipelines of stages I and II."""
    return {stage: load_pipeline(str(tiny_deepfloyd_if(tmp_path_factory.mktemp("if") / str(stage), stage))) for stage in (1, 2)}


def theirs(ours, cls, scheduler=None, **options) -> torch.Tensor:
    """The images [B, 3, H, W] of diffusers' pipeline."""
    asked = {"num_inference_steps": 4, "prompt": [PROMPT] * 2, "negative_prompt": [NEGATIVE] * 2} | options
    return stock(ours, cls, SEEDS, scheduler, **asked)


def drawn(ours, **options) -> torch.Tensor:
    """The same of ours."""
    asked = {"negative_prompt": NEGATIVE, "num_inference_steps": 4, "seeds": SEEDS, "output_type": "latent"}
    return ours.generate([PROMPT] * 2, **{**asked, **options})


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert (found[0] - found[1]).abs().max() > 0.1


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_stage_one_from_noise(stages, scheduler, monkeypatch):
    ours = stages[1]
    changed = DDPMScheduler.from_config(ours.family.scheduler.config, **SCHEDULERS[scheduler])
    monkeypatch.setattr(ours.family, "scheduler", changed)
    assert_same(drawn(ours, guidance_scale=7.0), theirs(ours, IFPipeline, guidance_scale=7.0))


def test_stage_one_with_a_solver_of_second_order(stages):
    scheduler = DPMSolverMultistepScheduler.from_config(stages[1].family.scheduler.config)
    found = drawn(stages[1], guidance_scale=7.0, scheduler="DPM++ 2M")
    assert_same(found, theirs(stages[1], IFPipeline, scheduler, guidance_scale=7.0))


def test_given_timesteps(stages):
    timesteps = [999, 700, 300, 0]
    expected = theirs(stages[1], IFPipeline, guidance_scale=7.0, num_inference_steps=None, timesteps=timesteps)
    assert_same(drawn(stages[1], guidance_scale=7.0, timesteps="999, 700 300,0"), expected)
    assert (expected - drawn(stages[1], guidance_scale=7.0)).abs().max() > 0.1


def test_strength_is_a_fraction_of_the_given_timesteps(stages):
    solver = Solver(stages[1].family.scheduler)
    solver.set_steps(50, strength=0.5, timesteps=[999, 700, 300, 0])
    assert solver.first == 2 and [int(step.timestep) for step in solver.steps()] == [300, 0]


def test_stage_one_from_an_image(stages):
    options = {"image": PHOTOS, "strength": 0.75, "guidance_scale": 10.0}
    assert_same(drawn(stages[1], **options), theirs(stages[1], IFImg2ImgPipeline, **options))


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_stage_one_with_a_mask(stages, strength):
    options = {"image": PHOTOS, "mask_image": [MASK] * 2, "strength": strength, "guidance_scale": 7.0}
    found = drawn(stages[1], **options)
    assert_same(found, theirs(stages[1], IFInpaintingPipeline, **options))
    torch.testing.assert_close(found[:, :, :2], torch.cat(list(map(as_pixels, PHOTOS)))[:, :, :2], rtol=0, atol=0)


@pytest.mark.parametrize("level", [None, 100])
def test_stage_two(stages, level):
    given = {} if level is None else {"noise_level": level}
    expected = theirs(stages[2], IFSuperResolutionPipeline, image=SMALL, guidance_scale=4.0, **given)
    assert_same(drawn(stages[2], low_res_image=SMALL, guidance_scale=4.0, noise_level=level), expected)


def test_stage_two_from_an_image(stages):
    options = {"strength": 0.75, "guidance_scale": 4.0}
    expected = theirs(stages[2], IFImg2ImgSuperResolutionPipeline, image=SMALL, original_image=PHOTOS, **options)
    assert_same(drawn(stages[2], low_res_image=SMALL, image=PHOTOS, **options), expected)


def test_stage_two_with_a_mask(stages):
    options = {"mask_image": [MASK] * 2, "strength": 0.75, "guidance_scale": 4.0}
    expected = theirs(stages[2], IFInpaintingSuperResolutionPipeline, image=SMALL, original_image=PHOTOS, **options)
    assert_same(drawn(stages[2], low_res_image=SMALL, image=PHOTOS, **options), expected)


def test_an_anagram_of_stage_two_views_the_enlarged_image_too(stages, monkeypatch):
    family, seen = stages[2].family, []
    predict = family.predict
    monkeypatch.setattr(family, "predict", lambda x, t, conditioning: seen.append(x) or predict(x, t, conditioning))
    views = [parse_view("identity"), parse_view("flip")]
    composition = Composition(lambda estimates: anagram(list(zip(estimates, views, strict=True)), negates=True))
    options = {"guidance_scale": 1.0, "num_inference_steps": 1, "seeds": 3, "output_type": "latent"}
    stages[2].generate((PROMPT, NEGATIVE), low_res_image=SMALL[0], composition=composition, **options)
    [rows] = seen
    assert rows.shape == (2, 6, 16, 16) and torch.equal(rows[1], rows[0].flip(-2)) and not torch.equal(rows[0], rows[1])


def test_the_size_follows_from_the_shape_of_the_image(stages):
    wide = noise_image(4, 5).resize((8, 4))
    (image,) = stages[2].generate(PROMPT, low_res_image=wide, num_inference_steps=1)
    assert image.size == (22, 12)


@pytest.mark.parametrize("name", ["DDIM", "Euler", "TCD"])
def test_samplers_without_learned_variance_or_thresholding_keep_to_the_range(stages, name):
    """Guidance at 30 drives a model with random weights far out of the range; dynamic thresholding keeps it in."""
    found = drawn(stages[1], guidance_scale=30.0, scheduler=name)
    assert found.shape == (2, 3, 16, 16) and 0.9 < found.abs().max() < 1.05


def test_dynamic_threshold_is_the_schedulers_own(stages):
    clean = 2 * torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 0.1]).view(2, 1, 1, 1)
    expected = stages[1].family.scheduler._threshold_sample(clean)
    torch.testing.assert_close(dynamic_threshold(clean, 0.95, 1.5), expected, rtol=0, atol=1e-6)


def test_lists_of_timesteps_are_diffusers_own():
    assert timesteps_of("smart27") == smart27_timesteps
    assert [len(timesteps_of(name) or ()) for name in TIMESTEPS] == [num_timesteps(name) for name in TIMESTEPS]
    assert timesteps_of("999 500,0") == [999, 500, 0] and timesteps_of(None) is None
    assert InferenceSettings(prompt="a", timesteps="smart50").steps == 50


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"timesteps": "smrt27"}, "did you mean smart27"),
        ({"timesteps": "0,500"}, "500 comes after 0, but timesteps descend"),
        ({"timesteps": "smart27", "timestep_spacing": "trailing"}, "both space the steps"),
        ({"timesteps": "smart27", "scheduler": "DDIM"}, "is not supported by DDIMScheduler"),
        ({"timesteps": "smart27", "scheduler": "Euler AYS"}, "contradicts Euler AYS"),
    ],
)
def test_timesteps_that_are_not_possible_are_refused(options, what):
    with pytest.raises(InputError) as caught:
        InferenceSettings(prompt="a", **options)
    [problem] = caught.value.problems
    assert problem.where == "timesteps" and what in problem.what


def test_what_a_stage_does_not_take_is_refused(stages):
    refused: dict[str, SimpleNamespace] = {
        "is not supported by DDIMScheduler": SimpleNamespace(stage=1, options={"timesteps": [999, 0], "scheduler": "DDIM"}),
        "must start before": SimpleNamespace(stage=1, options={"timesteps": [5000, 0]}),
        "is a super-resolution model, which needs an image to enlarge": SimpleNamespace(stage=2, options={}),
        "is for super-resolution models": SimpleNamespace(stage=1, options={"low_res_image": SMALL}),
        "is above 999": SimpleNamespace(stage=2, options={"low_res_image": SMALL, "noise_level": 1000}),
        "is of an image to enlarge": SimpleNamespace(stage=2, options={"noise_level": 10}),
    }
    for what, each in refused.items():
        with pytest.raises(InputError, match=what):
            drawn(stages[each.stage], **each.options)
