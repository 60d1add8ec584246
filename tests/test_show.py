"""`customize show`: what is in a file of weights, against what was written into it."""

import json
import subprocess
import sys

import pytest
import torch
from kit import prepared, settings_for
from safetensors.torch import save_file
from test_convert import layers, written
from test_layouts import KNOWN, SD1, SD2, XL, file_of

from customize.adapters.lora_files import in_layout
from customize.adapters.lora_layouts import LAYOUTS
from customize.cli import commands
from customize.storage.run_folder import KOHYA_LORA, LORA
from customize.training import model_card


def shown(capsys, *files, status: int = 0) -> str:
    assert commands.show([str(file) for file in files]) == status
    return "".join(capsys.readouterr())


def as_json(capsys, file) -> dict:
    return json.loads(shown(capsys, file, "--json"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_adapter_in_every_layout(layout, tmp_path, capsys):
    """Layout, base model, and rank, alpha and scale of each group of layers."""
    tensors, metadata = in_layout(LAYOUTS[layout], layers(XL, False), KNOWN[XL].networks, KNOWN[XL].modules)
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    found = as_json(capsys, tmp_path / "a.safetensors")
    same = {"kohya-ldm": "kohya"}
    assert (found["kind"], found["layout"], found["fits"]) == ("LoRA", same.get(layout, layout), XL)
    groups = found["networks"]["unet"]
    assert {name: group["modules"] for name, group in groups.items()} == {
        "attention": 2, "feed-forward": 1, "proj_in, proj_out": 1, "convolutions": 3, "other layers": 1,
    }  # fmt: skip
    assert groups["feed-forward"] == {"modules": 1, "types": ["LoRA"], "rank": [3], "alpha": [12.0], "scale": [4.0]}
    assert groups["attention"]["rank"] == [1, 3] and groups["attention"]["alpha"] == [0.5, 1.0]
    assert found["parameters"] == sum(tensor.numel() for tensor in tensors.values())


def test_the_file_of_a_whole_model_in_words(tmp_path, capsys):
    tensors = {name: torch.full(tensor.shape, 4.0, dtype=torch.bfloat16) for name, tensor in file_of(XL, "kohya")[1].items()}
    metadata = {
        "ss_learning_rate": "0.0001", "ss_base_model_version": "sdxl_base_v1-0", "ss_lr_scheduler": "\x1b[31m",
        "ss_tag_frequency": json.dumps({"10_cat": {"cat": 10, "red": 3}}), "ss_new_sd_model_hash": "ab" * 32,
        "modelspec.title": "my cat", "modelspec.trigger_phrase": "sks cat",
    }  # fmt: skip
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    output = shown(capsys, tmp_path / "a.safetensors")
    for line in (
        "kind                  LoRA", "kohya: read by ComfyUI, A1111, Forge, InvokeAI, SD.Next", "fits                  SDXL",
        "attention: 560 LoRA, rank 4, alpha 4, scale 1", "feed-forward: 140 LoRA", "proj_in, proj_out: 22 LoRA",
        "text_encoder_2        attention: 128 LoRA", "base model            SDXL", "trigger words         sks cat",
        "frequent tags         cat, red", "numbers in 3,156 tensors: BF16 (3156)", "learning_rate 0.0001; lr_scheduler \\x1b[31m",
        f"ss_new_sd_model_hash  {'ab' * 20}",
    ):  # fmt: skip
        assert line in output, output
    assert "\x1b" not in output


def test_types_of_adapters(tmp_path, capsys):
    tensors = {"lora_unet_conv_in.hada_w1_a": torch.ones(320, 2), "lora_unet_conv_in.hada_w1_b": torch.ones(2, 36)}
    tensors |= {
        "lora_unet_conv_out.diff": torch.ones(4, 320, 3, 3),
        "lora_unet_conv_in.alpha": torch.tensor(1, dtype=torch.int64),
    }
    save_file(tensors, tmp_path / "a.safetensors")
    found = as_json(capsys, tmp_path / "a.safetensors")
    assert found["kind"] == "LoHa and difference" and found["networks"]["unet"]["convolutions"]["scale"] == [0.5]
    dora = written(tmp_path / "b.safetensors", SD2, "diffusers", dora=True)
    assert as_json(capsys, dora)["kind"] == "DoRA" and as_json(capsys, dora)["fits"] == SD2


def test_embeddings_models_and_what_is_not_supported(tiny_epsilon, tmp_path, capsys):
    save_file({"clip_l": torch.ones(2, 768), "clip_g": torch.ones(2, 1280)}, tmp_path / "cat.safetensors")
    output = shown(capsys, tmp_path / "cat.safetensors", tiny_epsilon)
    assert "word  cat: vectors: 2 of width 1280, 2 of width 768" in output and "fits  SDXL" in output
    assert "kind          complete model" in output and "predicts      epsilon" in output
    assert "unet          " in output and "vae           " in output and "F32 (" in output
    save_file({"control_model.input_hint_block.0.weight": torch.ones(3)}, tmp_path / "b.safetensors")
    assert "kind  a ControlNet, which is not supported here" in shown(capsys, tmp_path / "b.safetensors")
    whole = {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(3), "first_stage_model.x": torch.ones(1)}
    save_file(whole, tmp_path / "c.safetensors")
    output = shown(capsys, tmp_path / "c.safetensors")
    assert "kind     complete model, which is not supported here" in output and "unet     1 tensors" in output
    assert "problem  holds no" in output
    save_file({"weight": torch.ones(3, 3, 3)}, tmp_path / "d.safetensors")
    assert "kind  unknown, which is not supported here" in shown(capsys, tmp_path / "d.safetensors")
    (tmp_path / "e.safetensors").write_bytes(b"PK\x03\x04")
    assert "is a pickle" in shown(capsys, tmp_path / "e.safetensors", status=2)
    assert "the following arguments are required: FILE" in shown(capsys, status=2)


def test_our_own_results(tiny_epsilon, image_folder, tmp_path, capsys):
    settings = settings_for("lora", tiny_epsilon, image_folder, tmp_path / "run")
    context, training = prepared(settings)
    training.method.save(tmp_path, model_card.metadata(settings, training.method, context.family, 6))
    for name in (LORA, KOHYA_LORA):
        found = as_json(capsys, tmp_path / name)
        assert found["networks"]["unet"]["attention"]["alpha"] == [2.0] and found["networks"]["unet"]["attention"]["rank"] == [4]
        assert found["trigger_words"] == ["a photo of sks dog"] and found["settings"]["rank"] == 4 and found["steps"] == 6, name


def test_it_needs_no_torch(tmp_path):
    written(tmp_path / "a.safetensors", SD1, "kohya")
    code = "import sys; from customize.cli import commands; commands.show(['a.safetensors']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True).returncode == 0


@pytest.mark.parametrize(
    "metadata",
    [
        {"lora_adapter_metadata": json.dumps({"unet.r": 2, "unet.lora_alpha": 1, "unet.alpha_pattern": {"(a+)+$": 3}})},
        {"lora_adapter_metadata": "{", "customize": "["}, {"customize": json.dumps({"settings": [], "trigger_words": [3]})},
        {"ss_tag_frequency": "[[[", "modelspec.title": "\x1b[2J", "ss_\x1b[31m": "\x1b[31m"},
    ],
)  # fmt: skip
def test_hostile_metadata_is_text(metadata, tmp_path, capsys):
    """A pattern that would run for ever is not matched, control characters are not printed."""
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {f"{name}.lora_A.weight": torch.ones(2, 1280), f"{name}.lora_B.weight": torch.ones(1280, 2)}
    save_file(tensors, tmp_path / f"{'a' * 40}.safetensors", metadata)
    output = shown(capsys, tmp_path / f"{'a' * 40}.safetensors")
    assert "attention: 1 LoRA, rank 2" in output and "\x1b" not in output
    assert ("metadata" in output and "damaged" in output) == ("ss_tag_frequency" not in metadata)


def test_hostile_names_are_text(tmp_path, capsys):
    save_file({"unet.\x1b[31m.weight": torch.ones(3), "\x1b[2J.x": torch.ones(3)}, tmp_path / "a.safetensors")
    assert "\x1b" not in shown(capsys, tmp_path / "a.safetensors")
