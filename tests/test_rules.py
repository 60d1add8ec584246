"""Rules that join settings: which are checked, which are skipped, and that none is forgotten."""

import inspect

import pytest

from customize.cli.flags.settings_by_command import MODELS
from customize.errors import Problem
from customize.methods import DreamBoothSettings, TextualInversionSettings, dreambooth_settings, textual_inversion_settings
from customize.settings.field import table
from customize.settings.inference import InferenceSettings
from customize.settings.rules import inference_rules, training_rules
from customize.settings.rules import rule as common
from customize.settings.rules.rule import Rule, broken, rule


@pytest.mark.parametrize("model", MODELS)
def test_a_rule_declares_its_settings_in_order(model):
    """Else it would be skipped for ever."""
    assert len(set(model.rules)) == len(model.rules) > 5
    for each in model.rules:
        assert set(each.needs) <= table(model).keys(), each
        parameters = inspect.signature(each.problems).parameters.values()
        assert len(parameters) == len(each.needs) or any(one.kind is one.VAR_POSITIONAL for one in parameters)
        for name, parameter in zip(each.needs, parameters, strict=False):
            assert parameter.name not in table(model) or parameter.name == name, each


def test_every_rule_belongs_to_a_command():
    modules = (common, training_rules, inference_rules, dreambooth_settings, textual_inversion_settings)
    declared = {each.problems for module in modules for each in vars(module).values() if isinstance(each, Rule)}
    assert declared <= {each.problems for model in MODELS for each in model.rules} and len(declared) > 20


def test_a_rule_is_skipped_if_a_setting_it_needs_is_invalid():
    seen = []

    @rule("num_images", "seed")
    def check(*values):
        seen.append(values)
        yield Problem("seed", "is what it is", "leave it")

    lines = table(InferenceSettings)
    [problem] = broken([check], lines, {"num_images": 3}, faulty=())
    assert problem.where == "seed" and seen == [(3, 0)]
    assert broken([check], lines, {"num_images": 3}, faulty={"seed"}) == [] and len(seen) == 1
    assert broken([Rule(("rank",), check.problems)], lines, {}, faulty=()) == [] and len(seen) == 1


def test_one_faulty_setting_hides_no_problem_of_others():
    given = {"prompt": "", "scheduler": "no such sampler", "num_images": 0, "seed": 2**64 - 1, "chain": 2, "image": "cat.png",
             "mask_image": "mask.png", "sweep": "seed=1,2"}  # fmt: skip
    found = [(each.where, each.what) for each in InferenceSettings.examine(given)[1]]
    assert [where for where, _ in found].count("chain") == 2
    assert {"prompt", "scheduler", "num_images", "chain"} == {where for where, _ in found}
    given = {"placeholder_token": ["<a>", "<b>"], "initializer_token": ["a", "b", "c"], "num_vectors": ["x", 2, 3], "rank": 3}
    found = [each.where for each in TextualInversionSettings.examine(given)[1]]
    assert sorted(found) == ["initializer_token", "num_vectors", "rank", "train_data_dir"]


def test_settings_without_effect_are_reported_once():
    given = {"instance_prompt": "a photo of sks dog", "instance_data_dir": "dogs", "lora_targets": "to_q", "class_data_dir": None}
    [problem] = DreamBoothSettings.examine(given)[1]
    assert problem.where == "lora_targets" and problem.what == "has no effect without a value for adapter"
    settings = DreamBoothSettings(**{**given, "adapter": "lora"})
    assert settings.has_effect("lora_targets") and not settings.has_effect("class_data_dir") and settings.has_effect("seed")


def test_a_note_is_not_a_problem():
    settings = DreamBoothSettings(
        instance_prompt="a photo of sks dog", instance_data_dir="dogs", lr_warmup_steps=5, hub_model_id="me/dog",
        num_train_epochs=2, max_train_steps=10,
    )  # fmt: skip
    assert [note.split()[0] for note in settings.notes()] == ["lr_warmup_steps", "hub_model_id", "num_train_epochs"]
    assert InferenceSettings(prompt="a cat").notes() == []
