"""Textual inversion in a tiny family with two text encoders of different widths, as SDXL has them."""

import json
import shutil
from copy import deepcopy

import pytest
import torch
from families_of_tests import TwoEncoders
from kit import context_of, settings_for, train_loop
from safetensors.torch import load_file, safe_open, save_file

from customize.errors import InputError
from customize.evaluation import verify_result
from customize.families import specs
from customize.inference.pipeline import Pipeline
from customize.inference.pipeline_loading import load_pipeline
from customize.methods import prepare
from customize.storage import checkpoint
from customize.training import model_card

NAMES = {"bundle_emb.<new>.clip_l": 32, "bundle_emb.<new>.clip_g": 16}
"""The widths of the vectors, by their names in checkpoints."""


@pytest.fixture(scope="module")
def base(tiny_epsilon, tmp_path_factory):
    """A folder that the family recognises; in it are the first encoder, the autoencoder and the scheduler."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(specs.SPECS, TwoEncoders.spec.name, TwoEncoders.spec)
        folder = shutil.copytree(tiny_epsilon, tmp_path_factory.mktemp("base") / "two")
        (folder / "two_encoders.json").write_text("{}")
        yield folder


@pytest.fixture(scope="module")
def trained(base, image_folder, tmp_path_factory):
    """(family, method, vectors before the first step, folder of the result, last state) of three steps."""
    folder = tmp_path_factory.mktemp("result")
    settings = settings_for("textual_inversion", base, image_folder, folder / "run", learning_rate=0.1, train_batch_size=2)
    context = context_of(TwoEncoders(base), settings)
    training = prepare(settings, context)
    method = training.method
    start = {name: tensor.detach().clone() for name, tensor in method.trainable_state_dict().items()}
    state = train_loop(settings, training, context.accelerator, 3)
    method.eval()
    method.save(folder, model_card.metadata(settings, method, context.family, 3))
    return context.family, method, start, folder, state


def picture(family):
    """The latents of an image under the new word."""
    return Pipeline(family).generate("a photo of <new>", num_inference_steps=3, seeds=2, output_type="latent")


def test_the_vectors_of_both_encoders_learn(base, image_folder, trained, tmp_path):
    family, method, start, _, _ = trained
    vectors = method.trainable_state_dict()
    assert {name: tensor.shape[-1] for name, tensor in vectors.items()} == NAMES
    assert all((tensor - start[name]).abs().max() > 0.05 for name, tensor in vectors.items())
    settings = settings_for("textual_inversion", base, image_folder, tmp_path / "run")
    training = prepare(settings, context_of(TwoEncoders(base), settings))
    training.method(training.dataset.deal(0, [0])[0]).sum().backward()
    assert all(tensor.grad.abs().max() > 0 for tensor in training.method.trainable_state_dict().values())
    report = method.report()
    assert "learned vectors of clip_l" in report and "learned vectors of clip_g" in report and report.count("<new>_1: norm") == 2
    assert [encoder.expand("<new>") for encoder in family.text_encoders] == ["<new> <new>_1"] * 2


def test_the_file_has_a_key_for_each_encoder_and_is_verified(trained):
    family, method, _, folder, _ = trained
    vectors = method.trainable_state_dict()
    tensors = load_file(folder / "learned_embeds.safetensors")
    assert tensors.keys() == {"clip_l", "clip_g"}
    assert all(torch.equal(tensors[key], vectors[f"bundle_emb.<new>.{key}"]) for key in tensors)
    before = picture(family)
    assert verify_result.check(folder, family, method.example_prompt, weights=vectors) < 1e-5
    assert torch.equal(picture(family), before)


@pytest.mark.parametrize("key", ["clip_l", "clip_g"])
def test_vectors_in_another_order_are_found(key, trained, tmp_path):
    family, method, _, folder, _ = trained
    file = folder / "learned_embeds.safetensors"
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    save_file({**tensors, key: tensors[key].flip(0).contiguous()}, tmp_path / file.name, metadata)
    with pytest.raises(OSError, match="does not reproduce the trained weights"):
        verify_result.check(tmp_path, family, method.example_prompt)


def test_the_loaded_file_samples_what_memory_does_to_the_bit(base, trained, tmp_path):
    family, _, _, folder, state = trained
    expected = picture(family)
    loaded = load_pipeline(str(base), [(folder, 1.0)])
    assert isinstance(loaded.family, TwoEncoders) and loaded.trigger_words == ("<new>",)
    assert torch.equal(picture(loaded.family), expected)
    kept = checkpoint.save(tmp_path / "checkpoints", state.checkpoint())
    assert torch.equal(picture(load_pipeline(str(base), [(kept, 1.0)]).family), expected)
    save_file(load_file(folder / "learned_embeds.safetensors"), tmp_path / "<new>.safetensors")  # as other programs name it
    assert torch.equal(picture(load_pipeline(str(base), [(tmp_path / "<new>.safetensors", 1.0)]).family), expected)
    half = load_pipeline(str(base), [(folder, 0.5)])
    for encoder in half.family.text_encoders:
        assert torch.equal(encoder.vectors["<new>"], 0.5 * family_vectors(family, encoder.name))
    half.weights.parts[0].set_scale(1.0)
    assert torch.equal(picture(half.family), expected)


def family_vectors(family, name):
    """The vectors of the word in the encoder of this name."""
    return next(encoder.vectors["<new>"] for encoder in family.text_encoders if encoder.name == name)


def test_a_run_begins_with_both_sets_of_vectors(base, image_folder, trained, tmp_path):
    _, method, _, folder, _ = trained
    settings = settings_for("textual_inversion", base, image_folder, tmp_path / "run", init_weights=str(folder))
    begun = prepare(settings, context_of(TwoEncoders(base), settings)).method.trainable_state_dict()
    assert begun.keys() == NAMES.keys()
    assert all(torch.equal(begun[name], tensor) for name, tensor in method.trainable_state_dict().items())


@pytest.mark.parametrize("keys", [("clip_l",), ("clip_l", "clip_g", "clip_h")])
def test_a_file_of_other_encoders_is_refused(keys, base, trained, tmp_path):
    tensors = {key: torch.zeros(1, {"clip_g": 16}.get(key, 32)) for key in keys}
    save_file(tensors, tmp_path / "x.safetensors", {"placeholder_token": "<x>", "customize": json.dumps({})})
    with pytest.raises(InputError, match="this base model takes clip_l, clip_g"):
        load_pipeline(str(base), [(tmp_path / "x.safetensors", 1.0)])


def test_a_single_encoder_takes_one_tensor_of_a_word(tiny_epsilon, tmp_path):
    tensors = {"clip_l": torch.zeros(1, 32), "t\x1b[0m": torch.zeros(1, 32)}
    save_file(tensors, tmp_path / "x.safetensors", {"placeholder_token": "<x>"})
    with pytest.raises(InputError, match="<x> has the vectors clip_l.*this base model takes those of one text encoder") as caught:
        load_pipeline(str(tiny_epsilon), [(tmp_path / "x.safetensors", 1.0)])
    assert "\x1b" not in str(caught.value)


def test_directions_keep_the_norm_of_each_vocabulary(base, image_folder, tmp_path):
    settings = settings_for(
        "textual_inversion", base, image_folder, tmp_path / "run", normalize_embedding=True, learning_rate=0.1
    )
    context = context_of(TwoEncoders(base), settings)
    training = prepare(settings, context)
    train_loop(settings, training, context.accelerator, 1)
    for encoder in context.family.text_encoders:
        norm = encoder.embeddings.norm(dim=-1).mean()
        torch.testing.assert_close(encoder.vectors["<new>"].detach().norm(dim=-1), norm.expand(2))
        name = encoder.tensor_name("<new>")
        assert (training.method.words.vectors[name] - training.method.words.start[name]).abs().max() > 1e-3


@torch.no_grad()
def test_another_second_encoder_changes_its_part_of_the_conditioning(base):
    family = TwoEncoders(base)
    other = deepcopy(family.text_encoder_2)
    for parameter in other.parameters():
        parameter.mul_(1.1)
    own, changed = (each.encode_prompts(["a dog"]) for each in (family, family.with_component("text_encoder_2", other)))
    same = own.tensors["encoder_hidden_states"] == changed.tensors["encoder_hidden_states"]
    assert same[..., :32].all() and not same[..., 32:].all()
