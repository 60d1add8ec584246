"""What the pictures of a run cost, and how many steps are examined for it. `test_evaluating.py` counts the evaluations."""

import pytest

from customize import DreamBoothSettings, TextualInversionSettings
from customize.evaluation.probe_prompts import probe_prompts
from customize.training.evaluating.cost import Cost, cost, number_of_candidates

FOLDER = "customize/demo/examples/subject"
SUBJECT = {"instance_data_dir": FOLDER, "instance_prompt": "a photo of sks dog"}
WORD = {"train_data_dir": (FOLDER,), "placeholder_token": ("<new>",), "initializer_token": ("dog",)}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (DreamBoothSettings(**SUBJECT), Cost(810, 564)),
        (DreamBoothSettings(**SUBJECT, init_weights="other.safetensors"), Cost(810 + 25 * 8, 564)),
        (TextualInversionSettings(**WORD), Cost(810, 564 - 25 * 8)),
        (TextualInversionSettings(**WORD, init_weights="other.safetensors"), Cost(810, 564 - 25 * 8)),
        (TextualInversionSettings(**WORD, learnable_property="style"), Cost(410, 200)),
        (DreamBoothSettings(**SUBJECT, sample_inference_steps=6), Cost(810 - 28 * 12, 564 - 20 * 12)),
    ],
    ids=["denoiser", "denoiser-from-weights", "word", "word-from-weights", "style", "fewer-steps"],
)
def test_evaluations_of_pictures(settings, expected):
    """20 pictures, 8 of which have no word that is learned; the class and its scenes are drawn once for the base model."""
    assert cost(settings, *settings.concepts, probe_prompts(*settings.concepts), 6) == expected


@pytest.mark.parametrize(("steps", "batch", "expected"), [(100, 1, 1), (800, 1, 2), (1022, 1, 4), (1021, 1, 3), (800, 4, 4)])
def test_pictures_cost_at_most_as_much_as_the_training(steps, batch, expected):
    """Unless a single step would cost more, or the number is given."""
    settings = DreamBoothSettings(**SUBJECT)
    training = settings.evaluations_per_sample * steps * batch
    found = number_of_candidates(settings, Cost(810, 564), training)
    assert found == expected and (found == 1 or 810 + found * 564 <= training)
    assert number_of_candidates(settings.model_copy(update={"num_candidates": 9}), Cost(810, 564), training) == 9


def test_prior_preservation_adds_to_the_training():
    """A second sample for each, and the prediction of the teacher for it."""
    kinds = {"none": 3, "images": 6, "teacher": 7}
    made = {kind: DreamBoothSettings(**SUBJECT).model_copy(update={"prior_preservation": kind}) for kind in kinds}
    assert {kind: settings.evaluations_per_sample for kind, settings in made.items()} == kinds
