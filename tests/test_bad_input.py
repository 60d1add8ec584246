"""What is wrong with the user's input: one report, exit status 2, no traceback, nothing written, and torch not imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from kit import write_images
from PIL import Image

ROOT = Path(__file__).parents[1]
COMMAND = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print(sorted({"torch", "transformers", "diffusers", "accelerate", "peft", "datasets", "scipy"} & set(sys.modules)))
"""
TI = ["train_textual_inversion.py", "--placeholder_token", "<new>", "--initializer_token", "toy", "--train_data_dir", "pictures"]
DB = ["train_dreambooth.py", "--instance_prompt", "a photo of sks dog", "--instance_data_dir", "pictures"]

LONG = "a photo of sks dog on a wooden table before a window with plants, where a cat sleeps in the sun all day long"

CASES = {
    "settings alone of textual inversion": ([*TI, "--learning_rate", "-1", "--foo", "1"], ["--learning_rate", "--foo"]),
    "settings alone of DreamBooth": (["train_dreambooth.py", "--instance_prompt", LONG, *DB[3:], "--rank=0"], ["--rank"]),
    "settings alone beside a model on the hub": (
        ["train_dreambooth.py", "--instance_prompt", LONG, *DB[3:], "--rank=0", "--pretrained_model_name_or_path", "some/model"],
        ["--rank"],
    ),
    "settings alone of generating": (
        ["infer.py", "--prompt", LONG, "--guidance_scale=-1", "--sed=1"],
        ["--guidance_scale", "seed"],
    ),
    "a setting, a folder, three pictures and a flag": (
        [*TI[:1], "--placeholder_token", "<a>", "<b>", *TI[3:-1], "broken", "nowhere", "--learning_rate", "-1", "--foo"],
        ["--learning_rate", "--foo", "nowhere", "broken/cut.png", "broken/empty.jpg", "broken/fake.png", "6 problems"],
    ),
    "a misspelt setting": ([*DB, "--learning_rat", "1e-4"], ["learning_rat", "did you mean", "learning_rate"]),
    "a value out of range": ([*TI, "--max_train_steps", "0"], ["max_train_steps", "0"]),
    "no such folder": ([*DB[:-1], "nowhere"], ["nowhere"]),
    "a text in place of a picture": ([*DB[:-1], "broken"], ["broken/fake.png"]),
    "a cut picture": ([*DB[:-1], "broken"], ["broken/cut.png"]),
    "a pickle as base model": ([*TI, "--pretrained_model_name_or_path", "v1-5.ckpt"], ["v1-5.ckpt", "pickle", "safetensors"]),
    "half a base model": ([*DB, "--pretrained_model_name_or_path", "half"], ["half/vae", "missing", "half/unet"]),
    "a word of the model": ([*TI[:2], "photo", *TI[3:], "--pretrained_model_name_or_path", "BASE"], ["photo", "already a word"]),
    "settings that contradict": (
        [*DB, "--prior_preservation", "teacher", "--class_prompt", "a dog"],
        ["teacher", "adapter"],
    ),
    "a damaged file of weights": (["infer.py", "--prompt", "a dog", "--weights", "bad.safetensors"], ["bad.safetensors"]),
    "a pickle of weights": (["infer.py", "--prompt", "a dog", "--weights", "lora.safetensors"], ["lora.safetensors", "pickle"]),
    "everything at once": (
        [*DB[:-1], "broken", "--learning_rate", "-1", "--rank", "0", "--pretrained_model_name_or_path", "v1-5.ckpt"],
        ["learning_rate", "rank", "v1-5.ckpt", "broken/fake.png", "broken/cut.png"],
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_epsilon):
    folder = tmp_path_factory.mktemp("work")
    write_images(folder / "pictures")
    write_images(folder / "broken", 1)
    (folder / "broken/fake.png").write_text("not an image")
    Image.new("RGB", (64, 64), "red").save(folder / "broken/cut.png")
    (folder / "broken/empty.jpg").touch()
    data = (folder / "broken/cut.png").read_bytes()
    (folder / "broken/cut.png").write_bytes(data[: len(data) // 2])
    (folder / "v1-5.ckpt").write_bytes(b"PK")
    (folder / "lora.safetensors").write_bytes(b"PK\x03\x04" + b"\x00" * 60)
    (folder / "bad.safetensors").write_bytes(b"\x40\x00\x00\x00\x00\x00\x00\x00{")
    (folder / "half").mkdir()
    (folder / "half/model_index.json").write_text("{}")
    return folder


@pytest.mark.parametrize("name", CASES)
def test_refused(name, folder, tiny_epsilon):
    arguments, expected = CASES[name]
    arguments = [str(tiny_epsilon) if argument == "BASE" else argument for argument in arguments]
    before = sorted(folder.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, str(ROOT / arguments[0]), *arguments[1:]],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == "[]\n" and "Traceback" not in done.stderr
    for word in expected:
        assert word in done.stderr
    assert done.stderr.count("nothing was written") == 1
    assert all(done.stderr.count(f"\n  {word}: ") <= 1 for word in expected)
    assert sorted(folder.rglob("*")) == before
