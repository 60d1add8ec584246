"""Notes on captions: each fault is found, and ten sets as people write them give no false alarm."""

import pytest

from customize.data.captions.caption_lint import common_phrases, is_sentence, is_tags
from customize.data.captions.caption_rule import Caption
from customize.data.captions.caption_templates import captions_for
from customize.data.findings import Findings
from customize.methods import DreamBoothSettings, TextualInversionSettings

PLACES = "on the beach,in the kitchen,under a tree,by the window,in the snow,on a red sofa,at night".split(",")
ACTS = "sitting,running,asleep,looking up,with a ball,jumping,eating".split(",")
DOG = DreamBoothSettings(instance_prompt="a photo of sks dog", instance_data_dir="x")
WOMAN = DreamBoothSettings(instance_prompt="ohwx woman", instance_data_dir="x")
TOY = TextualInversionSettings(placeholder_token=("<toy>",), initializer_token=("toy",), train_data_dir=("x",))
STYLE = DreamBoothSettings(instance_prompt="a drawing in zxc style", instance_data_dir="x")


def notes(settings, texts, **changes) -> list[str]:
    """The notes on these captions, one for each image."""
    rule = settings.model_copy(update=changes).caption_rule(0, 1)
    captions = {f"{number}.png": (Caption(text, f"{number}.txt"),) for number, text in enumerate(texts)}
    found = Findings()
    captions_for(rule, list(captions), captions, "photos", found)
    assert found.problems == [] and all(note.startswith("photos: ") for note in found.notes)
    return found.notes


GOOD = {
    "sentences": (DOG, [f"a photo of sks dog {act} {place}" for act, place in zip(ACTS, PLACES, strict=True)]),
    "the instance prompt alone": (DOG, ["a photo of sks dog"] * 8),
    "tags": (WOMAN, [f"ohwx woman, solo, {act}, {place}, white background" for act, place in zip(ACTS, PLACES, strict=True)]),
    "three of a kind": (DOG, ["sks dog, red collar, grass"] * 3),
    "a new word and its class": (TOY, [f"a photo of a <toy> toy {place}" for place in PLACES]),
    "a style": (STYLE, [f"a {what} in zxc style" for what in "fox,house,old man,river,tree,castle".split(",")]),
    "half with a collar": (DOG, [f"sks dog {place}" for place in PLACES] + [f"sks dog, red collar, {act}" for act in ACTS]),
    "long sentences": (
        WOMAN,
        [f"Portrait of ohwx woman, who is {act} {place}." for act, place in zip(ACTS, PLACES, strict=True)],
    ),
    "several per image": (DOG, [f"sks dog {place}" for place in PLACES] * 2),
    "a prefix of the settings": (DOG.model_copy(update={"caption_prefix": "sks dog, best quality,"}), PLACES),
}


@pytest.mark.parametrize("name", GOOD)
def test_no_false_alarm(name):
    assert notes(*GOOD[name]) == []


def test_phrases_that_are_learned_instead_of_the_trigger():
    captions = [f"sks dog with a red collar, {place}" for place in PLACES]
    (note,) = notes(DOG, [*captions, "sks dog asleep"])
    assert note.startswith("photos: 7 of 8 captions have 'red collar', so that these words learn it instead of sks;")
    assert "leave it out" in note
    found = notes(WOMAN, [f"ohwx woman, blue eyes, long hair, {act}" for act in ACTS])
    assert ["'blue eyes'" in found[0], "'long hair'" in found[1], len(found)] == [True, True, 2]
    (note,) = notes(TOY, [f"<toy> made of shiny green plastic {place}" for place in PLACES])
    assert "'shiny green plastic'" in note and "<toy>" in note


@pytest.mark.parametrize("having, alarm", [(7, False), (8, True)])
def test_eighty_percent_is_the_limit(having, alarm):
    texts = [f"sks dog, red collar, number {'abcdefghij'[n]}" for n in range(having)] + [f"sks dog {p}" for p in PLACES]
    assert bool(common_phrases(texts[:10], DOG.caption_rule(0, 1))) == alarm


def test_missing_triggers_are_counted_and_named():
    (note,) = notes(DOG, ["sks dog asleep", "a dog on grass", "SKS dog"])
    assert "sks from instance_prompt is in the captions of 2 of 3 images, but not of: 1.png; write it there, too" in note
    (note,) = notes(DOG, ["a dog asleep", "a dog on grass"])
    assert "no caption contains sks" in note and '--caption_prefix "a photo of sks dog,"' in note
    assert notes(DOG, ["a dog asleep", "a dog on grass"], caption_prefix="sks,") == []


def test_one_text_for_all_and_two_ways_of_writing():
    (note,) = notes(DOG, ["sks dog on grass"] * 4 + ["sks dog"])
    assert "4 of 5 captions are the same: 'sks dog on grass'; write what differs" in note
    (note,) = notes(DOG, [f"sks dog {act} {place} in the evening sun" for act, place in zip(ACTS, PLACES, strict=True)] + [
        f"sks dog, {act}, {place}" for act, place in zip(ACTS[::-1], PLACES, strict=True)])  # fmt: skip
    assert "6 of 14 captions are lists of tags, 7 are sentences" in note
    assert is_tags("sks dog, grass, day") and not is_tags("sks dog, a very long walk today, day")
    assert is_sentence("the dog sits on a chair, alone") and not is_sentence("dog, a cat")
