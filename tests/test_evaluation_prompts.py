"""The prompts of probe pictures, made from what a run teaches."""

from pathlib import Path

import pytest

from customize import DreamBoothSettings, TextualInversionSettings
from customize.data.example import Example
from customize.evaluation.photos import of_concept
from customize.evaluation.probe_prompts import FIRST_SEED, OTHERS, SCENES, pairs, probe_prompts
from customize.settings.concept import Concept

FOLDER = "customize/demo/examples/subject"


@pytest.mark.parametrize(
    "values, expected",
    [
        (dict(instance_prompt="a photo of sks dog"), Concept("object", "a photo of sks dog", "a photo of dog", "sks", "dog")),
        (
            dict(instance_prompt="a sks toy", class_prompt="an animal", prior_preservation="teacher", adapter="lora"),
            Concept("object", "a sks toy", "an animal", "sks", "animal"),
        ),
        (
            dict(instance_prompt="a photo of sks woman"),
            Concept("person", "a photo of sks woman", "a photo of woman", "sks", "woman"),
        ),
        (dict(instance_prompt="a photo of sks"), Concept("object", "a photo of sks", "a photo of sks", "sks", "sks")),
        (
            dict(instance_prompt="a photo of sks", class_prompt="a photo of dog"),  # nothing is preserved
            Concept("object", "a photo of sks", "a photo of dog", "sks", "dog"),
        ),
        (dict(instance_prompt="a toy"), Concept("object", "a toy", "a toy", "toy", "toy")),
        (dict(instance_prompt="a painting in sks style"), Concept("style", "in sks style", "", "sks", "")),
        (
            dict(placeholder_token=("<cat>",), initializer_token=("cat",), adapter="lora"),
            Concept("object", "a photo of <cat>", "a photo of cat", "<cat>", "cat"),
        ),
    ],
)
def test_a_concept_is_read_from_the_settings_of_dreambooth(values, expected):
    assert DreamBoothSettings(instance_data_dir=FOLDER, **values).concepts == (expected,)


def test_a_concept_is_read_from_the_settings_of_textual_inversion():
    own = dict(train_data_dir=(FOLDER,), placeholder_token=("<dusk>",), initializer_token=("cat",))
    assert TextualInversionSettings(**own).concepts == (
        Concept("object", "a photo of <dusk>", "a photo of cat", "<dusk>", "cat"),
    )
    [style] = TextualInversionSettings(**own, learnable_property="style").concepts
    assert style == Concept("style", "in the style of <dusk>", "", "<dusk>", "")


def test_prompts_of_a_subject():
    concept = Concept("object", "a photo of sks cat", "a photo of cat", "sks", "cat")
    found = probe_prompts(concept, ("a sks cat in oil", "a boat", "a cat", "a boat"))
    assert [each.text for each in found if each.kind == "concept"][:4] == [f"a photo of sks cat {scene}" for scene in SCENES]
    assert [each.plain for each in found if each.kind == "concept"][4:] == ["a cat in oil"]
    assert [each.text for each in found if each.kind == "class"] == [f"a photo of cat {scene}" for scene in SCENES]
    assert [each.text for each in found if each.kind == "other"] == [*OTHERS[1:], "a boat"]


def test_a_prompt_of_the_user_is_said_without_the_trigger_whatever_its_case():
    found = probe_prompts(
        Concept("object", "a photo of SKS cat", "a photo of cat", "sks", "cat"), ("Sks CAT in oil", "SKS in ink")
    )
    assert [each.plain for each in found if each.kind == "concept"][4:] == ["cat in oil", "cat in ink"]
    no_words = probe_prompts(Concept("object", "🦊", "🦊", "", "🦊"), ("a boat",))
    assert (no_words[-1].kind, no_words[-1].plain) == ("other", "a boat")


def test_a_concept_without_other_words_has_no_pictures_of_its_class():
    kinds = [each.kind for each in probe_prompts(Concept("object", "a toy", "a toy", "toy", "toy"))]
    assert "class" not in kinds and kinds.count("other") == len(OTHERS)


def test_every_prompt_of_the_concept_has_several_seeds():
    prompts = probe_prompts(Concept("style", "in the style of <x>", "", "<x>", ""))
    found = pairs(prompts, 3)
    assert [sum(pair.prompt == place for pair in found) for place in range(len(prompts))] == [3] * 4 + [1] * 4
    assert {pair.seed for pair in found} == {FIRST_SEED, FIRST_SEED + 1, FIRST_SEED + 2}


def test_pictures_are_compared_with_the_images_of_their_concept():
    """Two words, an image of each; a word that no caption has leaves all images."""
    names = {"cat.png": "a photo of <Cat>", "dog.png": "a photo of <dog>"}
    examples = [Example(name, (text,), "instance", Path(name), (8, 8), name) for name, text in names.items()]
    for trigger, expected in {"<cat>": ["cat.png"], "<dog>": ["dog.png"], "<fox>": ["cat.png", "dog.png"]}.items():
        concept = Concept("object", f"a photo of {trigger}", "a photo of animal", trigger, "animal")
        assert [example.name for example in of_concept(examples, concept)] == expected
