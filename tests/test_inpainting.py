"""Inpainting against diffusers' pipeline (four and nine channels), RePaint against its formulas, and exact pasting."""

from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image, ImageDraw
from test_sampler import OPTIONS, SCHEDULERS, picture

from customize import families
from customize.errors import InputError
from customize.inference.inpainting import Known, repaint_places, repaint_plan
from customize.inference.pipeline import Pipeline
from customize.inference.run import command
from customize.inference.sampler import StepResult
from customize.inference.schedulers import make_scheduler
from customize.inference.solvers import Solver
from customize.settings.inference import InferenceSettings


@pytest.fixture(scope="module", params=["four channels", "nine channels", "v_prediction"])
def both(request):
    """Our pipeline and diffusers' with the same weights; with nine channels an inpainting UNet."""
    folder = request.getfixturevalue("tiny_v" if request.param == "v_prediction" else "tiny_epsilon")
    stock = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    ours = Pipeline(families.load(families.locate(str(folder))))
    if request.param == "nine channels":
        torch.manual_seed(0)
        unet = UNet2DConditionModel.from_config({**stock.unet.config, "in_channels": 9}).eval()
        stock.unet = ours.family.unet = unet
    return SimpleNamespace(ours=ours, stock=stock)


def mask_picture() -> Image.Image:
    mask = Image.new("L", (16, 16))
    ImageDraw.Draw(mask).ellipse((3, 2, 12, 11), fill=255)
    return mask


def stock_inpainting(stock, name: str, karras: bool | None, **options):
    changes = {} if karras is None else {"use_karras_sigmas": karras}
    changes |= {"skip_prk_steps": True} if name == "PNDMScheduler" else {}
    scheduler = getattr(diffusers, name).from_config(stock.scheduler.config, **changes)
    # the plain pipeline mends a scheduler's clip_sample, the one for inpainting does not
    mended = diffusers.StableDiffusionPipeline(**{**stock.components, "scheduler": scheduler}, requires_safety_checker=False)
    pipe = diffusers.StableDiffusionInpaintPipeline(**mended.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    pictures = {"image": picture(), "mask_image": mask_picture(), "height": 16, "width": 16}
    return pipe("a photo of a dog", generator=torch.Generator().manual_seed(7), **pictures, **{**OPTIONS, **options}).images


def our_inpainting(ours, name: str = "DDIMScheduler", karras: bool | None = None, **options):
    pictures = {"image": picture(), "mask_image": mask_picture()}
    options = {**OPTIONS, **pictures, **options}
    return ours.generate("a photo of a dog", seeds=7, scheduler=name, use_karras_sigmas=karras, **options)


@pytest.mark.parametrize("strength", [1.0, 0.7])
@pytest.mark.parametrize(("name", "karras"), SCHEDULERS)
def test_latents_equal_diffusers(both, name, karras, strength):
    expected = stock_inpainting(both.stock, name, karras, strength=strength)
    found = our_inpainting(both.ours, name, karras, strength=strength)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"num_resamples": 3, "jump_length": 2}])
def test_the_known_region_is_bit_identical(both, options):
    if both.ours.family.unet.config.in_channels == 9 and options:
        options = {}
    (found,) = our_inpainting(both.ours, output_type="pil", strength=1.0, **options)
    kept = np.asarray(mask_picture()) < 128
    difference = np.abs(np.asarray(found, int) - np.asarray(picture(), int)).sum(-1)
    assert not difference[kept].any() and difference[~kept].mean() > 3


def test_repaint_jumps_back_as_often_as_requested():
    assert list(repaint_places(0, 4, 2, 3)) == [0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3]
    assert list(repaint_places(1, 4, 2, 2)) == [1, 2, 1, 2, 3, 3]
    assert list(repaint_places(0, 3, 10, 1)) == [0, 1, 2]


def test_repaint_has_the_variance_of_the_level_it_jumps_back_to():
    """Algorithm 1: data of variance 1 stays so; of clean data every level holds alpha of it and sigma of noise."""
    scheduler = make_scheduler(diffusers.DDIMScheduler(clip_sample=False), None, None)
    scheduler.set_timesteps(10)
    solver = Solver(scheduler)
    plan = repaint_plan(solver, 5, 2)
    assert [step.index for step in plan] == list(range(20)) and plan[5].timestep == plan[0].timestep
    shape, generators = (1, 4, 64, 64), [torch.Generator().manual_seed(0)]
    clean = torch.full(shape, 3.0)
    known = Known(clean, torch.zeros(shape), torch.zeros(1, 1, 64, 64))
    correct = known.resampled(solver, plan, generators)
    for index in (2, 4, 14):
        blank = torch.zeros(shape)
        found = correct(blank, StepResult(plan[index], blank, blank, None, (), blank, blank))
        following = plan[index + 1]
        assert found.mean().item() == pytest.approx(3 * following.alpha, abs=0.03)
        assert found.std().item() == pytest.approx(following.sigma, abs=0.03)
    last = correct(blank, StepResult(plan[19], blank, blank, None, (), blank, blank))
    assert torch.equal(last, clean)


@pytest.mark.parametrize("name", ["PNDMScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler"])
def test_a_multistep_scheduler_cannot_jump_back(name):
    scheduler = make_scheduler(diffusers.DDIMScheduler(), name, None)
    scheduler.set_timesteps(4)
    with pytest.raises(InputError, match="cannot jump back"):
        repaint_plan(Solver(scheduler), 2, 2)


def test_settings_that_lack_their_image_are_refused(both):
    generate = both.ours.generate
    with pytest.raises(InputError, match="needs an image"):
        generate("a dog", mask_image=mask_picture(), num_inference_steps=1)
    if both.ours.family.unet.config.in_channels == 9:
        with pytest.raises(InputError, match="an inpainting model"):
            generate("a dog", num_inference_steps=1)


def test_a_mask_that_does_not_fit_is_refused_before_anything_loads(tiny_epsilon, tmp_path):
    picture(32, 16).save(tmp_path / "start.png")
    for name, size, value in (("small", (16, 16), 255), ("black", (32, 16), 100), ("good", (32, 16), 200)):
        Image.new("L", size, value).save(tmp_path / f"{name}.png")
    given = {"prompt": "a dog", "pretrained_model_name_or_path": str(tiny_epsilon), "image": str(tmp_path / "start.png")}
    given |= {"num_inference_steps": 1, "height": 16, "width": 32}
    for name, fault in (("small", "has 16 x 16 pixels, the image 32 x 16"), ("black", "nothing is white")):
        settings = InferenceSettings(**given, mask_image=str(tmp_path / f"{name}.png"), output_dir=str(tmp_path / name))
        with pytest.raises(InputError, match=fault):
            command.run(settings)
        assert not (tmp_path / name).exists()
    command.run(InferenceSettings(**given, mask_image=str(tmp_path / "good.png"), output_dir=str(tmp_path / "good")))
    texts = Image.open(tmp_path / "good/000.png").text
    assert "Denoising strength: 1.0" in texts["parameters"]
