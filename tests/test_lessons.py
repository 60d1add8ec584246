"""The lessons against formulas in float64: the signal-to-noise ratio, one step, and many."""

import numpy as np
import pytest
import torch
from PIL import Image
from test_sampler import picture

from customize import families
from customize.errors import InputError
from customize.inference.estimates import Guided
from customize.inference.explain import lessons
from customize.inference.explain.lessons import LESSONS, clean_and_noise, in_one_step, psnr
from customize.inference.illusions.views import VIEWS
from customize.inference.pipeline import Pipeline
from customize.inference.run import command
from customize.inference.run.grid import ImageRequest
from customize.inference.schedulers import make_scheduler
from customize.inference.solvers import Solver
from customize.inference.starts import fitted
from customize.settings.inference import InferenceSettings


@pytest.fixture(scope="module", params=["epsilon", "v"])
def pipeline(request) -> Pipeline:
    return Pipeline(families.load(families.locate(str(request.getfixturevalue(f"tiny_{request.param}")))))


def test_psnr_by_hand():
    first = Image.new("RGB", (4, 4), (10, 20, 30))
    second = Image.new("RGB", (4, 4), (13, 20, 26))
    assert psnr(first, second) == pytest.approx(10 * np.log10(255**2 / ((9 + 0 + 16) / 3)))
    assert psnr(first, first) == float("inf")


@torch.no_grad()
def test_one_step_by_the_formula_in_float64(pipeline):
    scheduler = make_scheduler(pipeline.family.scheduler, "DDIMScheduler")
    scheduler.set_timesteps(10)
    clean, noise = clean_and_noise(pipeline, picture(), 5)
    estimate = pipeline.estimate(["a dog"], ["red"], [3.0], 10)
    assert isinstance(estimate, Guided)
    first, t = 4, int(scheduler.timesteps[4])
    a = float(scheduler.alphas_cumprod[t])
    noisy = a**0.5 * clean.double() + (1 - a) ** 0.5 * noise.double()
    hidden = [part.conditioning for part in (estimate.negative, estimate.positive)]
    negative, positive = (pipeline.family.predict(noisy.float(), torch.tensor([t]), each).prediction.double() for each in hidden)
    answer = negative + 3 * (positive - negative)
    if pipeline.family.prediction_type == "epsilon":
        expected = (noisy - (1 - a) ** 0.5 * answer) / a**0.5
    else:
        expected = a**0.5 * noisy - (1 - a) ** 0.5 * answer
    solver = Solver(scheduler, first=first)
    found = in_one_step(pipeline, solver, solver.start(noise, clean), estimate)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", LESSONS)
def test_every_lesson_from_the_command(name, tiny_v, tmp_path):
    picture(32, 16).save(tmp_path / "picture.png")
    given = {"pretrained_model_name_or_path": str(tiny_v), "image": str(tmp_path / "picture.png"), "num_inference_steps": 4}
    given |= {"prompt": "a dog"} if name == "denoising" else {}
    command.run(InferenceSettings(lesson=name, **given, output_dir=str(tmp_path / "out")))
    with Image.open(tmp_path / "out/000.png") as sheet:
        assert sheet.width > sheet.height if name != "denoising" else sheet.height > 128


def test_a_lesson_needs_its_image_and_an_image_its_prompt():
    of_a_prompt = {"lesson": "denoising", "image": "a.png"}
    for given, missing in (({"lesson": "forward"}, "image"), ({}, "prompt"), (of_a_prompt, "prompt")):
        with pytest.raises(InputError, match="is missing") as caught:
            InferenceSettings(**given)
        assert [problem.where for problem in caught.value.problems] == [missing]


def test_views_show_what_they_do(pipeline, monkeypatch):
    sheets = []
    monkeypatch.setattr(lessons, "contact_sheet", lambda rows, labels: sheets.append((rows, labels)) or Image.new("RGB", (8, 8)))
    LESSONS["views"](pipeline, picture(), ImageRequest(InferenceSettings(lesson="views", image="x"), ("",), 0))
    shown = {label: np.asarray(each) for rows, labels in sheets for each, label in zip(rows[0], labels, strict=True)}
    plain = np.asarray(fitted([picture()], (64, 64))[0])
    assert len(shown) == len(VIEWS) and np.array_equal(shown["identity"], plain)
    assert np.array_equal(shown["flip"], plain[::-1]) and np.array_equal(shown["rotate 180"], plain[::-1, ::-1])
    assert np.array_equal(shown["negate"], 255 - plain) and "blur (no anagrams)" in shown
