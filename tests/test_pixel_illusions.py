"""Illusions of a model of pixels that also predicts its variance, as DeepFloyd IF: the whole sampler, with guidance, equals the
papers' formulas and DDPM's step written straight, in float64."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from families_of_tests import PixelUNet
from models import tiny_deepfloyd_if
from PIL import Image
from torch import Tensor

from customize.cli import commands
from customize.families.base import DenoiserOutput
from customize.families.conditioning import Conditioning
from customize.inference import load_pipeline
from customize.inference import pipeline as pipelines
from customize.inference.illusions.build import composition
from customize.inference.illusions.components import gaussian
from customize.inference.illusions.illusion_estimates import blended
from customize.inference.illusions.views import VIEWS, parse_view
from customize.inference.pipeline import Pipeline
from customize.inference.schedulers import make_scheduler
from customize.settings.inference import InferenceSettings

SIDE, SCALE, SEED, NEGATIVE, PROMPTS = 16, 3.0, 5, "grey", ("a dog", "a cat", "a fox")
TIMESTEPS = (751, 501, 251, 1)
EXACT = {"rtol": 0, "atol": 1e-12}
ANAGRAMS = [name for name in VIEWS if name not in ("identity", "blur", "white_balance", "pixel_permute")]
Combine = Callable[[Tensor, Callable[[Tensor, str], DenoiserOutput], int], tuple[Tensor, Tensor]]
"""(x_t, the guided prediction for a prompt, number of the step) -> the noise and the variance of the illusion."""
Keep = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""(x after a step, its alpha product, generator) -> x for the next step."""


class Doubles(PixelUNet):
    """The family in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.to(torch.float64)

    def encode_prompts(self, prompts, **options) -> Conditioning:
        return Conditioning({name: tensor.double() for name, tensor in super().encode_prompts(prompts).tensors.items()})


@pytest.fixture(scope="module")
def family() -> Doubles:
    return Doubles()


def double_schedule(*arguments, **options):
    """The sampler's table of noise levels in float64, so that coefficients made of its (float32) values are not rounded."""
    scheduler = make_scheduler(*arguments, **options)
    scheduler.alphas_cumprod, scheduler.one = scheduler.alphas_cumprod.double(), scheduler.one.double()
    return scheduler


def drawn(family: Doubles, count: int, image: Image.Image | None = None, **settings) -> Tensor:
    """What infer.py draws for the first `count` prompts with these settings: pixels [1, 3, H, W]."""
    asked, pipeline = (
        InferenceSettings(prompt=PROMPTS[:count], **settings, **({"image": "given.png"} if image else {})),
        Pipeline(family),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipelines, "make_scheduler", double_schedule)
        return pipeline.generate(
            PROMPTS[:count], composition=composition(asked, pipeline), negative_prompt=NEGATIVE, guidance_scale=SCALE, seeds=SEED,
            num_inference_steps=len(TIMESTEPS), output_type="latent", image=image,
        )  # fmt: skip


@torch.no_grad()
def predicted(family: Doubles, x: Tensor, prompt: str, t: int) -> DenoiserOutput:
    """The guided noise, and the variance, which is not guided."""
    negative, positive = (family.predict(x, torch.tensor([t]), family.encode_prompts([text])) for text in (NEGATIVE, prompt))
    return DenoiserOutput(negative.prediction + SCALE * (positive.prediction - negative.prediction), positive.variance)


def levels(family: Doubles, t: int) -> tuple[Tensor, Tensor]:
    """The alpha products of this evaluation and of the next."""
    alphas = family.scheduler.alphas_cumprod.double()
    return alphas[t], alphas[t - 250] if t > 250 else torch.tensor(1.0, dtype=torch.float64)


def stepped(x: Tensor, noise: Tensor, part: Tensor, now: Tensor, before: Tensor, generator: torch.Generator) -> Tensor:
    """DDPM, algorithm 2, with the variance between both bounds that the network chooses (Nichol & Dhariwal 2021, equation 15)."""
    beta = 1 - now / before
    clean = (x - (1 - now).sqrt() * noise) / now.sqrt()
    mean = before.sqrt() * beta / (1 - now) * clean + (now / before).sqrt() * (1 - before) / (1 - now) * x
    low, high = ((1 - before) / (1 - now) * beta).clamp(min=1e-20).log(), beta.log()
    return mean + (0.5 * ((part + 1) / 2 * high + (1 - part) / 2 * low)).exp() * normal(generator)


def normal(generator: torch.Generator) -> Tensor:
    return torch.randn(1, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)


def by_formula(family: Doubles, combine: Combine, keep: Keep | None = None) -> Tensor:
    """The whole sampler."""
    generator = torch.Generator().manual_seed(SEED)
    x = normal(generator)
    for step, t in enumerate(TIMESTEPS):
        now, before = levels(family, t)
        x = stepped(x, *combine(x, partial(predicted, family, t=t), step), now, before, generator)
        x = keep(x, before, generator) if keep else x
    return x


def seen(view: str) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """A view of the whole image and its inverse, by the index of each pixel."""
    index = parse_view(view)(torch.arange(SIDE * SIDE).view(1, 1, SIDE, SIDE)).flatten()
    return (lambda x: x.flatten(2)[..., index].view_as(x)), (lambda x: x.flatten(2)[..., index.argsort()].view_as(x))


@pytest.mark.parametrize("view", [*ANAGRAMS, "pixel_permute:patches=16"])
def test_an_anagram_is_the_formula(family, view):
    """Geng, Park & Owens 2024: the mean of both noises and of both variances, seen back."""
    there, back = seen(view) if view != "negate" else (torch.neg, torch.neg)
    of_variance = (lambda variance: variance) if view == "negate" else back  # the authors': a variance has no sign

    def combine(x, predicted, step):
        first, second = predicted(x, PROMPTS[0]), predicted(there(x), PROMPTS[1])
        return (first.prediction + back(second.prediction)) / 2, (first.variance + of_variance(second.variance)) / 2

    torch.testing.assert_close(
        drawn(family, 2, illusion="anagram", view=["identity", view]), by_formula(family, combine), **EXACT
    )


def test_an_anagram_may_have_three_views(family):
    quarter, half = (lambda x: x.rot90(-1, (2, 3)), lambda x: x.rot90(1, (2, 3))), (lambda x: x.flip(2, 3),) * 2

    def combine(x, predicted, step):
        first, second, third = predicted(x, "a dog"), predicted(quarter[0](x), "a cat"), predicted(half[0](x), "a fox")
        noises = first.prediction, quarter[1](second.prediction), half[1](third.prediction)
        return sum(noises) / 3, (first.variance + quarter[1](second.variance) + half[1](third.variance)) / 3

    found = drawn(family, 3, illusion="anagram", view=["identity", "rotate_90_cw", "rotate_180"])
    torch.testing.assert_close(found, by_formula(family, combine), **EXACT)


def test_an_alternating_anagram_takes_one_view_a_step(family):
    def combine(x, predicted, step):
        if step % 2 == 0:
            return predicted(x, "a dog").prediction, predicted(x, "a dog").variance
        output = predicted(x.flip(2), "a cat")
        return output.prediction.flip(2), output.variance.flip(2)

    found = drawn(family, 2, illusion="alternating_anagram", view=["identity", "flip"])
    torch.testing.assert_close(found, by_formula(family, combine), **EXACT)


def test_looking_glass_takes_the_variance_of_each_view(family):
    """Chang et al. 2025, algorithm 1, without an autoencoder: each view has its own pixels, noise and variance."""
    generator = torch.Generator().manual_seed(SEED)
    xs = [normal(generator), normal(generator)]
    for t in TIMESTEPS:
        now, before = levels(family, t)
        outputs = [predicted(family, x, prompt, t) for x, prompt in zip(xs, PROMPTS, strict=False)]
        clean = [(x - (1 - now).sqrt() * each.prediction) / now.sqrt() for x, each in zip(xs, outputs, strict=True)]
        one = blended([clean[0], clean[1].flip(2)], 0.25)
        noises = [(x - now.sqrt() * seen) / (1 - now).sqrt() for x, seen in zip(xs, (one, one.flip(2)), strict=True)]
        xs = [stepped(xs[i], noises[i], outputs[i].variance, now, before, generator) for i in range(2)]
    found = drawn(family, 2, illusion="looking_glass", view=["identity", "flip"])
    torch.testing.assert_close(found, xs[0], rtol=0, atol=1e-9)


def low(x: Tensor) -> Tensor:
    return gaussian(x, 2.0, 33)


def moved(x: Tensor) -> Tensor:
    """The mean over three pixels of a diagonal, mirrored at the edges: what 7 pixels at height 64 are at 16."""
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="reflect")
    return sum(padded[..., i : i + SIDE, i : i + SIDE] for i in range(3)) / 3


def grey(x: Tensor) -> Tensor:
    return x.mean(1, keepdim=True).expand_as(x)


PARTS = {
    "hybrid": (low, lambda x: x - low(x)),
    "triple": (
        lambda x: gaussian(gaussian(x, 1.0, 25), 2.0, 25),
        lambda x: gaussian(x, 1.0, 25) - gaussian(gaussian(x, 1.0, 25), 2.0, 25),
        lambda x: x - gaussian(x, 1.0, 25),
    ),
    "colour": (grey, lambda x: x - grey(x)),
    "motion": (moved, lambda x: x - moved(x)),
}  # fmt: skip


@pytest.mark.parametrize("illusion", PARTS)
def test_a_factorised_illusion_is_the_formula(family, illusion):
    """Geng, Park & Owens 2024, "Factorized Diffusion": each noise gives its component, the variance is the mean."""

    def combine(x, predicted, step):
        outputs = [predicted(x, prompt) for prompt in PROMPTS[: len(PARTS[illusion])]]
        noise = sum(part(output.prediction) for part, output in zip(PARTS[illusion], outputs, strict=True))
        return noise, sum(output.variance for output in outputs) / len(outputs)

    found = drawn(family, len(PARTS[illusion]), illusion=illusion)
    torch.testing.assert_close(found, by_formula(family, combine), **EXACT)


@pytest.mark.parametrize(("illusion", "name", "part"), [("hybrid", "low", low), ("colour", "grey", grey)])
def test_a_component_of_a_real_image_is_kept(family, illusion, name, part):
    """The same paper, inverse hybrids: after each step, a component of x becomes that of the image, noised to the same level."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
    real = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float().div(127.5).sub(1).double()

    def combine(x, predicted, step):
        output = predicted(x, "a dog")
        return output.prediction, output.variance

    def keep(x, level, generator):
        noise = normal(generator)
        return x - part(x) + part(real if level == 1 else level.sqrt() * real + (1 - level).sqrt() * noise)

    found = drawn(family, 1, illusion=illusion, image=image, image_part=name)
    torch.testing.assert_close(found, by_formula(family, combine, keep), **EXACT)


def test_an_anagram_in_two_stages_sees_the_enlarged_image_by_each_view(tmp_path):
    """Of DeepFloyd IF: half of the second stage's inputs are of the image upside down, and so are all six channels of it."""
    pipeline = load_pipeline(str(tiny_deepfloyd_if(tmp_path / "two", stage=2)))
    inputs, predict = [], pipeline.family.predict
    pipeline.family.predict = lambda latents, *others: inputs.append(latents) or predict(latents, *others)
    asked = InferenceSettings(prompt=PROMPTS[:2], illusion="anagram", view=["identity", "rotate_180"])
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    pipeline.generate(
        PROMPTS[:2], composition=composition(asked, pipeline), seeds=SEED, num_inference_steps=2, guidance_scale=1.0,
        low_res_image=image,
    )  # fmt: skip
    for latents in inputs:
        assert latents.shape == (2, 6, 16, 16) and torch.equal(latents[0], latents[1].flip(1, 2))


DIGITS = ["--pretrained_model_name_or_path", "digits", "--prompt", "6", "--prompt", "9", "--num_inference_steps", "1"]


def test_the_command_draws_an_anagram_of_digits_without_a_warning_about_latents(tmp_path, capsys):
    words = [*DIGITS, "--illusion", "anagram", "--view", "identity", "--view", "rotate_180", "--output_dir", str(tmp_path)]
    assert commands.infer(words) == 0
    told = capsys.readouterr()
    assert "latents" not in told.out + told.err and (tmp_path / "000-illusion.gif").exists()


@pytest.mark.parametrize(
    ("words", "what"),
    [(["--illusion", "anagram", "--view", "identity", "--view", "negate"], "negate changes colours"),
     (["--illusion", "colour"], "colour does not fit a base model of grey images")],
)  # fmt: skip
def test_digits_have_no_colours(words, what, tmp_path, capsys):
    assert commands.infer([*DIGITS, *words, "--output_dir", str(tmp_path / "out")]) == 2
    assert what in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_latents_are_warned_of(tiny_v, tmp_path, capsys):
    words = ["--pretrained_model_name_or_path", str(tiny_v), "--num_inference_steps", "1", "--no_illusion_gif"]
    words += ["--prompt", "a dog", "--prompt", "a cat", "--illusion", "anagram", "--view", "identity", "--view", "flip"]
    assert commands.infer([*words, "--output_dir", str(tmp_path)]) == 0
    told = capsys.readouterr()
    assert "autoencoders are not equivariant" in told.out + told.err and not (tmp_path / "000-illusion.gif").exists()
