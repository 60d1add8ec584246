"""Sample images show the trained concept: prompts are derived from it, and given prompts without it are reported."""

import re
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from customize.cli import main
from customize.families import trigger_words
from customize.methods import DreamBoothSettings, TextualInversionSettings
from customize.settings.rules.rule import text_is_no_path
from customize.settings.training_parts.validation_prompts import images_per_prompt, sample_prompts
from customize.training.setup import RunContext


def dreambooth(prompt, **changes):
    return DreamBoothSettings(instance_prompt=prompt, instance_data_dir="photos", **changes)


def words(*tokens, **changes):
    values = {"placeholder_token": tokens, "initializer_token": ("toy",), "train_data_dir": ("photos",), **changes}
    return TextualInversionSettings(**values)


@pytest.mark.parametrize(
    ("prompt", "second"),
    [
        ("sks cat", "sks cat on the beach"),
        ("a photo of sks dog", "a photo of sks dog on the beach"),
        ("a photo of sks dog.", "a photo of sks dog on the beach"),
        ("photo of ohwx man, smiling", "photo of ohwx man, smiling, on the beach"),
        ("a sks toy on the beach", "a sks toy on the beach in the snow"),
        ("写真 sks 猫", "写真 sks 猫, on the beach"),
        ("фото sks кошки", "фото sks кошки, on the beach"),
        ("<cat-toy>", "<cat-toy> on the beach"),
    ],
)
def test_prompts_are_made_from_the_instance_prompt(prompt, second):
    assert sample_prompts(dreambooth(prompt)) == (prompt, second)


def test_a_prompt_that_fills_the_text_encoder_is_used_alone():
    long = "a photo of sks dog " + "wow " * 14
    assert sample_prompts(dreambooth(long)) == (long,)


@pytest.mark.parametrize(
    ("settings", "prompts"),
    [
        (words("<t>"), ("a photo of <t>", "a photo of <t> on the beach")),
        (words("<t>", learnable_property="style"), ("a house in the style of <t>", "a fox in the forest in the style of <t>")),
        (words("<a>", "<b>"), ("a photo of <a>", "a photo of <b>")),
        (words("<a>", "<b>", learnable_property="style"), ("a house in the style of <a>", "a house in the style of <b>")),
        (words(*"abcdef"), ("a photo of a", "a photo of b", "a photo of c", "a photo of d")),
        (words("<t>", num_vectors=(75,)), ("<t>",)),
        (words("<a>", "<b>", num_vectors=(1, 70)), ("a photo of <a>", "<b>")),
        (words("猫"), ("a photo of 猫", "a photo of 猫 on the beach")),
        (words("{}"), ("a photo of {}", "a photo of {} on the beach")),
    ],
)
def test_prompts_are_made_from_the_new_words(settings, prompts):
    assert sample_prompts(settings) == prompts


def test_given_prompts_are_taken_each_once_and_may_name_settings():
    given = ("a sks dog", "{instance_prompt} in a bucket", "a sks dog", "{a|b}")
    assert sample_prompts(dreambooth("a zwx cat", validation_prompt=given)) == ("a sks dog", "a zwx cat in a bucket", "{a|b}")
    assert sample_prompts(words("<t>", "<u>", validation_prompt=("x {placeholder_token}",))) == ("x <t>",)


def test_none_means_no_samples_and_survives_the_file(tmp_path):
    flags = ["--instance_prompt", "a sks dog", "--instance_data_dir", "photos"]
    for off in (["--validation_prompt", "none"], ["--validation_prompt=None"]):
        settings, _ = main.read(DreamBoothSettings, [*flags, *off])
        assert settings.validation_prompt == () and sample_prompts(settings) == ()
        (tmp_path / "a.toml").write_text(settings.to_toml())
        assert main.read(DreamBoothSettings, [str(tmp_path / "a.toml")])[0] == settings
    settings, _ = main.read(DreamBoothSettings, flags)
    (tmp_path / "b.toml").write_text(settings.to_toml())
    assert main.read(DreamBoothSettings, [str(tmp_path / "b.toml")])[0].validation_prompt is None
    assert main.read(DreamBoothSettings, [*flags, "--validation_prompt", "none of it", "none"])[0].validation_prompt == (
        "none of it", "none",
    )  # fmt: skip


def test_how_many():
    assert images_per_prompt(dreambooth("a sks dog")) == 1
    assert images_per_prompt(dreambooth("a sks dog", num_validation_images=3)) == 3
    assert images_per_prompt(dreambooth("a sks dog", validation_prompt=("a sks dog",))) == 4


@pytest.mark.parametrize(
    ("changes", "device", "parameters", "steps", "prompts"),
    [
        ({}, "cpu", 10**6, 400, 2), ({"max_train_steps": 7}, "cpu", 10**6, 4, 2), ({"max_train_steps": 1}, "cpu", 10**6, 1, 2),
        ({"num_train_epochs": 3}, "cpu", 10**6, 8, 2), ({}, "cpu", 860 * 10**6, 400, 1), ({}, "cuda", 860 * 10**6, 400, 2),
        ({"validation_steps": 30}, "cpu", 10**6, 30, 2), ({"validation_epochs": 2}, "cpu", 10**6, 10, 2),
        ({"validation_prompt": ("a sks dog", "a dog")}, "cpu", 860 * 10**6, 100, 2),
        ({"validation_prompt": ()}, "cpu", 1, 100, 0),
    ],
)  # fmt: skip
def test_when_and_of_which_prompts_samples_are_drawn(changes, device, parameters, steps, prompts):
    accelerator = SimpleNamespace(device=SimpleNamespace(type=device), num_processes=1)
    denoiser = SimpleNamespace(parameters=lambda: [SimpleNamespace(numel=lambda: parameters)])
    family, image = SimpleNamespace(denoiser=denoiser, resolution=64), SimpleNamespace(size=(64, 64), repeats=1)
    settings = dreambooth("a sks dog", **changes)
    context = RunContext(settings, accelerator, family, SimpleNamespace(instances=(image,) * 5), 0)
    assert (context.validation_steps, len(context.sample_prompts)) == (steps, prompts)


@pytest.mark.parametrize(
    ("prompt", "of_class", "rare"),
    [
        ("a photo of sks dog", None, ("sks",)), ("sks cat", None, ("sks",)), ("a photo of zwx cat", None, ("zwx",)),
        ("photo of ohwx man, smiling", None, ("ohwx",)), ("a photo of rex dog", None, ("rex",)),
        ("a photo of luna", None, ("luna",)), ("a photo of my dog", "a photo of dog", ("my",)), ("dog", "dog", ("dog",)),
        ("a photo of a sks teapot", "a photo of a teapot", ("sks",)), ("a photo of sks teapot", None, ("sks", "teapot")),
        ("写真 sks 猫", None, ("写真", "sks", "猫")), ("<cat-toy>", None, ("cat-toy",)), ("!!!", None, ()),
        ("A photo of SKS Dog", None, ("sks",)),
    ],
)  # fmt: skip
def test_rare_words(prompt, of_class, rare):
    assert trigger_words.rare_words(prompt, of_class) == rare


@pytest.mark.parametrize(
    ("prompt", "calls"),
    [
        ("a photo of sks dog on the beach", True), ("SKS in a hat", True), ("sks, smiling", True), ("(sks:1.2) toy", True),
        ("a photo of dog", False), ("risks of tasks", False), ("sks-like", False), ("", False),
    ],
)  # fmt: skip
def test_calls(prompt, calls):
    assert trigger_words.calls(prompt, ("sks",)) == calls


def test_scripts_without_blanks():
    assert trigger_words.calls("我的猫在海滩上", ("我的猫",)) and not trigger_words.calls("一只狗", ("我的猫",))


@pytest.mark.parametrize(
    ("settings", "reported"),
    [
        (dreambooth("a photo of zwx cat", validation_prompt=("a photo of sks dog on the beach",)), "zwx from instance_prompt"),
        (dreambooth("a photo of zwx cat", validation_prompt=("a zwx cat", "a dog")), None),
        (dreambooth("a photo of zwx cat", validation_prompt=("{instance_prompt} on a hill",)), None),
        (dreambooth("a photo of zwx cat", validation_prompt=()), None),
        (dreambooth("a photo of zwx cat"), None),
        (dreambooth("!!!", validation_prompt=("a dog",)), None),
        (words("<my-cat>", validation_prompt=("a photo of <cat>",)), "<my-cat> from placeholder_token"),
        (words("<my-cat>", validation_prompt=("a photo of <MY-CAT>",)), None),
        (words("<a>", "<b>", validation_prompt=("a photo of <b>",)), None),
        (words("<a>", "<b>", validation_prompt=("a photo of b",)), "<a> or <b> from placeholder_token"),
    ],
)
def test_prompts_without_the_subject_are_reported(settings, reported):
    found = [note for note in settings.notes() if "validation_prompt" in note]
    assert len(found) == (reported is not None)
    if reported:
        assert f"no validation_prompt contains {reported}: sample images will not show what is learned" in found[0]


@pytest.mark.parametrize("name", ["demo_dreambooth", "demo_dreambooth_lora", "sd15_dreambooth_lora_8gb", "sd15_dreambooth_24gb"])
def test_the_prompts_of_a_configuration_follow_its_subject(name):
    settings, found = main.read(DreamBoothSettings, [f"configs/{name}.toml", "--instance_prompt", "a photo of zwx cat"])
    assert trigger_words.any_calls(sample_prompts(settings), ("zwx",)) and not any("validation_prompt" in note for note in found)


@given(
    st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=60).filter(
        lambda text: text.strip() and not [*text_is_no_path("instance_prompt").problems(text)]
    )
)
def test_any_instance_prompt_contains_its_trigger(prompt):
    settings = dreambooth(prompt)
    made = sample_prompts(settings)
    assert made[0] == prompt and len(made) <= 2 and all(len(each.encode()) <= 70 for each in made[1:])
    rare = trigger_words.rare_words(prompt)
    assert not rare or trigger_words.any_calls(made, rare)
    assert bool(rare) == bool(re.search(r"\w", prompt))
    assert not [note for note in dreambooth(prompt, validation_prompt=made).notes() if "sample images" in note]
