"""Merged models and LoRAs: equal to stock diffusers and to exact sums of changes; and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_inference import assert_same_picture, differs, embeddings, lora, stock, vectors
from torch import Tensor

from customize.errors import InputError
from customize.inference import load_pipeline
from customize.inference.run import command
from customize.settings.inference import InferenceSettings
from customize.weights.learned_weights import find_learned

PROMPT = "a photo of <toy> dog"
FILE = "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def learned(tiny_epsilon, tmp_path_factory) -> dict[str, Path]:
    """Two LoRAs of different ranks, alphas and modules, a DoRA, and a word of two vectors."""
    folder = tmp_path_factory.mktemp("learned")
    other = {"rank": 2, "lora_alpha": 2.0, "lora_targets": ("to_q", "ff.net.2", "conv1")}
    return {
        "first": lora(folder / "first", tiny_epsilon),
        "second": lora(folder / "second", tiny_epsilon, 5, False, **other),
        "dora": lora(folder / "dora", tiny_epsilon, 6, use_dora=True, rank=2),
        "word": embeddings(folder / "learned_embeds.safetensors", tiny_epsilon, {"<toy>": vectors(2)}),
    }


def merged(target: Path, *weights: str, **values) -> Path:
    command.run(InferenceSettings(weights=weights, merge=str(target), **values))
    return target


def read_stock(folder: Path) -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture(pipe: StableDiffusionPipeline, prompt: str) -> np.ndarray:
    generator = torch.Generator().manual_seed(2)
    return pipe(prompt, num_inference_steps=3, generator=generator, output_type="np").images[0] * 255


def test_a_merged_model_generates_what_stock_generates_with_the_parts(tiny_epsilon, learned, tmp_path):
    theirs = stock(tiny_epsilon)
    theirs.load_textual_inversion({"<toy>": 0.5 * vectors(2)})
    theirs.load_lora_weights(learned["first"], adapter_name="first")
    theirs.load_lora_weights(learned["second"], adapter_name="second")
    theirs.set_adapters(["first", "second"], [0.8, -0.4])
    folder = merged(tmp_path / "model", f"{learned['first']}:0.8", f"{learned['second']}:-0.4", f"{learned['word']}:0.5")
    again = read_stock(folder)
    assert np.abs(picture(again, PROMPT) - picture(theirs, PROMPT)).max() <= 1
    assert np.abs(picture(again, PROMPT) - picture(stock(tiny_epsilon), PROMPT)).max() > 3
    assert again.text_encoder.config.vocab_size == len(again.tokenizer) == len(stock(tiny_epsilon).tokenizer) + 2
    ours = load_pipeline(str(folder))
    assert ours.family.text_encoders[0].placeholders == {"<toy>": ("<toy>", "<toy>_1")} and ours.trigger_words == ("sks", "<toy>")
    assert_same_picture(ours, theirs, PROMPT)
    facts = json.loads((folder / "customize.json").read_text())
    assert facts["base_model"] == tiny_epsilon.name and facts["method"] == "merged"
    assert [each["scale"] for each in facts["weights"]] == [0.8, -0.4, 0.5]
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("names", [("dora", "first"), ("first", "dora")])
def test_doras_are_merged_as_they_are_used_together(names, learned, tmp_path):
    """The norm that a DoRA divides by is that of the base model's weight, not of one with other adapters merged into it."""
    parts = [(learned[name], {"dora": 0.7, "first": 0.5}[name]) for name in names]
    folder = merged(tmp_path / "model", *(f"{path}:{scale}" for path, scale in parts))
    ours, again = load_pipeline(None, parts), load_pipeline(str(folder))
    latents = [each.generate(PROMPT, num_inference_steps=2, seeds=2, output_type="latent") for each in (ours, again)]
    torch.testing.assert_close(*latents, rtol=0, atol=1e-4)
    assert differs(again, load_pipeline(None, parts[:1]), PROMPT)


def test_untrained_weights_are_bit_identical_in_a_merged_model(tiny_epsilon, learned, tmp_path):
    folder = merged(tmp_path / "model", str(learned["second"]))
    changed = set()
    for part in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"):
        before, after = (load_file(base / f"{part}.safetensors") for base in (tiny_epsilon, folder))
        assert before.keys() == after.keys()
        changed |= {name for name in before if not torch.equal(before[name], after[name])}
    beside = {name.split(".lora_")[0].removeprefix("unet.") for name in load_file(learned["second"] / FILE)}
    assert changed == {f"{module}.weight" for module in beside}


def test_the_precision_can_be_chosen(learned, tmp_path):
    folder = merged(tmp_path / "model", str(learned["second"]), mixed_precision="bf16")
    assert {tensor.dtype for tensor in load_file(folder / "unet/diffusion_pytorch_model.safetensors").values()} == {
        torch.bfloat16
    }


def change(file: Path) -> dict[str, Tensor]:
    """alpha / rank * B A by module, in float64, by the file's own word for alpha and rank."""
    with safe_open(file, "pt") as opened:
        output = json.loads(opened.metadata()["lora_adapter_metadata"])
    tensors = load_file(file)
    found = {}
    for name, up in tensors.items():
        if ".lora_B." in name:
            module = name.split(".lora_")[0]
            part, _, rest = module.replace(".text_model.", ".").partition(".")
            alpha = output[f"{part}.alpha_pattern"].get(rest, output[f"{part}.lora_alpha"])
            rank = output[f"{part}.rank_pattern"].get(rest, output[f"{part}.r"])
            assert rank == up.shape[1]
            down = tensors[name.replace("lora_B", "lora_A")].double()
            found[module] = alpha / rank * up.double().flatten(1) @ down.flatten(1)
    return found


def test_a_merged_lora_is_the_sum_of_its_parts(learned, tmp_path):
    parts = f"{learned['first']}:0.8", f"{learned['second']}:-0.4"
    file = merged(tmp_path / "both.safetensors", *parts, lora_format="diffusers")
    first, second, both = (change(each) for each in (learned["first"] / FILE, learned["second"] / FILE, file))
    assert both.keys() == first.keys() | second.keys() and first.keys() != second.keys()
    for module, delta in both.items():
        expected = sum(scale * part[module] for scale, part in ((0.8, first), (-0.4, second)) if module in part)
        torch.testing.assert_close(delta, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))
    tensors = load_file(file)
    ranks = {name.split(".lora_")[0]: len(tensor) for name, tensor in tensors.items() if ".lora_A." in name}
    assert {rank for rank in ranks.values()} == {2, 4, 6}
    assert all(rank == 4 * (module in first) + 2 * (module in second) for module, rank in ranks.items())


def test_a_merged_lora_has_the_chosen_names(tiny_epsilon, learned, tmp_path):
    parts = f"{learned['first']}:0.8", f"{learned['second']}:-0.4"
    ours, kohya = (merged(tmp_path / f"{name}.safetensors", *parts, lora_format=name) for name in ("diffusers", "kohya"))
    names = load_file(kohya)
    assert len(names) == 1.5 * len(load_file(ours)) and all(
        name.startswith(("lora_unet_", "lora_te_text_model_")) for name in names
    )
    first, second = (
        load_pipeline(str(tiny_epsilon), [(file, 1.0)]).generate(PROMPT, num_inference_steps=2, seeds=2, output_type="latent")
        for file in (ours, kohya)
    )
    torch.testing.assert_close(first, second, rtol=0, atol=1e-6)


def test_a_merged_lora_in_kohyas_layout_is_read_by_stock_and_by_us(tiny_epsilon, learned, tmp_path, monkeypatch):
    """Although its ranks differ, since its alphas do not: stock uses one alpha for all layers of such a file."""
    monkeypatch.chdir(tiny_epsilon.parent)  # a file that lies in no run tells of its base model the name alone
    file = merged(tmp_path / "both.safetensors", f"{learned['first']}:0.8", f"{learned['second']}:-0.4", scale=0.5)
    together = load_pipeline(None, [(learned["first"], 0.4), (learned["second"], -0.2)])
    theirs = stock(tiny_epsilon)
    theirs.load_lora_weights(file)
    assert_same_picture(together, theirs, PROMPT)
    ours = load_pipeline(None, [(file, 1.0)])
    assert_same_picture(ours, theirs, PROMPT)
    assert ours.trigger_words == ("sks",) and ours.family.name == tiny_epsilon.name
    [line] = find_learned("demo", [(file, 1.0)]).summaries
    assert line.endswith(f"adapter (merged), scale 1.0; trigger words: sks; learned on {tiny_epsilon.name}")


def test_the_loading_options_of_the_base_are_stored(tiny_v, tmp_path, monkeypatch):
    """v-prediction that only the weights' own settings tell."""
    base = tmp_path / "base"
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_v, base)
    config = json.loads((base / "scheduler/scheduler_config.json").read_text())
    (base / "scheduler/scheduler_config.json").write_text(json.dumps({**config, "prediction_type": "epsilon"}))
    folder = lora(tmp_path / "run", base)
    tensors = load_file(folder / FILE)
    with safe_open(folder / FILE, "pt") as opened:
        metadata = opened.metadata()
    facts = {**json.loads(metadata["customize"]), "settings": {"prediction_type": "v_prediction"}}
    save_file(tensors, folder / FILE, {**metadata, "customize": json.dumps(facts)})
    file, model = merged(tmp_path / "one.safetensors", str(folder)), merged(tmp_path / "model", str(folder))
    for again in (load_pipeline(None, [(file, 1.0)]), load_pipeline(str(model))):
        assert again.family.prediction_type == "v_prediction"


@pytest.mark.parametrize(
    ("target", "weights", "words"),
    [
        ("one.safetensors", ["word"], ["embeddings", "folder"]),
        ("one.safetensors", ["dora", "first"], ["DoRA", "folder"]),
        ("model", [], ["nothing to merge"]),
        ("model.ckpt", ["first"], ["pickle"]),
        ("model", ["first:0@0,1@0.5"], ["during denoising"]),
        ("photos", ["first"], ["holiday.jpg"]),
        ("photos/holiday.jpg", ["first"], ["file"]),
        ("photos/holiday.jpg/model", ["first"], ["file"]),
        (".", ["first"], ["current folder"]),
        ("loop", ["first"], ["broken link"]),
        ("loop/model", ["first"], ["loop"]),
    ],
)
def test_unmergeable_weights_are_refused_before_anything_loads(learned, tmp_path, monkeypatch, target, weights, words):
    monkeypatch.setattr("customize.families.load", lambda *_: pytest.fail("a model was loaded"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/holiday.jpg").write_bytes(b"mine")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    given = [f"{learned[name]}{colon}{scale}" for name, colon, scale in (each.partition(":") for each in weights)]
    with pytest.raises(InputError) as caught:
        merged(tmp_path / target, *given, overwrite_output_dir=True)
    assert all(word in str(caught.value) for word in words), caught.value
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["loop", "photos", "photos/holiday.jpg"]


def test_existing_files_are_replaced_only_on_request(tiny_epsilon, learned, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny_epsilon.parent)
    for target in (tmp_path / "model", tmp_path / "one.safetensors"):
        merged(target, str(learned["first"]))
        inside = target / "unet/diffusion_pytorch_model.safetensors" if target.is_dir() else target
        before = inside.read_bytes()
        with pytest.raises(InputError, match="overwrite_output_dir"):
            merged(target, f"{learned['first']}:0.5")
        assert inside.read_bytes() == before
        merged(target, f"{learned['first']}:0.5", overwrite_output_dir=True)
        assert inside.read_bytes() != before
    with pytest.raises(InputError, match="file to merge"):
        merged(tmp_path / "one.safetensors", str(tmp_path / "one.safetensors"), overwrite_output_dir=True)
    with pytest.raises(InputError, match="file to merge"):
        merged(Path(tiny_epsilon), str(learned["first"]), overwrite_output_dir=True)
    with pytest.raises(InputError, match="one of the two"):
        merged(tmp_path / "other", str(learned["first"]), sweep=["scale=0,1"])


def test_image_settings_without_effect_are_reported(learned, tmp_path, capsys, terminal):
    merged(tmp_path / "model", str(learned["first"]), prompt="a fox", num_inference_steps=5, guidance_scale=7.5)
    assert "note: no effect with merge, which generates no images: prompt, num_inference_steps\n" in capsys.readouterr().err
