"""The denoising loop against diffusers' pipelines, schedulers' own predictions, and formulas in float64."""

import inspect
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from kit import conditioning, denoiser, hidden_states
from PIL import Image
from torch import Tensor

from customize import families
from customize.errors import InputError, NumericsError
from customize.inference.estimates import Conditional, guided, mixed
from customize.inference.pipeline import Pipeline
from customize.inference.sampler import draw_noise, sample
from customize.inference.schedulers import make_scheduler, scheduler_names
from customize.inference.solvers import Solver

SCHEDULERS = [
    ("DDIMScheduler", None), ("DDPMScheduler", None), ("PNDMScheduler", None), ("EulerDiscreteScheduler", None),
    ("EulerAncestralDiscreteScheduler", None), ("HeunDiscreteScheduler", None), ("DPMSolverMultistepScheduler", None),
    ("DPMSolverMultistepScheduler", True), ("UniPCMultistepScheduler", None), ("LMSDiscreteScheduler", None),
]  # fmt: skip
STEPS = 4


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def both(request):
    """Our pipeline and diffusers', loaded from the same folder independently of each other."""
    folder = request.getfixturevalue("tiny_epsilon" if request.param == "epsilon" else "tiny_v")
    stock = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    stock.set_progress_bar_config(disable=True)
    return SimpleNamespace(ours=Pipeline(families.load(families.locate(str(folder)))), stock=stock)


@pytest.fixture(scope="module")
def pipeline(tiny_epsilon) -> Pipeline:
    return Pipeline(families.load(families.locate(str(tiny_epsilon))))


def picture(width: int = 16, height: int = 16) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


OPTIONS = {"negative_prompt": "small", "num_inference_steps": STEPS, "guidance_scale": 5.0, "output_type": "latent"}


def from_diffusers(stock, cls, name: str, karras: bool | None, **options):
    changes = {} if karras is None else {"use_karras_sigmas": karras}
    changes |= {"skip_prk_steps": True} if name == "PNDMScheduler" else {}
    scheduler = getattr(diffusers, name).from_config(stock.scheduler.config, **changes)
    pipe = cls(**{**stock.components, "scheduler": scheduler}, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe("a photo of a dog", generator=torch.Generator().manual_seed(7), **{**OPTIONS, **options}).images


def from_us(ours: Pipeline, name: str, karras: bool | None, **options):
    options = {**OPTIONS, **options}
    return ours.generate("a photo of a dog", seeds=7, scheduler=name, use_karras_sigmas=karras, **options)


@pytest.mark.parametrize(("name", "karras"), SCHEDULERS)
def test_text_to_image_equals_diffusers(both, name, karras):
    expected = from_diffusers(both.stock, diffusers.StableDiffusionPipeline, name, karras)
    torch.testing.assert_close(from_us(both.ours, name, karras), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "karras"), SCHEDULERS)
def test_image_to_image_equals_diffusers(both, name, karras):
    options = {"image": picture(), "strength": 0.7}
    expected = from_diffusers(both.stock, diffusers.StableDiffusionImg2ImgPipeline, name, karras, **options)
    torch.testing.assert_close(from_us(both.ours, name, karras, **options), expected, rtol=0, atol=1e-4)


def test_images_equal_diffusers(both):
    options = {"output_type": "pil"}
    (expected,) = from_diffusers(both.stock, diffusers.StableDiffusionPipeline, "DDIMScheduler", None, **options)
    (ours,) = from_us(both.ours, "DDIMScheduler", None, **options)
    assert np.abs(np.asarray(ours, dtype=int) - np.asarray(expected, dtype=int)).max() <= 1


def base_scheduler(prediction_type: str):
    return diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", set_alpha_to_one=False, steps_offset=1,
        clip_sample=False, prediction_type=prediction_type,
    )  # fmt: skip


def run(scheduler, answer, record=lambda moment: None, steps: int = 12, **options) -> Tensor:
    """Samples one image; answer(latents, step) is what the network says."""
    scheduler.set_timesteps(steps)
    generators = [torch.Generator().manual_seed(0)]
    steps_taken = []

    class Estimate:
        def inputs(self, latents, step):
            steps_taken.append(step)
            return Conditional(conditioning(torch.zeros(1, 1, 1))).inputs(latents, step)

        def combine(self, answers, latents, step):
            return next(answers)

    start = Solver(scheduler).start(draw_noise((1, 4, 8, 8), generators, like=torch.zeros(())))
    network = denoiser(lambda latents, timesteps, hidden: answer(latents, steps_taken[-1]))
    return sample(network, Solver(scheduler, generators), start, Estimate(), record=record, **options)


ALL = scheduler_names(base_scheduler("epsilon"))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ALL)
def test_a_perfect_network_predicts_the_image_at_every_step(name, prediction_type):
    """Given the true noise at the level (alpha, sigma) of each step, every scheduler ends at the true image."""
    clean = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))

    def answer(seen, step):
        noise = (seen - step.alpha * clean) / step.sigma
        return noise if prediction_type == "epsilon" else step.alpha * noise - step.sigma * clean

    seen_clean = []
    scheduler = make_scheduler(base_scheduler(prediction_type), name)
    result = run(scheduler, answer, record=lambda result: seen_clean.append(result.clean))
    for predicted in seen_clean:
        torch.testing.assert_close(predicted, clean, rtol=0, atol=1e-3)
    last_noise = 0.05  # some schedulers end at the first training timestep, which is not quite clean
    torch.testing.assert_close(result, clean, rtol=0, atol=5 * last_noise)


@pytest.mark.parametrize("karras", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_the_level_is_that_of_the_timestep(name, karras):
    """sigma / alpha of the network's input equals that of the training schedule at its timestep."""
    try:
        scheduler = make_scheduler(base_scheduler("epsilon"), name, karras or None)
    except InputError:
        assert karras, "only Karras levels may be refused"
        return
    levels = []
    run(scheduler, lambda latents, step: torch.zeros_like(latents), lambda moment: levels.append(moment.step))
    trained = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).sqrt().log().numpy()
    for step in levels:
        expected = np.interp(float(step.timestep), np.arange(1000), trained)
        assert abs(np.log(step.sigma / step.alpha) - expected) < 0.15, (name, step)
        assert step.alpha**2 + step.sigma**2 == pytest.approx(1)


THAT_TELL = [
    "DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler", "LMSDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler",
]  # fmt: skip
CLAMPED = {"clip_sample": True, "clip_sample_range": 0.6}
THRESHOLDED = {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 1.2}


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    ("name", "limits"),
    [
        *((name, {}) for name in THAT_TELL), *((name, CLAMPED) for name in THAT_TELL[:2] + ["HeunDiscreteScheduler"]),
        *((name, THRESHOLDED) for name in THAT_TELL[:2]),
    ],
)  # fmt: skip
def test_predicted_clean_equals_the_scheduler_s_own(name, limits, prediction_type):
    scheduler = make_scheduler(base_scheduler(prediction_type), name)
    scheduler.register_to_config(**limits)
    step, own, ours = scheduler.step, [], []

    def spy(model_output, timestep, sample, **options):
        result = step(model_output, timestep, sample, **options)
        own.append(result.pred_original_sample)
        return result

    spy.__signature__ = inspect.signature(step)
    scheduler.step = spy
    run(scheduler, lambda latents, step: torch.sin(3 * latents), lambda moment: ours.append(moment.clean))
    assert len(own) == len(ours) >= 12
    assert not limits or max(each.abs().max() for each in own) <= 1
    for expected, actual in zip(own, ours, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


def test_evaluations_are_as_many_as_the_scheduler_asks_for():
    counts = {}
    for name in ("DDIMScheduler", "HeunDiscreteScheduler", "PNDMScheduler"):
        scheduler = make_scheduler(base_scheduler("epsilon"), name)
        scheduler.register_to_config(skip_prk_steps=True)
        steps = []
        run(scheduler, lambda latents, step: latents, lambda moment, steps=steps: steps.append(moment.step), steps=6)
        counts[name] = len(steps)
        assert [step.index for step in steps] == list(range(len(steps)))
        assert {step.count for step in steps} == {len(steps)}
        assert [step.next_timestep for step in steps] == [step.timestep for step in steps][1:] + [None]
    assert counts == {"DDIMScheduler": 6, "HeunDiscreteScheduler": 11, "PNDMScheduler": 7}


def test_level_of_ddim_is_the_training_schedule():
    scheduler = base_scheduler("epsilon")
    scheduler.set_timesteps(10)
    for place, step in enumerate(Solver(scheduler).steps()):
        alphas_cumprod = scheduler.alphas_cumprod[int(step.timestep)].double()
        expected = alphas_cumprod.sqrt().item(), (1 - alphas_cumprod).sqrt().item()
        assert (step.alpha, step.sigma) == Solver(scheduler).level(place) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "EulerDiscreteScheduler"])
def test_a_noised_image_is_at_the_level_of_its_place(name):
    """Also at the end of many Karras levels, where several have the same rounded timestep."""
    scheduler = make_scheduler(base_scheduler("epsilon"), name, use_karras_sigmas=True)
    for place in range(0, 100, 3):
        scheduler.set_timesteps(100)
        noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        solver = Solver(scheduler, first=place)
        start = solver.start(noise, torch.zeros(1, 4, 8, 8))
        seen = scheduler.scale_model_input(start, scheduler.timesteps[place])
        torch.testing.assert_close(seen, solver.level(place)[1] * noise, rtol=1e-4, atol=1e-6)


def test_a_given_latent_can_start_anywhere():
    """Also where the timestep of its place comes twice (the last of many Karras levels)."""
    clean = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    scheduler = make_scheduler(base_scheduler("epsilon"), "DPMSolverMultistepScheduler", use_karras_sigmas=True)
    scheduler.set_timesteps(100)
    solver = Solver(scheduler, first=90)
    alpha, sigma = solver.level(90)
    seen = []

    def network(latents, timesteps, prompt):
        return (latents - alpha * clean) / sigma

    start = alpha * clean + sigma * torch.ones_like(clean)
    sample(denoiser(network), solver, start, Conditional(conditioning(torch.zeros(1, 1, 1))), record=seen.append)
    assert len(seen) == 10
    torch.testing.assert_close(seen[0].clean, clean, rtol=0, atol=1e-4)
    assert scheduler.step_index == 100


def test_correct_replaces_the_latents():
    scheduler = base_scheduler("epsilon")
    known = torch.full((1, 4, 8, 8), 0.25)
    moments = []

    def correct(next_latents, moment):
        moments.append(moment)
        return known if moment.step.next_timestep is None else next_latents

    result = run(scheduler, lambda latents, step: latents, correct=correct, steps=4)
    assert torch.equal(result, known) and len(moments) == 4
    assert torch.equal(moments[0].noise, moments[0].model_input)


def float64_network(latents: Tensor, timesteps: Tensor, hidden: Tensor) -> Tensor:
    return torch.sin(latents * hidden.sum((1, 2))[:, None, None, None]) + timesteps.view(-1, 1, 1, 1) / 1000


def test_guided_and_mixed_equal_the_formula_in_float64():
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 8, 8, generator=generator, dtype=torch.float64)
    hidden = [torch.randn(2, 3, 5, generator=generator, dtype=torch.float64) for _ in range(4)]
    a, b, c, negative = (Conditional(conditioning(each)) for each in hidden)
    estimate = guided(mixed([(a, 1.0), (mixed([(b, 3.0), (c, 1.0)]), 3.0)]), negative, 4.5)
    batches = []

    def network(latents, timesteps, prompt):
        batches.append(len(latents))
        return float64_network(latents, timesteps, hidden_states(prompt))

    scheduler = base_scheduler("epsilon")
    scheduler.set_timesteps(1)
    seen = []
    sample(denoiser(network), Solver(scheduler), latents, estimate, record=seen.append)
    answers = [float64_network(latents, torch.full((2,), int(scheduler.timesteps[0])), h) for h in hidden]
    prompt = 0.25 * answers[0] + 0.75 * (0.75 * answers[1] + 0.25 * answers[2])
    expected = answers[3] + 4.5 * (prompt - answers[3])
    torch.testing.assert_close(seen[0].noise, expected, rtol=1e-12, atol=1e-12)
    assert batches == [8], "all inputs of a step go through the network in one batch"
    assert guided(a, negative, 1.0) is a
    with pytest.raises(ValueError, match="zero"):
        mixed([(a, 1.0), (b, -1.0)])


def test_an_image_does_not_depend_on_its_batch(pipeline):
    options = {"num_inference_steps": 4, "scheduler": "EulerAncestralDiscreteScheduler", "output_type": "latent"}
    prompts = ["a dog", "a cat", "a red car"]
    together = pipeline.generate(prompts, seeds=[1, 2, 3], **options)
    for place, prompt in enumerate(prompts):
        alone = pipeline.generate(prompt, seeds=place + 1, **options)
        torch.testing.assert_close(together[place : place + 1], alone, rtol=0, atol=1e-4)
    assert (together[0] - together[1]).abs().max() > 0.1
    start = {"image": picture(), "strength": 0.6}
    both = pipeline.generate("a dog", seeds=[5, 6], **options, **start)
    torch.testing.assert_close(both[1:], pipeline.generate("a dog", seeds=6, **options, **start), rtol=0, atol=1e-4)


def test_rows_of_a_network_call_are_limited_by_max_batch(pipeline, monkeypatch):
    rows = []
    predict = pipeline.family.predict
    monkeypatch.setattr(pipeline.family, "predict", lambda *inputs: rows.append(len(inputs[0])) or predict(*inputs))
    options = {"seeds": [1, 2, 3], "num_inference_steps": 2, "scheduler": "DDIMScheduler", "output_type": "latent"}
    whole = pipeline.generate("a dog", **options)
    assert rows == [6, 6]
    pieces = pipeline.generate("a dog", max_batch=4, **options)
    assert rows[2:] == [4, 2, 4, 2]
    torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-4)
    pipeline.generate("a dog", guidance_scale=1.0, **options)
    assert rows[6:] == [3, 3], "without guidance only the prompt is asked"


def test_the_negative_prompt_takes_the_place_of_the_empty_one(pipeline):
    options = {"num_inference_steps": 2, "scheduler": "DDIMScheduler", "output_type": "latent"}
    plain = pipeline.generate("a dog", **options)
    assert torch.equal(plain, pipeline.generate("a dog", negative_prompt="", **options))
    assert (plain - pipeline.generate("a dog", negative_prompt="a cat", **options)).abs().max() > 1e-3
    same = pipeline.generate("a dog", negative_prompt="a dog", **options)
    torch.testing.assert_close(same, pipeline.generate("a dog", guidance_scale=1.0, **options), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("height", "width", "picture_size", "expected"),
    [(None, None, None, (16, 16)), (24, None, None, (24, 16)), (None, None, (400, 100), (8, 32)),
     (None, None, (160, 160), (16, 16)), (8, 32, (100, 100), (8, 32))],
)  # fmt: skip
def test_size_follows_the_model_or_the_image(pipeline, height, width, picture_size, expected):
    start = picture_size and picture(*picture_size)
    assert pipeline.size(height, width, start) == expected
    (image,) = pipeline.generate("a dog", num_inference_steps=1, height=height, width=width, image=start, strength=1.0)
    assert image.size == expected[::-1]


def test_first_place_counts_as_diffusers_does():
    stock = diffusers.StableDiffusionImg2ImgPipeline
    for name in ("DDIMScheduler", "HeunDiscreteScheduler", "KDPM2DiscreteScheduler"):
        scheduler = make_scheduler(base_scheduler("epsilon"), name)
        for steps in (1, 10, 25):
            scheduler.set_timesteps(steps)
            for strength in (0.0, 0.29, 0.3, 0.5, 0.7, 0.99, 1.0):
                left, _ = stock.get_timesteps(SimpleNamespace(scheduler=scheduler), steps, strength, "cpu")
                assert list(left) == list(scheduler.timesteps[Solver(scheduler).first_place(steps, strength) :])


@pytest.mark.parametrize(
    ("options", "setting", "words"),
    [
        ({"scheduler": "EulerDiscrete"}, "scheduler", "EulerDiscreteScheduler"),
        ({"scheduler": "EDMEulerScheduler"}, "scheduler", "preconditioning"),
        ({"scheduler": "DDIMScheduler", "use_karras_sigmas": True}, "use_karras_sigmas", "DPM++ SDE, Euler, Heun, DPM2, "),
        ({"num_inference_steps": 0}, "num_inference_steps", "1 to 1000"),
        ({"num_inference_steps": 1001}, "num_inference_steps", "1 to 1000"),
        ({"image": picture(), "strength": 0.1, "num_inference_steps": 5}, "strength", "less than one step"),
        ({"image": picture(), "strength": 1.5}, "strength", "at most 1"),
        ({"height": 15, "width": 17}, "height", "multiple of 2"),
        ({"height": -8}, "height", "multiple of 2"),
        ({"seeds": [1, 2], "negative_prompt": ["a", "b", "c"]}, "seeds", "2 given for 3"),
    ],
)
def test_invalid_requests_are_refused(pipeline, options, setting, words):
    with pytest.raises(InputError) as caught:
        pipeline.generate("a dog", **options)
    assert caught.value.problems[0].where == setting
    assert words in str(caught.value)


def test_too_few_steps_for_a_scheduler_are_refused():
    scheduler = diffusers.PNDMScheduler(skip_prk_steps=False)  # with Runge-Kutta steps: at least 4
    with pytest.raises(InputError, match="PNDMScheduler"):
        Solver(scheduler).set_steps(2)


def test_a_text_that_is_too_long_to_learn_from_is_refused_with_the_words_that_would_be_lost(pipeline):
    prompt = " ".join(["dog"] * 75)
    pipeline.family.text_encoders[0].tokenize([prompt])
    with pytest.raises(InputError, match="red car"):
        pipeline.family.text_encoders[0].tokenize([f"{prompt} red car"])


def test_infinite_pixels_are_an_error_and_not_a_black_image(pipeline):
    with pytest.raises(NumericsError, match="NaN"):
        pipeline.decode(torch.full((1, 4, 8, 8), float("nan")))


def test_latents_are_never_clipped_and_timesteps_count_from_one():
    old = diffusers.DDIMScheduler(clip_sample=True, steps_offset=0)
    for name in ("DDIMScheduler", "DDPMScheduler", None):
        scheduler = make_scheduler(old, name)
        assert (scheduler.config.clip_sample, scheduler.config.steps_offset) == (False, 1)
    assert old.config.clip_sample and make_scheduler(old) is not old
