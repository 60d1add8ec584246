"""Training with `clip_skip`: the text of each sample is that of an earlier layer; the result says so."""

import json
import shlex

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from kit import METHODS, prepared, settings_for, write_images
from models import tiny_stable_diffusion_xl

from customize.cli.main import read
from customize.errors import InputError
from customize.inference.run.generate import trained_otherwise
from customize.methods import DreamBoothSettings
from customize.settings.inference import InferenceSettings
from customize.training import class_images, model_card, preflight, summary
from customize.weights.learned_weights import find_learned


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), 2)


@pytest.fixture(scope="module")
def base_xl(tmp_path_factory):
    return tiny_stable_diffusion_xl(tmp_path_factory.mktemp("models") / "tiny_xl")


def by_hand(base, prompt, clip_skip):
    """The text of Stable Diffusion 1.x: an earlier layer, then the last norm. (Stock fails here with transformers 5.)"""
    stock = StableDiffusionPipeline.from_pretrained(base)
    ids = stock.tokenizer(prompt, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return stock.text_encoder.final_layer_norm(stock.text_encoder(ids, output_hidden_states=True).hidden_states[-1 - clip_skip])


def by_stock(base, prompt, clip_skip):
    stock = StableDiffusionXLPipeline.from_pretrained(base)
    return stock.encode_prompt(prompt, do_classifier_free_guidance=False, clip_skip=clip_skip)[0]


@torch.no_grad()
@pytest.mark.parametrize("encoders", [False, True], ids=["frozen", "learning"])
@pytest.mark.parametrize("xl", [False, True], ids=["1.x", "xl"])
def test_the_text_is_that_of_an_earlier_layer(xl, encoders, images, tiny_epsilon, base_xl, tmp_path):
    base, expected = (base_xl, by_stock) if xl else (tiny_epsilon, by_hand)
    settings = settings_for("lora", base, images, tmp_path / "run", clip_skip=1, train_text_encoder=encoders)
    _, training = prepared(settings)
    prompt = training.dataset.deal(0, [0])[0].prompts[0]
    found = training.method.condition([prompt]).tensors["encoder_hidden_states"]
    torch.testing.assert_close(found, expected(base, prompt, 1))
    assert (found - expected(base, prompt, 0)).abs().max() > 0.01


@pytest.mark.parametrize(("xl", "layers"), [(False, 2), (True, 3)], ids=["1.x", "xl"])
def test_too_many_layers_are_refused_before_the_model_is_loaded(xl, layers, images, tiny_epsilon, base_xl, tmp_path):
    settings = settings_for("lora", base_xl if xl else tiny_epsilon, images, tmp_path / "run", clip_skip=layers)
    with pytest.raises(InputError, match=f"(?s)clip_skip: {layers} is too many: .* use at most {layers - 1}"):
        preflight.check(settings)
    preflight.check(settings.model_copy(update={"clip_skip": layers - 1}))


@pytest.mark.parametrize("method", METHODS)
def test_it_is_part_of_a_run_and_of_its_result(method, images, tiny_epsilon, tmp_path):
    settings = settings_for(method, tiny_epsilon, images, tmp_path / "run", clip_skip=1)
    context, training = prepared(settings)
    assert ("next", True) in [(name, "--clip_skip 1" in text) for name, text in summary.next_rows(settings, tmp_path / "run")]
    metadata = model_card.metadata(settings, training.method, context.family, 2)
    (tmp_path / "run").mkdir()
    files = training.method.save(tmp_path / "run", metadata)
    if method != "full":
        learned = find_learned(str(tiny_epsilon), [(tmp_path / "run", 1.0)]).files
        assert [note.split(": ")[0] for note in trained_otherwise(learned, None)] == [
            f"{file} was trained with clip_skip 1, and is used with 0" for file in files if "kohya" not in file.name
        ]
        assert not list(trained_otherwise(learned, 1))


@pytest.mark.parametrize("method", METHODS)
def test_the_next_command_names_what_files_without_metadata_do_not_tell(method, images, tiny_v, tmp_path):
    changes = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "no_metadata": True}
    settings = settings_for(method, tiny_v, images, tmp_path / "run", **changes)
    [command] = [text for name, text in summary.next_rows(settings, tmp_path / "run") if name == "next"]
    given, _ = read(InferenceSettings, shlex.split(command)[2:])
    known = method == "full"  # the result is a base model
    assert given.pretrained_model_name_or_path == (None if known else str(tiny_v))
    assert given.rescale_betas_zero_snr == (None if known else True)
    assert (given.prediction_type, given.timestep_spacing) == ((None, None) if known else ("v_prediction", "trailing"))
    context, training = prepared(settings)
    card = model_card.usage("mine", json.loads(model_card.metadata(settings, training.method, context.family, 2)["customize"]))
    assert (f"--pretrained_model_name_or_path {tiny_v.name} " in card) == (not known)


def test_class_images_are_made_with_it(images, tiny_epsilon, tmp_path, monkeypatch):
    asked = []
    generate = class_images.Pipeline.generate
    monkeypatch.setattr(class_images.Pipeline, "generate", lambda *a, **k: asked.append(k["clip_skip"]) or generate(*a, **k))
    prior = {
        "prior_preservation": "images",
        "class_prompt": "a dog",
        "num_class_images": 1,
        "class_data_dir": str(tmp_path / "c"),
    }
    prepared(settings_for("lora", tiny_epsilon, images, tmp_path / "run", clip_skip=1, sample_inference_steps=1, **prior))
    assert asked == [1]


def test_the_flag_counts_as_in_diffusers():
    given = ["--instance_prompt", "sks", "--instance_data_dir", "dogs", "--clipskip", "1"]
    assert read(DreamBoothSettings, given)[0].clip_skip == 1
