"""Estimates of prompts: weights, changes, AND, and long prompts, against direct formulas."""

from types import SimpleNamespace

import pytest
import torch
from kit import conditioning, hidden_states

from customize import families
from customize.errors import InputError
from customize.inference.estimates import Conditional, Guided
from customize.inference.pipeline import Pipeline
from customize.inference.prompt_estimates import Changing, InterpolatedPrompt, prompt_estimate

OPTIONS = {"num_inference_steps": 4, "scheduler": "DDIMScheduler", "output_type": "latent", "seeds": 2}


@pytest.fixture(scope="module")
def pipeline(tiny_epsilon) -> Pipeline:
    return Pipeline(families.load(families.locate(str(tiny_epsilon))))


def encoded(pipeline, *texts):
    family = pipeline.family
    return torch.cat([hidden_states(family.encode_prompts([text])) for text in texts])


def step(index, count):
    return SimpleNamespace(index=index, count=count)


def test_a_plain_prompt_is_encoded_bit_for_bit_as_before(pipeline):
    estimate = pipeline.estimate(["a dog", "a red cat"], ["", "small"], [3.0, 1.0], 5)
    assert isinstance(estimate, Guided) and estimate.scale.flatten().tolist() == [3, 1]
    assert torch.equal(hidden_states(estimate.positive.conditioning), encoded(pipeline, "a dog", "a red cat"))
    assert torch.equal(hidden_states(estimate.negative.conditioning), encoded(pipeline, "", "small"))
    alone = pipeline.estimate(["a dog"], ["small"], [1.0], 5)
    assert isinstance(alone, Conditional)


def test_a_changing_prompt_uses_each_text_at_its_steps(pipeline):
    estimate = pipeline.estimate(["a [dog:cat:0.5]", "a [dog|cat|car]"], [""], [1.0], 6)
    assert isinstance(estimate, Changing)
    expected = [("a dog", "a dog"), ("a dog", "a cat"), ("a dog", "a car"), ("a cat", "a dog"), ("a cat", "a cat")]
    for index, texts in enumerate(expected):
        found = hidden_states(estimate.now(step(index, 6)).conditioning)
        assert torch.equal(found, encoded(pipeline, *texts)), index
    assert estimate.now(step(5, 12)) is estimate.now(step(2, 6))  # a scheduler of second order asks twice a step


def test_and_is_the_sum_of_differences_from_the_negative(pipeline):
    """Composable Diffusion, equation 11, in one step; a picture without AND beside it is as it is alone."""
    generate, family = pipeline.generate, pipeline.family
    options = {**OPTIONS, "num_inference_steps": 1, "guidance_scale": 3.0, "negative_prompt": "small"}
    seen = []
    both = generate(["a dog :1.5 AND a red car :-0.5", "a cat"], record=seen.append, **options)
    latents, timestep = seen[0].model_input[:1], seen[0].step.timestep
    negative, dog, car = (
        family.predict(latents, timestep[None], conditioning(encoded(pipeline, text))).prediction
        for text in ("small", "a dog", "a red car")
    )
    expected = negative.double() + 3 * (1.5 * (dog - negative).double() - 0.5 * (car - negative).double())
    torch.testing.assert_close(seen[0].noise[:1].double(), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(both[1:], generate("a cat", **options), rtol=0, atol=1e-4)


def test_prompts_of_different_lengths_go_together(pipeline):
    long = "a photo of a " + "small red " * 60 + "dog"
    estimate = pipeline.estimate([long, "a dog"], ["", "small"], [2.0, 2.0], 3)
    shape = hidden_states(estimate.positive.conditioning).shape
    assert shape == hidden_states(estimate.negative.conditioning).shape and shape[1] == 2 * 77
    found = pipeline.generate([long, "a dog"], guidance_scale=2.0, **OPTIONS)
    assert found.isfinite().all() and not torch.allclose(found[0], found[1])


def test_invalid_combinations_are_refused(pipeline):
    with pytest.raises(InputError, match="negative"):
        pipeline.generate("a dog", negative_prompt="a AND b", **OPTIONS)
    with pytest.raises(InputError, match="between two prompts"):
        pipeline.generate([InterpolatedPrompt("a AND b", "c", 0.5)], **OPTIONS)
    with pytest.raises(InputError, match="not closed"):
        pipeline.generate("a (dog", **OPTIONS)
    plain = pipeline.generate("a (dog AND b", plain_prompt=True, **OPTIONS)
    states = encoded(pipeline, "a (dog AND b")
    estimate = prompt_estimate(pipeline.conditioning, ["a (dog AND b"], [""], torch.ones(1, 1, 1, 1), 3, plain=True)
    assert torch.equal(hidden_states(estimate.conditioning), states) and plain.isfinite().all()
