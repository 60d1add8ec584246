"""Pivotal tuning: new words and an adapter learned in one run."""

import json

import pytest
import torch
from diffusers import StableDiffusionPipeline
from kit import prepared, settings_for, train_loop, write_images
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn import functional as F

from customize.cli import main
from customize.errors import InputError
from customize.inference.pipeline_loading import load_pipeline
from customize.inference.run.extra_networks import Caller
from customize.inference.run.generate import without_words
from customize.methods import DreamBoothSettings, TextualInversionSettings
from customize.methods import settings_for as method_of
from customize.optim.learning_rates import LearningRates
from customize.optim.optimizer_state import is_state_of
from customize.optim.together import Together
from customize.settings.inference import InferenceSettings
from customize.training import model_card
from customize.training.preflight import check

LINE = ["--adapter", "lora", "--instance_data_dir", "dogs", "--placeholder_token", "<new>", "--initializer_token", "dog"]
TEACHER = {"prior_preservation": "teacher", "class_prompt": "a photo of dog"}


def read(*more: str, line=LINE):
    return main.read(DreamBoothSettings, [*line, *more])[0]


def test_a_word_implies_the_instance_prompt_and_the_rest_has_defaults():
    settings = read()
    assert settings.instance_prompt == "a photo of <new>" and settings.trigger_words == ("<new>",)
    assert read("--learnable_property", "style").instance_prompt == "a picture in the style of <new>"
    assert read("--instance_prompt", "a <new> dog").instance_prompt == "a <new> dog"
    assert (
        settings.result_files[-1] == "learned_embeds.safetensors" and "pytorch_lora_weights.safetensors" in settings.result_files
    )
    assert settings.start_label == '"dog" for <new>'
    assert settings.description.endswith('is trained on "a photo of <new>"; learns <new> (1 vector), starting from "dog"')
    assert settings.other_learning_rates == {"embedding_learning_rate": (5e-3,)}
    assert DreamBoothSettings(**settings.values()) == settings


@pytest.mark.parametrize(("changes", "where", "words"), [
    ({"adapter": "none"}, "placeholder_token", "needs an adapter"),
    ({"initializer_token": ("<NEW>",)}, "initializer_token", "is the new word itself"),
    ({"initializer_token": ()}, "initializer_token", "is missing: <new> starts from"),
    ({"instance_prompt": "a photo of dog"}, "instance_prompt", "has no new word"),
    ({"class_prompt": "a <NEW> dog", "prior_preservation": "teacher"}, "class_prompt", "contains <new>"),
    ({"placeholder_token": ("<new>", "<other>")}, "instance_prompt", "is missing"),
    ({"normalize_embedding": True, "use_ema": True}, "use_ema", "the average of embeddings of one norm has another"),
    ({"normalize_embedding": True, "optimizer": "schedule_free"}, "optimizer", "the average of embeddings of one norm"),
    ({"placeholder_token": (), "instance_prompt": "a sks dog"}, "initializer_token", "has no effect"),
])  # fmt: skip
def test_settings_that_do_not_fit_are_reported(changes, where, words):
    values = {"adapter": "lora", "instance_data_dir": "dogs", "placeholder_token": ("<new>",), "initializer_token": ("dog",)}
    [problem] = DreamBoothSettings.examine({**values, **changes})[1]
    assert problem.where == where and words in problem.what


def test_the_names_of_diffusers_script_are_read():
    """The flags of train_dreambooth_lora_sdxl_advanced.py."""
    line = ["--adapter", "lora", "--instance_data_dir", "dogs", "--train_text_encoder_ti", "--initializer_concept", "dog"]
    settings = read(
        "--instance_prompt", "a TOK dog", "--text_encoder_lr", "1e-2", "--train_text_encoder_ti_frac", "0.5", line=line
    )
    expected = {"placeholder_token": ("TOK",), "num_vectors": (2,), "initializer_token": ("dog",), "train_text_encoder": False}
    expected |= {"embedding_learning_rate": 1e-2, "embedding_train_fraction": 0.5, "instance_prompt": "a TOK dog"}
    assert {name: getattr(settings, name) for name in expected} == expected
    settings = read("--token_abstraction", "<s>", "--num_new_tokens_per_abstraction", "3", line=line)
    assert (settings.placeholder_token, settings.num_vectors) == (("<s>",), (3,))


def test_the_settings_imply_the_method():
    assert method_of({"placeholder_token", "train_data_dir"}) is method_of({"placeholder_token"}) is TextualInversionSettings
    assert method_of({"placeholder_token", "adapter"}) is method_of({"adapter"}) is DreamBoothSettings


def test_captions_without_the_word_are_reported(tiny_epsilon, tmp_path):
    images = write_images(tmp_path / "images")
    (images / "0.txt").write_text("a <NEW> in the house")
    (images / "1.txt").write_text("a dog in the house")
    settings = settings_for("pivotal", tiny_epsilon, images, tmp_path / "run")
    notes = "\n".join(check(settings)[2].notes)
    assert "<new> from instance_prompt is in the captions of 1 of 2 images, but not of: 1.png" in notes
    for number in range(3):
        (images / f"{number}.txt").write_text("a dog in the house")
    with pytest.raises(InputError, match="placeholder_token <new>: is in no caption"):
        check(settings)


@pytest.mark.parametrize("normalize_embedding", [False, True])
def test_words_and_adapter_step_as_they_would_apart(normalize_embedding, tiny_epsilon, image_folder, tmp_path):
    """The first step of AdamW moves each number of B by the learning rate; the words take a step of their own."""
    changes = {"normalize_embedding": normalize_embedding, "embedding_learning_rate": 0.02, "adam_weight_decay": 0.0}
    context, training = prepared(
        settings_for("pivotal", tiny_epsilon, image_folder, tmp_path / "run", max_grad_norm=None, **changes)
    )
    method = training.method
    [vectors] = method.words.vectors.values()
    start = vectors.detach().clone()
    method(training.dataset.deal(0, [0])[0]).sum().backward()
    gradient, learned = vectors.grad.double(), method.trainable_state_dict()
    of_adapter = {name: each.grad.clone() for name, each in learned.items() if "lora_B" in name}
    method.zero_grad()
    train_loop(context.settings, training, context.accelerator, 1)
    if normalize_embedding:
        norm = context.family.text_encoder.get_input_embeddings().weight.norm(dim=1).mean().double()
        v = F.normalize(start.double(), dim=1)
        ambient = gradient - 1e-4 * v
        tangent = ambient - (ambient * v).sum(1, keepdim=True) * v
        expected = norm * F.normalize(v - 0.02 * F.normalize(tangent, dim=1), dim=1)
    else:
        expected = start - 0.02 * gradient / (gradient.abs() + 1e-8)
    torch.testing.assert_close(vectors.detach().double(), expected.double(), rtol=1e-5, atol=1e-6)
    for name, each in of_adapter.items():
        torch.testing.assert_close(learned[name].detach(), -1e-3 * each / (each.abs() + 1e-8), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("normalize_embedding", [False, True])
def test_words_stay_as_they_are_after_their_part_of_the_run(normalize_embedding, tiny_epsilon, image_folder, tmp_path):
    changes = {"normalize_embedding": normalize_embedding, "embedding_train_fraction": 0.5, "max_train_steps": 4}
    settings = settings_for("pivotal", tiny_epsilon, image_folder, tmp_path / "run", **changes)
    assert settings.depends_on_length and not settings.model_copy(update={"embedding_train_fraction": 1.0}).depends_on_length
    context, training = prepared(settings)
    seen = []
    after_step = training.method.after_step
    training.method.after_step = lambda: (
        after_step(),
        seen.append([tensor.detach().clone() for tensor in training.method.trainable_state_dict().values()]),
    )
    train_loop(settings, training, context.accelerator, 4)
    words = [tensors[-1] for tensors in seen]
    assert not torch.equal(words[0], words[1]) and torch.equal(words[1], words[2]) and torch.equal(words[1], words[3])
    assert all(not torch.equal(one, other) for one, other in zip(seen[2][:-1], seen[3][:-1], strict=True))


def test_two_optimizers_together_have_one_state(tiny_epsilon, image_folder, tmp_path):
    changes = {"normalize_embedding": True, "lr_scheduler": "linear", "embedding_learning_rate": 0.02}
    settings = settings_for("pivotal", tiny_epsilon, image_folder, tmp_path / "run", **changes)
    context, training = prepared(settings)
    optimizer = training.method.build_optimizer(settings)
    assert isinstance(optimizer, Together)
    assert [type(each).__name__ for each in optimizer.members] == ["AdamW", "SGD"]
    LearningRates(settings, optimizer, 10, scale=2).set(5)
    assert [each.param_groups[0]["lr"] for each in optimizer.members] == pytest.approx([1e-3, 0.02])
    state = train_loop(settings, training, context.accelerator, 2)
    trained = state.optimizer.optimizer
    saved = trained.state_dict()
    num_adapter = len(trained.param_groups[0]["params"])
    assert sorted(saved["state"]) == list(range(num_adapter)) and len(saved["param_groups"]) == 2
    optimizer.load_state_dict(saved)
    for member, same in zip(optimizer.members, trained.members, strict=True):
        assert member.param_groups[0] in optimizer.param_groups
        assert all(optimizer.state[parameter] is kept for parameter, kept in member.state.items())
        assert {id(p) for group in member.param_groups for p in group["params"]} == {
            id(p) for group in same.param_groups for p in group["params"]
        }
    assert is_state_of(optimizer, saved["state"])
    wrong = {**saved["state"], 0: {**saved["state"][0], "exp_avg": torch.zeros(1)}}
    assert not is_state_of(optimizer, wrong) and not is_state_of(optimizer, {num_adapter + 1: {}})


def test_the_teacher_is_the_base_and_its_prompt_has_no_word(tiny_epsilon, image_folder, tmp_path):
    settings = settings_for("pivotal", tiny_epsilon, image_folder, tmp_path / "run", train_text_encoder=True, **TEACHER)
    context, training = prepared(settings)
    [batch] = training.dataset.deal(0, [0])
    first = training.method.target(batch)[batch.is_prior].clone()
    train_loop(settings, training, context.accelerator, 2)
    assert torch.equal(training.method.target(batch)[batch.is_prior], first)


def test_files_name_the_word_and_the_card_shows_both(tiny_epsilon, image_folder, tmp_path):
    settings = settings_for("pivotal", tiny_epsilon, image_folder, tmp_path / "run", placeholder_token=("<a>", "<b>"),
                            initializer_token=("dog", "house"), instance_prompt="a <a> in a <b>")  # fmt: skip
    context, training = prepared(settings)
    metadata = model_card.metadata(settings, training.method, context.family, 6)
    files = training.method.save(tmp_path, metadata)
    assert {file.name for file in files} == {*settings.result_files} and len(files) == 4
    for file in files:
        with safe_open(file, "pt") as opened:
            facts = opened.metadata()
        assert facts["modelspec.trigger_phrase"] == "<a>, <b>"
        assert json.loads(facts["customize"])["trigger_words"] == ["<a>", "<b>"]
    card = model_card.card(tmp_path, json.loads(metadata["customize"]), files, training.method.report())
    assert "by pivotal tuning lora" in card and "--prompt 'a <a> in a <b>'" in card
    assert "Trigger words: `<a>`, `<b>`" in card and "nearest: dog 1.00" in card
    assert "did not move: it learned nothing; raise embedding_learning_rate" in card


def test_a_tag_of_the_run_means_its_lora_and_keeps_its_word(tmp_path):
    run, module = tmp_path / "run", "unet.mid_block.attentions.0.proj_in"
    run.mkdir()
    adapter = {f"{module}.lora_A.weight": torch.zeros(1, 8), f"{module}.lora_B.weight": torch.zeros(8, 1)}
    save_file(adapter, run / "pytorch_lora_weights.safetensors")
    save_file({"<new>": torch.zeros(8)}, run / "learned_embeds.safetensors")
    lora, word = f"{run}/pytorch_lora_weights.safetensors:0.5", f"{run}/learned_embeds.safetensors"
    given, folder = {"weights": (f"{run}:0.8",)}, {"weights_dir": str(tmp_path)}
    for places, prompt, text, weights in (
        (given, "a <new> <lora:run:0.5>", "a <new>", [f"{word}:0.8", lora]),
        (folder, "a <new> <lora:run:0.5>", "a <new>", [lora]),
        (folder, "a embedding:run <lora:run:0.5>", "a <new>", [lora, word]),
        (given, "a embedding:run", "a <new>", [f"{run}:0.8"]),
    ):
        caller = Caller(InferenceSettings(prompt=(prompt,), **places))
        assert (caller.plain(prompt, 0, "prompt"), caller.weights, caller.problems) == (text, weights, [])


@torch.no_grad()
def test_stock_diffusers_loads_both_files(tiny_epsilon, image_folder, tmp_path):
    settings = settings_for("pivotal", tiny_epsilon, image_folder, tmp_path / "run", learning_rate=0.05, train_text_encoder=True)
    context, training = prepared(settings)
    with torch.enable_grad():
        train_loop(settings, training, context.accelerator, 2)
    training.method.eval()
    training.method.save(tmp_path, model_card.metadata(settings, training.method, context.family, 2))
    given = InferenceSettings(prompt=("a <new> dog",)), InferenceSettings(prompt=("a dog",))
    for chosen, notes in (
        (tmp_path, 0),
        (tmp_path / "pytorch_lora_weights.safetensors", 1),
        (tmp_path / "learned_embeds.safetensors", 0),
    ):
        pipeline = load_pipeline(str(tiny_epsilon), [(chosen, 1.0)])
        found = [[*without_words(pipeline.weights.files, pipeline.family, each)] for each in given]
        assert [*map(len, found)] == [notes, 0] and all("the new word <new>" in note for note in found[0])
    prompt, options = "a photo of <new> dog", {"num_inference_steps": 3, "output_type": "latent"}
    expected = load_pipeline(str(tiny_epsilon), [(tmp_path, 1.0)]).generate(prompt, seeds=2, **options)
    theirs = StableDiffusionPipeline.from_pretrained(tiny_epsilon, safety_checker=None)
    theirs.set_progress_bar_config(disable=True)
    theirs.load_lora_weights(tmp_path, weight_name="pytorch_lora_weights.safetensors")
    theirs.load_textual_inversion(tmp_path, weight_name="learned_embeds.safetensors")
    images = theirs(prompt, generator=torch.Generator().manual_seed(2), guidance_scale=7.5, **options).images
    assert (images - expected).abs().max() < 1e-4
