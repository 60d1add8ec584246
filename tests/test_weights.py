"""Results in other programs: stock diffusers' loaders generate the same images from our files."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from kit import prepared, settings_for, write_images
from safetensors.torch import load_file, safe_open, save_file

from customize.evaluation import verify_result
from customize.inference.pipeline_loading import load_pipeline
from customize.storage.run_folder import KOHYA_LORA, LORA
from customize.training import model_card
from customize.weights import model_spec

PROMPT = "a photo of sks dog"


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("pictures"))


def saved(settings, folder):
    """A result as a run leaves it, of weights that are far from their start."""
    context, training = prepared(settings)
    generator = torch.Generator().manual_seed(1)
    for parameter in training.method.trainable_state_dict().values():
        with torch.no_grad():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    training.method.eval()
    folder.mkdir()
    training.method.save(folder, model_card.metadata(settings, training.method, context.family, 6))
    return context.family, training.method


def assert_stock_draws_the_same(stock: StableDiffusionPipeline, ours, prompt: str):
    stock.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(5)
    theirs = stock(prompt, num_inference_steps=4, generator=generator, output_type="np").images[0] * 255
    [picture] = ours.generate(prompt, num_inference_steps=4, seeds=5)
    assert np.abs(np.asarray(picture, dtype=np.float64) - theirs).max() <= 1
    plain = load_pipeline(ours.family.name).generate(prompt.replace("<new>", "toy"), num_inference_steps=4, seeds=5)
    assert np.abs(np.asarray(picture, dtype=np.float64) - np.asarray(plain[0])).max() > 3


@pytest.mark.parametrize("train_text_encoder", [False, True])
@pytest.mark.parametrize("kind", ["alpha", "use_rslora", "use_dora", "dropout"])
def test_stock_loads_our_lora(kind, train_text_encoder, tiny_epsilon, image_folder, tmp_path):
    own = {"use_rslora": {"use_rslora": True}, "use_dora": {"use_dora": True}, "dropout": {"lora_dropout": 0.5}}.get(kind, {})
    changes = {
        "rank": 4,
        "lora_alpha": 2.0,
        "lora_targets": ("attention", "feed-forward"),
        "train_text_encoder": train_text_encoder,
    }
    settings = settings_for("lora", tiny_epsilon, image_folder, tmp_path / "unused", **changes, **own)
    family, _ = saved(settings, tmp_path / "run")
    assert verify_result.check(tmp_path / "run", family, PROMPT) < 1e-5
    stock = StableDiffusionPipeline.from_pretrained(tiny_epsilon, safety_checker=None)
    stock.load_lora_weights(tmp_path / "run")
    assert_stock_draws_the_same(stock, load_pipeline(str(tiny_epsilon), [(str(tmp_path / "run"), 1.0)]), PROMPT)


CONV = ("attention", "feed-forward", "conv1", "conv_shortcut", "time_emb_proj", "proj_in", "downsamplers.0.conv")


def by_comfyui(family) -> dict[str, str]:
    """ComfyUI's names of LoRA keys for the weights of Stable Diffusion's networks, by its rule (`comfy/lora.py`)."""
    names = {}
    for name, module in family.unet.named_modules():
        if hasattr(module, "weight"):
            names[f"lora_unet_{name}".replace(".", "_")] = f"unet.{name}"
    for i in range(2):
        for theirs in ("mlp.fc1", "mlp.fc2", "self_attn.k_proj", "self_attn.q_proj", "self_attn.v_proj", "self_attn.out_proj"):
            names[f"lora_te_text_model_encoder_layers_{i}_{theirs.replace('.', '_')}"] = (
                f"text_encoder.encoder.layers.{i}.{theirs}"
            )
    return names


@pytest.mark.parametrize("kind", ["alpha", "use_rslora", "use_dora", "unet alone"])
def test_others_load_our_lora_under_kohyas_names(kind, tiny_epsilon, image_folder, tmp_path):
    """As ComfyUI adds it to the weights, by its names and formulas (stock diffusers leaves out the magnitudes of such files)."""
    own = {kind: True} if kind.startswith("use") else {"lora_alpha": 1.5}
    settings = settings_for(
        "lora", tiny_epsilon, image_folder, tmp_path / "unused", lora_targets=CONV, train_text_encoder=kind != "unet alone", **own
    )
    family, _ = saved(settings, tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [LORA, KOHYA_LORA]
    tensors = load_file(tmp_path / "run" / KOHYA_LORA)
    theirs = load_pipeline(str(tiny_epsilon)).family
    known = by_comfyui(theirs)
    layers = {name.rpartition(".")[0] for name in tensors if name.endswith(".alpha")}
    assert layers <= known.keys() and len(tensors) == (4 if kind == "use_dora" else 3) * len(layers)
    assert any("lora_te_" in name for name in layers) == (kind != "unet alone")
    for name in layers:
        part, _, module = known[name].partition(".")
        weight = getattr(theirs, part).get_submodule(module).weight
        up, down = tensors[f"{name}.lora_up.weight"].double(), tensors[f"{name}.lora_down.weight"].double()
        change = up.flatten(1) @ down.flatten(1) * float(tensors[f"{name}.alpha"]) / len(down)
        whole = weight.double() + change.view_as(weight)
        if kind == "use_dora":  # ComfyUI's weight_decompose: a scale whose first axis is the weight's is one of rows
            scale = tensors[f"{name}.dora_scale"].double()
            assert scale.shape == (len(weight), *[1] * (weight.dim() - 1))
            whole = whole * scale / whole.flatten(1).norm(dim=1).view_as(scale)
        weight.data = whole.float()
    again = load_pipeline(str(tiny_epsilon), [(tmp_path / "run" / KOHYA_LORA, 1.0)]).family
    expected = verify_result.prediction_of(family, PROMPT)
    assert (verify_result.prediction_of(load_pipeline(str(tiny_epsilon)).family, PROMPT) - expected).abs().max() > 1e-2
    for other in (again, theirs):
        assert (verify_result.prediction_of(other, PROMPT) - expected).abs().max() < 1e-5


def test_stock_reads_the_kohya_file_by_its_own_converter(tiny_epsilon, image_folder, tmp_path):
    settings = settings_for("lora", tiny_epsilon, image_folder, tmp_path / "unused", train_text_encoder=True, lora_format="kohya")
    saved(settings, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [KOHYA_LORA]
    stock = StableDiffusionPipeline.from_pretrained(tiny_epsilon, safety_checker=None)
    stock.load_lora_weights(tmp_path / "run", weight_name=KOHYA_LORA)
    assert_stock_draws_the_same(stock, load_pipeline(str(tiny_epsilon), [(str(tmp_path / "run"), 1.0)]), PROMPT)


def test_names_of_the_text_encoder_are_those_that_all_versions_read(tiny_epsilon, image_folder, tmp_path):
    """transformers since 5.6 has no `text_model.`; other programs and older versions ask for it."""
    settings = settings_for(
        "lora", tiny_epsilon, image_folder, tmp_path / "unused", train_text_encoder=True, lora_format="diffusers"
    )
    family, _ = saved(settings, tmp_path / "run")
    file = tmp_path / "run" / LORA
    assert [path.name for path in (tmp_path / "run").iterdir()] == [LORA]
    tensors, begin = load_file(file), "text_encoder.text_model.encoder.layers."
    assert {name for name in tensors if name.startswith("text_encoder.")} == {
        f"{begin}{i}.self_attn.{side}_proj.lora_{factor}.weight"
        for i in range(2)
        for side in ("q", "k", "v", "out")
        for factor in "AB"
    }
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    old = {name.replace("text_encoder.text_model.", "text_encoder."): tensor for name, tensor in tensors.items()}
    save_file(old, tmp_path / "old.safetensors", metadata)
    for path in (file, tmp_path / "old.safetensors"):
        again = load_pipeline(str(tiny_epsilon), [(path, 1.0)]).family
        assert (verify_result.prediction_of(again, PROMPT) - verify_result.prediction_of(family, PROMPT)).abs().max() < 1e-5


def test_metadata_use_the_keys_of_other_programs(tiny_epsilon, image_folder, tmp_path, monkeypatch):
    settings = settings_for("lora", tiny_epsilon, image_folder, tmp_path / "unused")
    saved(settings, tmp_path / "run")
    for name in (LORA, KOHYA_LORA):
        with safe_open(tmp_path / "run" / name, "pt") as opened:
            output = opened.metadata()
        own = {key.removeprefix("modelspec."): value for key, value in output.items() if key.startswith("modelspec.")}
        assert own.pop("hash_sha256").startswith("0x") and own.pop("date") and own.pop("resolution") == "16x16"
        assert own.pop("description") == f"Learned on {tiny_epsilon.name} by dreambooth lora, 6 steps."
        assert own == {"sai_model_spec": "1.0.1", "title": PROMPT, "trigger_phrase": PROMPT, "implementation": "diffusers"}
        assert (output.get("ss_network_module"), output.get("ss_network_dim")) == (
            ("networks.lora", "4") if name == KOHYA_LORA else (None, None)
        )
    family = load_pipeline(str(tiny_epsilon)).family
    for width, kind, expected in (
        (768, "epsilon", ("stable-diffusion-v1/lora", "sd_v1", "epsilon")),
        (1024, "v_prediction", ("stable-diffusion-v2-768-v/lora", "sd_v2_v", "v")),
        (1024, "epsilon", ("stable-diffusion-v2-512/lora", "sd_v2", "epsilon")),
    ):
        monkeypatch.setattr(type(family.text_encoders[0]), "width", width)
        family.scheduler.register_to_config(prediction_type=kind)
        own = model_spec.entries({}, family, "lora")
        assert (
            tuple(own[f"{key}"] for key in ("modelspec.architecture", "ss_base_model_version", "modelspec.prediction_type"))
            == expected
        )


@pytest.mark.parametrize("normalize", [False, True])
def test_stock_loads_our_embeddings(normalize, tiny_v, image_folder, tmp_path):
    settings = settings_for("textual_inversion", tiny_v, image_folder, tmp_path / "unused", normalize_embedding=normalize)
    saved(settings, tmp_path / "run")
    stock = StableDiffusionPipeline.from_pretrained(tiny_v, safety_checker=None)
    stock.load_textual_inversion(tmp_path / "run/learned_embeds.safetensors")
    assert_stock_draws_the_same(stock, load_pipeline(str(tiny_v), [(str(tmp_path / "run"), 1.0)]), "a photo of <new>")


def test_several_tokens_are_a_file_each(tiny_epsilon, image_folder, tmp_path):
    (tmp_path / "more").mkdir()
    folders = (str(image_folder), str(write_images(tmp_path / "more", seed=2)))
    changes = {"placeholder_token": ("<new>", "<other>"), "train_data_dir": folders, "num_vectors": (1, 3)}
    settings = settings_for("textual_inversion", tiny_epsilon, image_folder, tmp_path / "unused", **changes)
    family, method = saved(settings, tmp_path / "run")
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == [
        "learned_embeds_new.safetensors", "learned_embeds_other.safetensors",
    ]  # fmt: skip
    stock = StableDiffusionPipeline.from_pretrained(tiny_epsilon, safety_checker=None)
    for file in (tmp_path / "run").iterdir():
        stock.load_textual_inversion(file)
        [tensor] = load_file(file).values()
        assert torch.equal(tensor.view(-1, 32), method.trainable_state_dict()["<other>" if "other" in file.name else "<new>"])
        assert tensor.dim() == (2 if "other" in file.name else 1)  # InvokeAI recognises a single vector by its only dimension
    assert verify_result.check(tmp_path / "run", family, "a photo of <new> and <other>") < 1e-5


def test_a_full_result_is_a_pipeline_with_the_untrained_parts_unchanged(tiny_epsilon, image_folder, tmp_path):
    base = tmp_path / "base"
    base.symlink_to(tiny_epsilon)
    settings = settings_for("full", base, image_folder, tmp_path / "unused")
    extra = tiny_epsilon / "safety_checker"
    index = json.loads((tiny_epsilon / "model_index.json").read_text())
    try:
        extra.mkdir()
        (extra / "model.safetensors").write_bytes(b"whatever it is")
        output = {
            **index,
            "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
            "requires_safety_checker": True,
        }
        (tiny_epsilon / "model_index.json").write_text(json.dumps(output))
        family, method = saved(settings, tmp_path / "run")
    finally:
        (extra / "model.safetensors").unlink()
        extra.rmdir()
        (tiny_epsilon / "model_index.json").write_text(json.dumps(index))
    assert (tmp_path / "run/safety_checker/model.safetensors").read_bytes() == b"whatever it is"
    kept = json.loads((tmp_path / "run/model_index.json").read_text())
    assert kept["safety_checker"] == output["safety_checker"] and kept["requires_safety_checker"] is True
    assert verify_result.check(tmp_path / "run", family, PROMPT) == 0
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "run", subfolder="unet")
    assert all(torch.equal(parameter, unet.get_parameter(name[5:])) for name, parameter in method.trainable_state_dict().items())


def test_a_file_that_differs_from_the_trained_weights_is_an_error(tiny_epsilon, image_folder, tmp_path):
    family, _ = saved(settings_for("lora", tiny_epsilon, image_folder, tmp_path / "unused"), tmp_path / "run")
    file = tmp_path / "run" / LORA
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    name = next(name for name in tensors if "lora_B" in name)
    save_file({**tensors, name: tensors[name] * 3}, file, metadata)
    with pytest.raises(OSError, match="does not reproduce the trained weights"):
        verify_result.check(tmp_path / "run", family, PROMPT)
    facts = json.loads(metadata["customize"])
    assert (
        facts["base_model"] == tiny_epsilon.name and facts["trigger_words"] == [PROMPT] and facts["method"] == "dreambooth_lora"
    )


def test_a_result_is_read_back_on_the_files_that_were_trained_on(tiny_epsilon, image_folder, tmp_path):
    """A base model whose files are of a variant, under another kind of prediction, in a folder that no configuration names."""
    base = tmp_path / "halves"
    shutil.copytree(tiny_epsilon, base)
    for file in list(base.glob("*/*.safetensors")):
        file.rename(file.with_suffix(".fp16.safetensors"))
    options = {"variant": "fp16", "prediction_type": "v_prediction", "lora_format": "diffusers"}
    family, _ = saved(settings_for("lora", base, image_folder, tmp_path / "unused", **options), tmp_path / "run")
    assert (family.source, family.prediction_type) == (base, "v_prediction")
    shutil.rmtree(base)  # nothing of the base model is read a second time
    assert verify_result.check(tmp_path / "run", family, PROMPT) < 1e-5
