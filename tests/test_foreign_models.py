"""Untrusted base models and weights: every invalid part is named, and none of their code is run."""

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_inference import lora, settings, vectors

from customize.adapters.lora_keys import ADAPTER_METADATA
from customize.errors import InputError
from customize.families import load, locate
from customize.families.specs import STABLE_DIFFUSION
from customize.families.specs.stable_diffusion_spec import length
from customize.families.specs.text_limits import too_long
from customize.inference import load_pipeline
from customize.inference.run import command
from customize.settings.inference import InferenceSettings
from customize.storage import run_folder
from customize.training.class_images import MANIFEST, check_manifest
from customize.weights.learned_weights import find_learned

FILES = {
    "unet": "unet/diffusion_pytorch_model.safetensors", "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}  # fmt: skip
NAN = float("nan")


@pytest.fixture
def model(tiny_epsilon, tmp_path) -> Path:
    """A copy of a model to be changed."""
    return shutil.copytree(tiny_epsilon, tmp_path / "model")


def change(file: Path, **values: object) -> None:
    """Sets values in a JSON file; ... takes one out."""
    output = {**json.loads(file.read_text()), **values}
    file.write_text(json.dumps({name: value for name, value in output.items() if value is not ...}))


def refused(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        load(locate(str(folder)))
    assert all(problem.remedy and str(problem).replace("\n    -> ", "").isprintable() for problem in caught.value.problems)
    return str(caught.value)


# case 46: base models


@pytest.mark.parametrize("part", FILES)
def test_a_tensor_missing_too_many_or_of_another_shape(model, part):
    file = model / FILES[part]
    tensors = load_file(file)
    name = sorted(tensors)[3]
    for changed, word in (
        ({key: tensor for key, tensor in tensors.items() if key != name}, f"1 of its tensors missing, such as {name}"),
        ({}, f"{len(tensors)} of its tensors missing"),
        (tensors | {"another.weight": torch.zeros(3)}, "1 of its tensors unexpected, such as another.weight"),
        (tensors | {name: torch.zeros(3)}, "cannot be loaded"),
    ):
        save_file(changed, file, {"format": "pt"})
        output = refused(model)
        assert output.startswith(f"{model / part}: ") and word in output


def test_other_tensors_of_clip_files_are_ignored(model):
    file = model / FILES["text_encoder"]
    tensors = {f"text_model.{name}": tensor for name, tensor in load_file(file).items()}
    more = {"text_model.embeddings.position_ids": torch.arange(77)[None], "text_projection.weight": torch.ones(3, 3)}
    more |= {"logit_scale": torch.ones(()), "vision_model.x": torch.ones(1), "visual_projection.weight": torch.ones(2, 2)}
    save_file(tensors | more, file, {"format": "pt"})
    family = load(locate(str(model)))
    for name, weight in family.text_encoder.state_dict().items():
        assert torch.equal(weight, tensors[f"text_model.{name}"])


def test_an_autoencoder_with_the_names_of_2022(model):
    """As in the files of Stable Diffusion 1.x on the hub: the attention layers were called otherwise."""
    file = model / FILES["vae"]
    tensors, old = load_file(file), {}
    for name, tensor in tensors.items():
        for now, then in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            name = name.replace(now, then)
        old[name] = tensor
    assert old.keys() != tensors.keys()
    save_file(old, file, {"format": "pt"})
    vae = load(locate(str(model))).vae.state_dict()
    assert vae.keys() == tensors.keys() and all(torch.equal(vae[name], tensors[name]) for name in tensors)


def test_a_part_that_is_missing(model):
    for part in (*FILES, "tokenizer", "scheduler"):
        away = model.parent / part
        (model / part).rename(away)
        assert f"{model / part}" in refused(model)
        away.rename(model / part)
    (model / "model_index.json").unlink()
    assert "model_index.json" in refused(model)


CONFIGURATIONS = {
    "scheduler/scheduler_config.json": [
        *({"_class_name": name} for name in ("DiffusionPipeline", "loaders", "__class__", "UNet2DConditionModel", "No", "")),
        {"_class_name": None},
        {"_class_name": ["os", "system"]}, {"num_train_timesteps": "x"}, {"num_train_timesteps": -1}, {"beta_end": NAN},
        {"beta_start": "x"}, {"beta_schedule": "foo"}, {"prediction_type": "foo"}, {"prediction_type": ["epsilon"]},
    ],
    "unet/config.json": [
        {"sample_size": "x"}, {"sample_size": -8}, {"sample_size": 0}, {"sample_size": 1e9}, {"sample_size": float("inf")},
        {"sample_size": True}, {"block_out_channels": "x"}, {"block_out_channels": [-4, 8]}, {"cross_attention_dim": 48},
        {"in_channels": 9}, {"down_block_types": ["No", "No"]}, {"norm_num_groups": 0},
    ],
    "vae/config.json": [
        {"block_out_channels": 7}, {"latent_channels": 8}, {"scaling_factor": NAN}, {"scaling_factor": 0},
        {"scaling_factor": "x"}, {"scaling_factor": -1},
    ],
    "text_encoder/config.json": [
        {"hidden_size": 48}, {"hidden_size": "x"}, {"vocab_size": 10}, {"num_attention_heads": 0},
        {"max_position_embeddings": 5}, {"max_position_embeddings": "x"},
    ],
    "tokenizer/tokenizer_config.json": [
        {"model_max_length": "x"}, {"model_max_length": -1}, {"pad_token": 7}, {"pad_token": "<z>"},
    ],
    "tokenizer/tokenizer.json": [
        {"model": 7}, {"model": {"vocab": 7}}, {"model": {"vocab": {}}}, {"model": ...}, {"added_tokens": 7},
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}},
    ],
}  # fmt: skip


@pytest.mark.parametrize("file", CONFIGURATIONS)
def test_a_configuration_that_does_not_fit_its_network(model, file):
    whole = (model / file).read_text()
    for values in CONFIGURATIONS[file]:
        change(model / file, **values)
        output = refused(model)
        assert str(model) in output, values
        assert file.split("/")[0] in output or values == {"pad_token": "<z>"}, (values, output)
        (model / file).write_text(whole)
    for text in ("", "[]", "7", "{", "[" * 100_000, "\x80"):
        (model / file).write_bytes(text.encode("latin-1"))
        assert file in refused(model)


def test_a_tokenizer_of_two_files(model):
    """As older models have it: words and merges apart. `model` and `added_tokens` are words like others."""
    whole = json.loads((model / "tokenizer/tokenizer.json").read_text())
    (model / "tokenizer/tokenizer.json").unlink()
    words, merges = whole["model"]["vocab"], [" ".join(merge) for merge in whole["model"]["merges"]]

    def write(words: dict, merges: list[str]) -> None:
        (model / "tokenizer/vocab.json").write_text(json.dumps(words))
        (model / "tokenizer/merges.txt").write_text("\n".join(["#version: 0.2", *merges]))

    renamed = {{"red</w>": "model", "blue</w>": "added_tokens"}.get(word, word): index for word, index in words.items()}
    write(renamed, [merge for merge in merges if merge.replace(" ", "") in renamed])
    assert STABLE_DIFFUSION.vocabulary(locate(str(model))) == set(renamed)
    write(words, merges)
    assert STABLE_DIFFUSION.vocabulary(locate(str(model))) == set(words)
    counted = too_long(STABLE_DIFFUSION.text_limits(locate(str(model))), ["zebra " * 40, "cat"], {})
    assert [(text, limit.at_once) for text, _, limit in counted] == [("zebra " * 40, 77)]
    for damage in (lambda: write({}, []), lambda: write(words, ["no such"]), lambda: (model / "tokenizer/merges.txt").unlink()):
        damage()
        with pytest.raises(InputError, match="contains no vocabulary"):
            STABLE_DIFFUSION.vocabulary(locate(str(model)))


def test_the_token_limit_is_that_of_the_text_encoder(model):
    for output in (..., None, 1e30, 10**30, 77):
        change(model / "tokenizer/tokenizer_config.json", model_max_length=output)
        assert length(locate(str(model))) == load(locate(str(model))).tokenizer.model_max_length == 77
    change(model / "tokenizer/tokenizer_config.json", model_max_length=20)
    assert length(locate(str(model))) == load(locate(str(model))).tokenizer.model_max_length == 20


@pytest.mark.parametrize(
    "name",
    ["FlowMatchEulerDiscreteScheduler", "IPNDMScheduler", "EDMEulerScheduler", "SCMScheduler", "CMStochasticIterativeScheduler"],
)
def test_a_scheduler_of_other_models(model, name):
    """Those predict something else, or have no betas: trained with ours, they would learn nonsense in silence."""
    change(model / "scheduler/scheduler_config.json", _class_name=name)
    assert "is not a scheduler of Stable Diffusion 1.x, 2.x or XL" in refused(model)


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("scheduler/scheduler_config.json", {"prediction_type": None}), ("vae/config.json", {"scaling_factor": None}),
        ("unet/config.json", {"sample_size": [16, 16]}),
    ],
)  # fmt: skip
def test_unknown_values_are_named(model, file, changed):
    change(model / file, **changed)
    [(name, value)] = changed.items()
    assert f"{model / file}: {name} is {str(value)!r}, which is not understood here" in refused(model)


def test_words_that_only_the_tokenizer_configuration_declares(model):
    before = STABLE_DIFFUSION.vocabulary(locate(str(model)))
    token = {"content": "<cat-toy>", **dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word", "special"), False)}
    change(model / "tokenizer/tokenizer_config.json", added_tokens_decoder={str(len(before)): token})
    assert STABLE_DIFFUSION.vocabulary(locate(str(model))) == before | {"<cat-toy>"}


def test_a_model_without_a_size(model, image_folder, tmp_path):
    change(model / "unet/config.json", sample_size=...)
    assert STABLE_DIFFUSION.resolution(locate(str(model))) is None
    with pytest.raises(InputError, match="--resolution for training"):
        assert load(locate(str(model))).resolution


def test_code_in_the_folder_is_not_run(model, monkeypatch):
    canary = model.parent / "CANARY"
    code = f"open({str(canary)!r}, 'w')\nclass Evil: pass\n"
    for folder in (model, *(model / part for part in (*FILES, "tokenizer", "scheduler"))):
        for name in ("evil", "__init__", "pipeline", "modeling", "unet", "vae", "text_encoder", "diffusers", "sitecustomize"):
            (folder / f"{name}.py").write_text(code)
    own = {"auto_map": {"AutoModel": "evil.Evil", "AutoTokenizer": ["evil.Evil", None]}, "custom_pipeline": "evil"}
    change(model / "model_index.json", _class_name=["pipeline", "Evil"], unet=["evil", "Evil"], vae=["evil", "Evil"], **own)
    change(model / "unet/config.json", _class_name="evil.Evil", **own)
    change(model / "text_encoder/config.json", architectures=["Evil"], model_type="evil", **own)
    change(model / "tokenizer/tokenizer_config.json", tokenizer_class="Evil", **own)
    monkeypatch.chdir(model.parent)
    monkeypatch.syspath_prepend("")
    with suppress(InputError):
        load(locate(str(model)))
    assert not canary.exists()


def test_an_index_of_shards_leads_nowhere_else(model):
    (model / "secret.safetensors").write_bytes((model / FILES["unet"]).read_bytes())
    index = {"metadata": {}, "weight_map": {"conv_in.weight": "../secret.safetensors"}}
    (model / "unet/diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    assert str(model / "unet") in refused(model)


# case 45: adapters


@pytest.fixture(scope="module")
def adapter(tiny_epsilon, tmp_path_factory) -> Path:
    return lora(tmp_path_factory.mktemp("adapter"), tiny_epsilon, text_encoder=False) / "pytorch_lora_weights.safetensors"


def sides(tensors: dict, side: str, make: Callable) -> dict:
    return {name: make(tensor).contiguous() if f"lora_{side}" in name else tensor for name, tensor in tensors.items()}


def test_an_adapter_that_fits_not_at_all_partly_or_completely(adapter, tiny_epsilon, tmp_path):
    with safe_open(adapter, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(adapter)
    count, first = len(tensors), sorted(tensors)[0]
    up = first.replace("lora_A", "lora_B")
    moved = {name.replace("down_blocks.0", "down_blocks.9"): tensor for name, tensor in tensors.items()}
    strange = sum("down_blocks.9" in name for name in moved)
    no_a, no_b = ({name: tensor for name, tensor in tensors.items() if f"lora_{side}" not in name} for side in "AB")
    cases = [
        (moved, [f"{strange} tensors do not fit", "down_blocks.9"]),
        (no_a, ["all tensors do not fit", up]),
        (no_b, ["all tensors do not fit", first]),
        ({name: tensor for name, tensor in tensors.items() if name != first}, ["1 tensors do not fit", up]),
        (sides(tensors, "A", lambda tensor: torch.cat([tensor, tensor], 1)), ["all tensors do not fit", first]),
        (tensors | {first: tensors[first][:2].contiguous()}, ["2 tensors do not fit", first, up]),
        (tensors | {first: tensors[first][None]}, ["2 tensors do not fit", first]),
        (tensors | {first: torch.ones(())}, ["2 tensors do not fit", first]),
        (tensors | {first: tensors[first] * NAN}, [f"NaN or infinity in 1 of {count} tensors", first]),
        ({name: tensor.int() for name, tensor in tensors.items()}, ["contain I32", first]),
        ({}, ["neither embeddings nor an adapter"]),
        (
            {"text_encoder.no.lora_A.weight": vectors(4), "text_encoder.no.lora_B.weight": vectors(4).T.contiguous()},
            ["all tensors do not fit", "text_encoder.no.lora_A.weight"],
        ),
    ]
    file = tmp_path / "lora.safetensors"
    for changed, words in cases:
        save_file(changed, file, metadata)
        with pytest.raises(InputError) as caught:
            load_pipeline(str(tiny_epsilon), [(file, 1.0)])
        assert all(word in str(caught.value) for word in [str(file), *words]), (words, str(caught.value))
    smaller = sides(sides(tensors, "A", lambda tensor: tensor[:2]), "B", lambda tensor: tensor[:, :2])
    bare = {name.removeprefix("unet."): tensor for name, tensor in tensors.items()}
    for changed, output in (
        (tensors, metadata),
        (bare, metadata),
        (smaller, {}),
        (tensors, {ADAPTER_METADATA: "{}"}),
        ({n: t.half() for n, t in tensors.items()}, metadata),
    ):
        save_file(changed, file, output)
        loaded = load_pipeline(str(tiny_epsilon), [(file, 1.0)])
        assert loaded.notes == () or loaded.notes == []
    save_file(smaller, file, metadata)  # of which the description says rank 4
    with pytest.raises(InputError, match="its configuration does not fit its tensors: .* has rank 2, not 4"):
        load_pipeline(str(tiny_epsilon), [(file, 1.0)])


DESCRIPTIONS = (
    "", "{", "7", "[]", '"x"', "null", "[" * 100_000,
    '{"unet.r": "x"}', '{"evil": 1}', '{"unet.r": 4, "unet.rank_pattern": ["x"]}',
    '{"unet.r": 4, "unet.target_modules": ["to_q"], "unet.rank_pattern": {"(a*)*": 4}}',
    '{"unet.r": -1, "unet.lora_alpha": 1, "unet.target_modules": ["to_q"]}',
)  # fmt: skip


@pytest.mark.parametrize("description", DESCRIPTIONS, ids=lambda text: text[:40])
def test_an_invalid_description_of_an_adapter(adapter, tiny_epsilon, tmp_path, description):
    save_file(load_file(adapter), tmp_path / "x.safetensors", {ADAPTER_METADATA: description})
    with pytest.raises(InputError, match=r"has damaged metadata|cannot be loaded|cannot read|describes itself"):
        load_pipeline(str(tiny_epsilon), [(tmp_path / "x.safetensors", 1.0)])


@pytest.mark.parametrize("pattern", ["(((((", "(a+)+$", r".*(to_q|to_k)", 7, [], ["nothing"]], ids=str)
def test_the_tensors_decide_which_modules_are_adapted(adapter, tiny_epsilon, tmp_path, pattern):
    tensors = {name: tensor for name, tensor in load_file(adapter).items() if name.startswith("unet.")}
    with safe_open(adapter, "pt") as file:
        output = json.loads(file.metadata()[ADAPTER_METADATA])
    for name in ("sound", "odd"):
        changed = {**output, "unet.target_modules": pattern, "unet.exclude_modules": pattern} if name == "odd" else output
        save_file(tensors, tmp_path / f"{name}.safetensors", {ADAPTER_METADATA: json.dumps(changed)})
    sound, odd = (load_pipeline(str(tiny_epsilon), [(tmp_path / f"{name}.safetensors", 1.0)]) for name in ("sound", "odd"))
    weights, others = sound.family.unet.state_dict(), odd.family.unet.state_dict()
    assert weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)


ABOUT = (
    "", "7", "[1]", "[" * 100_000, *(json.dumps(output) for output in (
        {"trigger_words": 7}, {"trigger_words": [[1]]}, {"trigger_words": "x"}, {"trigger_words": None}, {"settings": []},
        {"settings": 7}, {"settings": {"variant": 7}}, {"settings": {"revision": [1]}}, {"settings": {"prediction_type": "foo"}},
        {"settings": {"prediction_type": NAN}}, {"base_model": 7}, {"base_model": ["x"]}, {"method": [1]},
    ))
)  # fmt: skip


@pytest.mark.parametrize("output", ABOUT, ids=lambda text: text[:40])
def test_metadata_of_a_result_are_not_trusted(adapter, model, tmp_path, output):
    """Of a file in its metadata, of a complete model in customize.json; as base model or as weights, and for --merge."""
    save_file(load_file(adapter), tmp_path / "x.safetensors", {"customize": output})
    (model / run_folder.METADATA).write_text(output)
    for base, weights in ((None, [tmp_path / "x.safetensors"]), (None, [model]), (str(model), [])):
        with pytest.raises(InputError, match="has damaged metadata"):
            find_learned(base, [(each, 1.0) for each in weights])
    with pytest.raises(InputError, match="has damaged metadata"):
        command.run(InferenceSettings(merge=str(tmp_path / "merged"), weights=[str(tmp_path / "x.safetensors")]))


def test_a_description_is_not_read_from_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    for folder in (tmp_path, tmp_path / "demo"):
        (folder / run_folder.METADATA).write_text('{"trigger_words": ["evil"]}')
    assert find_learned(None, []).trigger_words == find_learned("demo", []).trigger_words == ()


@pytest.mark.parametrize("word", ["", " ", "../../tmp/evil", "a\\b", "\x1b[31mred", "a b", "<a>\n", "\u202e", "x" * 65, ".."])
def test_invalid_placeholders(tiny_epsilon, tmp_path, word):
    save_file({word: vectors(2)}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="the word") as caught:
        find_learned(str(tiny_epsilon), [(tmp_path / "x.safetensors", 1.0)])
    assert str(caught.value).replace("\n    -> ", "").isprintable()
    save_file({"emb_params": vectors(2)}, tmp_path / "two words.safetensors")
    with pytest.raises(InputError, match="rename the file"):
        find_learned(str(tiny_epsilon), [(tmp_path / "two words.safetensors", 1.0)])


def test_notes_are_harmless_to_a_terminal(adapter, tiny_epsilon, tmp_path, capsys, terminal):
    output = {"customize": json.dumps({"trigger_words": ["\x1b[31mred"], "base_model": str(tiny_epsilon)})}
    save_file(load_file(adapter), tmp_path / "x.safetensors", output)
    asked = settings(weights=[str(tmp_path / "x.safetensors")], prompt=["a dog"], output_dir=str(tmp_path / "out"))
    command.run(asked)
    reported = "".join(capsys.readouterr())
    assert "\x1b" not in reported and "\\x1b[31mred" in reported


# class pictures


def test_an_invalid_description_of_class_images(tmp_path):
    for content in (b"", b"[]", b"7", b"\x80\x04.", b"[" * 100_000, b"\xff"):
        (tmp_path / MANIFEST).write_bytes(content)
        with pytest.raises(InputError, match="cannot be read"):
            check_manifest(tmp_path / MANIFEST, {"prompt": "a dog"})
    (tmp_path / MANIFEST).write_text('{"prompt": "a dog"}')
    check_manifest(tmp_path / MANIFEST, {"prompt": "a dog"})
