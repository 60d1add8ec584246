"""Where a base model lies: found by name, and checked without loading it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from customize.errors import InputError
from customize.families.files.folder_check import Parts, check_folder
from customize.families.source import Source, locate


@pytest.fixture
def folder(tmp_path) -> Path:
    """A model in diffusers' layout as far as it is looked at: one small tensor a network."""
    folder = tmp_path / "model"
    for part in (*Parts().networks, "tokenizer", "scheduler"):
        (folder / part).mkdir(parents=True)
    for part in Parts().networks:
        (folder / part / "config.json").write_text("{}")
        save_file({"weight": np.ones(3, np.float32)}, folder / part / "model.safetensors")
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps({"_class_name": "DDIMScheduler"}))
    (folder / "model_index.json").write_text("{}")
    return folder


def refusal(name: object, variant: str | None = None) -> str:
    with pytest.raises(InputError) as caught:
        locate(str(name), variant=variant)
    assert all(problem.remedy for problem in caught.value.problems)
    return str(caught.value)


def test_a_folder(folder):
    assert locate(str(folder)) == Source(str(folder), folder=folder)


def test_a_hub_name_is_left_for_the_hub():
    assert locate("stabilityai/stable-diffusion-2-1") == Source("stabilityai/stable-diffusion-2-1")


@pytest.mark.parametrize("name", ["./no/such", "/no/such", "~/no_such_folder", "../no_such", "a/b/c", "a\\b"])
def test_a_missing_folder_is_not_searched_on_the_hub(name):
    assert f"no folder {name}" in refusal(name)


@pytest.mark.parametrize("name", ["v1-5.ckpt", "/models/x.pt", "model.bin"])
def test_a_pickle_is_refused_by_its_name(name):
    assert "is a pickle" in refusal(name) and "safetensors" in refusal(name)


def test_a_missing_single_file():
    assert "no file no_such.safetensors" in refusal("no_such.safetensors")


def test_a_damaged_single_file(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"\xff" * 100)
    assert "not a complete safetensors file" in refusal(tmp_path / "x.safetensors")


def test_a_folder_of_something_else(tmp_path):
    assert "no model_index.json" in refusal(tmp_path)


def test_all_missing_parts_are_named_at_once(folder):
    for part in ("tokenizer", "vae", "scheduler"):
        shutil.rmtree(folder / part)
    (folder / "unet/config.json").write_text("{")
    with pytest.raises(InputError) as caught:
        check_folder(folder)
    where = {problem.where.removeprefix(f"{folder}/") for problem in caught.value.problems}
    assert where == {"tokenizer", "scheduler/scheduler_config.json", "unet/config.json", "vae/config.json", "vae"}


def test_a_truncated_network_is_named(folder):
    file = folder / "unet/model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert f"{file}: has the wrong size" in refusal(folder)


def test_a_network_in_pickles_only(folder):
    (folder / "text_encoder/model.safetensors").rename(folder / "text_encoder/pytorch_model.bin")
    assert "only pickles" in refusal(folder)


def test_a_variant_is_looked_for_in_every_network(folder):
    assert refusal(folder, "fp16").count("fp16") == 3
    for part in Parts().networks:
        shutil.copy(folder / part / "model.safetensors", folder / part / "model.fp16.safetensors")
    assert locate(str(folder), variant="fp16") == Source(str(folder), folder=folder, variant="fp16")


def test_a_folder_of_only_variants_needs_its_name(folder):
    for part in Parts().networks:
        (folder / part / "model.safetensors").rename(folder / part / "model.fp16-00001-of-00001.safetensors")
    assert refusal(folder).count("model.fp16-00001-of-00001.safetensors") == 3 and "--variant" in refusal(folder)
    assert locate(str(folder), variant="fp16") == Source(str(folder), folder=folder, variant="fp16")


def test_a_single_file_of_another_kind_is_refused_before_loading(tmp_path):
    save_file({"lora_unet_mid.lora_up.weight": np.ones((2, 2), np.float32)}, tmp_path / "x.safetensors")
    assert "is a LoRA, not a base model" in refusal(tmp_path / "x.safetensors")


def test_torch_is_not_imported(folder, tmp_path):
    """By a folder, a file of SDXL, and one that is refused."""
    names = ["first_stage_model.x", "conditioner.embedders.0.transformer.x", "conditioner.embedders.1.model.x"]
    shapes = dict.fromkeys([*names, "model.diffusion_model.label_emb.0.0.weight"], 1)
    shapes |= {"model.diffusion_model.input_blocks.0.0.weight": (8, 4, 3, 3)}
    save_file({name: np.zeros(shape, np.float32) for name, shape in shapes.items()}, tmp_path / "xl.safetensors")
    save_file({name: np.zeros(1, np.float32) for name in names}, tmp_path / "part.safetensors")
    code = """import sys; from customize.families import locate; from customize.errors import InputError
locate(sys.argv[1]), locate(sys.argv[2])
try: locate(sys.argv[3])
except InputError: assert 'torch' not in sys.modules
else: raise AssertionError"""
    files = [str(tmp_path / name) for name in ("xl.safetensors", "part.safetensors")]
    subprocess.run([sys.executable, "-c", code, str(folder), *files], check=True, cwd=Path(__file__).parents[1])
