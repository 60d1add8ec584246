"""A run that begins with learned weights predicts, before its first step, what they predict."""

import json
import shutil
from functools import partial

import pytest
import torch
from kit import prepared, settings_for, train_loop, write_images
from safetensors.torch import load_file, save_file

from customize.adapters.lora_files import end_of
from customize.cli.flags.settings_from_files import read_settings
from customize.errors import InputError
from customize.evaluation.verify_result import prediction_of
from customize.methods import DreamBoothSettings, TextualInversionSettings
from customize.training import model_card
from customize.training.callbacks import Checkpoints
from customize.training.preflight import check
from customize.training.resume import differences, identity

KINDS = {
    "textual_inversion": {},
    "lora": {"train_text_encoder": True, "lora_targets": ("attention", "conv1")},
    "dora": {"use_dora": True},
    "dora, kohya": {"use_dora": True, "lora_format": "kohya"},
    "rslora": {"use_rslora": True, "lora_alpha": 3.0},
    "rslora, kohya": {"use_rslora": True, "lora_alpha": 3.0, "lora_format": "kohya"},
    "pivotal": {},
    "full": {"train_text_encoder": True},
}


@pytest.fixture(scope="module")
def earlier(tiny_epsilon, image_folder, tmp_path_factory):
    """By kind: (a run's folder with its result and a checkpoint of step 2, a prediction under what it taught, its prompt)."""
    made = {}

    def make(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            method = kind if kind in ("textual_inversion", "pivotal", "full") else "lora"
            changes = {"max_train_steps": 2, "learning_rate": 1e-2, **KINDS[kind]}
            settings = settings_for(method, tiny_epsilon, image_folder, folder, **changes)
            context, training = prepared(settings)
            about = partial(model_card.metadata, settings, training.method, context.family)
            saves = Checkpoints(folder / "checkpoints", 2, None, lambda step: {**training.method.description(), **about(step)})
            train_loop(settings, training, context.accelerator, 2, [saves])
            training.method.eval()
            (folder / "config.toml").write_text(settings.to_toml())
            (folder / "result").mkdir()
            training.method.save(folder / "result", about(2))
            made[kind] = folder, prediction_of(context.family, training.method.example_prompt), training.method.example_prompt
        return made[kind]

    return make


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("others"), 2, seed=9)


def begun(kind, others, folder, path, **changes):
    """(the prediction before the first step, settings) of a run with only the required settings."""
    common = {
        "init_weights": str(path), "output_dir": str(folder), "max_train_steps": 2, "report_to": ("none",), "seed": 8,
        "validation_prompt": None,
    }  # fmt: skip
    if kind == "textual_inversion":
        own = {"train_data_dir": str(others), "train_batch_size": 1}
        settings = read_settings(TextualInversionSettings, **{**common, **own, **changes})
    else:
        own = {"instance_prompt": f"a photo of {'<new>' if kind == 'pivotal' else 'sks'} dog", "instance_data_dir": str(others)}
        settings = read_settings(DreamBoothSettings, **{**common, **own, **changes})
    context, training = prepared(settings)
    training.method.eval()
    return prediction_of(context.family, training.method.example_prompt), settings, training


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", ["result", "checkpoints/step-000002"])
def test_a_run_begins_with_the_given_weights(kind, path, earlier, others, tmp_path):
    folder, expected, _ = earlier(kind)
    found, settings, training = begun(kind, others, tmp_path / "run", folder / path)
    assert torch.equal(found, expected)
    if kind.split(",")[0] in ("lora", "dora", "rslora"):
        assert (settings.adapter, settings.rank, settings.learning_rate) == ("lora", 4, 1e-4)
        assert settings.lora_alpha == KINDS[kind].get("lora_alpha", 2.0)
        assert settings.train_text_encoder == (kind == "lora") and settings.use_dora == ("dora" in kind)
        assert settings.use_rslora == ("rslora" in kind)
    if kind in ("textual_inversion", "pivotal"):
        words = {"placeholder_token": ("<new>",), "initializer_token": ("toy dog",), "num_vectors": (2,)}
        assert {name: getattr(settings, name) for name in words} == words
    assert type(settings)(**settings.values()) == settings


@pytest.mark.parametrize("start", ["textual_inversion", "lora"])
def test_pivotal_tuning_begins_with_a_word_or_an_adapter_alone(start, earlier, others, tmp_path):
    """What the weights lack starts anew: the adapter, which then changes nothing, or the word, as its initializer tokens."""
    folder, expected, prompt = earlier(start)
    own = {"adapter": "lora"} if start == "textual_inversion" else {"placeholder_token": "<new>", "initializer_token": "toy dog"}
    own |= {"instance_prompt": prompt if start == "textual_inversion" else prompt.replace("sks dog", "<new>"), "num_vectors": 2}
    found, settings, training = begun("pivotal", others, tmp_path / "run", folder / "result", **own)
    assert settings.placeholder_token == ("<new>",) and settings.adapter == "lora"
    if start == "textual_inversion":
        assert torch.equal(found, expected)
    else:
        theirs, ours = load_file(folder / "result/pytorch_lora_weights.safetensors"), training.method.trainable_state_dict()
        assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
        assert ours.keys() - theirs.keys() == {"bundle_emb.<new>.string_to_param.*"}


def test_training_continues_from_the_given_weights(earlier, others, tmp_path):
    _, settings, training = begun("lora", others, tmp_path / "run", earlier("lora")[0] / "result")
    before = {name: tensor.detach().clone() for name, tensor in training.method.trainable_state_dict().items()}
    from accelerate import Accelerator

    train_loop(settings, training, Accelerator(cpu=True), 1)
    moved = max((tensor - before[name]).abs().max().item() for name, tensor in training.method.trainable_state_dict().items())
    assert 0 < moved <= 1.1e-4  # one step of AdamW at its rate


def written(folder, tensors, metadata=None):
    folder.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "other.safetensors", metadata)
    return folder / "other.safetensors"


def test_a_file_of_another_program(earlier, others, tmp_path, tiny_epsilon):
    """kohya's names; its rank, alpha and layers are read from the tensors."""
    from customize.inference.pipeline_loading import load_pipeline

    tensors = load_file(earlier("rslora")[0] / "result/pytorch_lora_weights_kohya.safetensors")
    alphas = {name: torch.tensor(3.0) for name in tensors if name.endswith(".alpha")}
    path = written(tmp_path / "kohya", tensors | alphas)
    assert len(alphas) * 3 == len(tensors)
    base = {"pretrained_model_name_or_path": str(tiny_epsilon)}
    found, settings, _ = begun("lora", others, tmp_path / "run", path, **base)
    assert (settings.rank, settings.lora_alpha, settings.use_rslora) == (4, 3.0, False)
    assert set(settings.lora_targets) == {"to_q", "to_k", "to_v", "to_out.0"}
    family = load_pipeline(str(tiny_epsilon), [(str(path), 1.0)]).family
    torch.testing.assert_close(found, prediction_of(family, "a photo of sks dog"), rtol=0, atol=1e-6)


@pytest.mark.parametrize("change", [{"rank": 7}, {"lora_alpha": 9.0}, {"rank": 8, "lora_alpha": 1.5}], ids=str)
def test_a_higher_rank_and_another_alpha_predict_the_same(change, earlier, others, tmp_path):
    folder, expected, _ = earlier("lora")
    found, settings, training = begun("lora", others, tmp_path / "run", folder / "result", **change)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert {name: getattr(settings, name) for name in change} == change


def refused(*args, **changes) -> str:
    with pytest.raises(InputError) as caught:
        begun(*args, **changes)
    return str(caught.value)


def test_contradicting_settings_are_refused_by_name(earlier, others, tmp_path):
    lora, words, pivotal, full = (earlier(kind)[0] for kind in ("lora", "textual_inversion", "pivotal", "full"))
    run = tmp_path / "run"
    for kind, path, changes, output in (
        ("lora", lora / "result", {"rank": 2}, "rank: is 2, where init_weights has 4"),
        ("lora", lora / "result", {"adapter": "none"}, "adapter: is 'none', where init_weights has 'lora'"),
        ("lora", lora / "result", {"use_dora": True}, "use_dora: is True, where init_weights has False"),
        ("lora", lora / "result", {"train_text_encoder": False}, "train_text_encoder: is false, where init_weights has weights"),
        ("lora", lora / "result", {"lora_targets": ("to_q", "q_proj")}, "tensors do not fit the adapter to be trained"),
        ("lora", words / "result", {}, "placeholder_token: needs an adapter"),
        ("textual_inversion", pivotal / "result", {}, "contains an adapter besides its words"),
        ("pivotal", pivotal / "result", {"num_vectors": 3}, "num_vectors: is 3 of <new>, where init_weights has 2"),
        ("textual_inversion", lora / "result", {}, "contains no embeddings"),
        ("textual_inversion", full / "checkpoints/step-000002", {}, "contains no embeddings"),
        ("textual_inversion", words / "result", {"num_vectors": 3}, "num_vectors: is 3 of <new>, where init_weights has 2"),
        ("textual_inversion", words / "result",
         {"placeholder_token": ["<a>", "<b>"], "num_vectors": 2, "initializer_token": "dog"},
         "<a>, <b> is not in init_weights, which has <new>"),
        ("full", full / "checkpoints/step-000002", {"adapter": "lora"}, "is a fully trained network; an adapter"),
        ("full", full / "result", {"pretrained_model_name_or_path": "demo"}, "init_weights is a complete model, too"),
        ("lora", tmp_path / "none", {}, "init_weights: no file or folder"),
    ):  # fmt: skip
        assert output in refused(kind, others, run, path, **changes), output
    assert not run.exists()


def test_a_word_may_be_renamed(earlier, others, tmp_path):
    folder, expected, prompt = earlier("textual_inversion")
    changes = {"placeholder_token": "<mine>"}
    found, settings, training = begun("textual_inversion", others, tmp_path / "run", folder / "result", **changes)
    assert training.method.example_prompt == prompt.replace("<new>", "<mine>")
    assert torch.equal(found, expected)


def test_an_embedding_of_another_width_is_refused(others, tmp_path, tiny_epsilon):
    path = written(tmp_path / "words", {"<wide>": torch.randn(2, 24)})
    output = refused("textual_inversion", others, tmp_path / "run", path, pretrained_model_name_or_path=str(tiny_epsilon))
    assert "is 24 wide; words of this base model are 32 wide" in output


def test_an_adapter_of_another_family_is_refused_by_name(others, tmp_path, tiny_epsilon):
    module = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    adapter = {f"{module}.lora_A.weight": torch.randn(4, 2048), f"{module}.lora_B.weight": torch.randn(640, 4)}
    path = written(tmp_path / "lora", adapter)
    output = refused("lora", others, tmp_path / "run", path, pretrained_model_name_or_path=str(tiny_epsilon))
    assert f"init_weights: {path} was learned on SDXL; {tiny_epsilon} is Stable Diffusion 1.x or 2.x" in output


def test_adapters_other_than_lora_are_refused(others, tmp_path):
    loha = {f"lora_unet_mid_block_attn.hada_w1_{each}": torch.randn(4, 4) for each in "ab"}
    assert "an adapter other than a LoRA" in refused("lora", others, tmp_path / "run", written(tmp_path / "loha", loha))
    strange = {"unet.my.layer.lora_A.weight": torch.randn(4, 8), "unet.my.layer.lora_B.weight": torch.randn(8, 4)}
    assert "an adapter of unknown modules: unet.my.layer" in refused(
        "lora", others, tmp_path / "run", written(tmp_path / "x", strange)
    )


def test_the_initial_weights_are_part_of_the_identity_of_a_run(earlier, others, tmp_path, tiny_epsilon):
    """It may be moved; another one is refused by name when the run is resumed."""
    copy = shutil.copytree(earlier("lora")[0] / "result", tmp_path / "copy")
    own = {"instance_prompt": "a photo of sks dog", "instance_data_dir": str(others), "output_dir": str(tmp_path / "run")}
    own["pretrained_model_name_or_path"] = str(tiny_epsilon)

    def now(path):
        settings = read_settings(DreamBoothSettings, **own, init_weights=str(path))
        _, source, examples = check(settings)
        return identity(settings, source, examples, 1)

    before = now(copy)
    assert differences(before, now(copy.rename(tmp_path / "moved"))) == []
    file = tmp_path / "moved/pytorch_lora_weights.safetensors"
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    save_file({name: 2 * tensor for name, tensor in tensors.items()}, file, metadata)
    [problem] = differences(before, now(tmp_path / "moved"))
    assert problem.where == "init_weights"


@pytest.mark.parametrize(
    ("module", "end"),
    [
        ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", "to_q"),
        ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0", "to_out.0"),
        ("lora_te_text_model_encoder_layers_0_mlp_fc1", "mlp.fc1"), ("lora_unet_mid_block_resnets_0_conv1", "conv1"),
        ("unet.up_blocks.1.upsamplers.0.conv", "upsamplers.0.conv"), ("lora_unet_conv_in", "conv_in"), ("conv_in", "conv_in"),
        ("x.ff.net.0.proj", "ff.net.0.proj"), ("x.norm1", None), ("x.my_layer", None),
        ("lora_unet_input_blocks_4_0_in_layers_2", "conv1"), ("lora_unet_output_blocks_2_2_conv", "upsamplers.0.conv"),
        ("diffusion_model.input_blocks.3.0.op", "downsamplers.0.conv"), ("lora_unet_input_blocks_0_0", "conv_in"),
        ("lora_unet_middle_block_0_emb_layers_1", "time_emb_proj"), ("lora_unet_time_embed_2", "time_embedding.linear_2"),
    ],
)  # fmt: skip
def test_ends_of_modules(module, end):
    assert end_of(module) == end


def test_a_run_reports_its_initial_weights(earlier, others, tmp_path):
    _, settings, training = begun("lora", others, tmp_path / "run", earlier("lora")[0] / "result")
    assert "init_weights" in settings.to_toml()
    assert json.dumps(settings.values(), default=str)
