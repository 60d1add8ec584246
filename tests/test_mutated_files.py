"""Damaged files by the thousand, through the commands and loaders that users call: refused by name, or sound."""

import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_hostile_files import mutated, seeds
from test_inference import embeddings, lora

from customize.data.examples import load_examples
from customize.data.images.image_file import open_image
from customize.errors import InputError
from customize.inference.pipeline_loading import load_pipeline
from customize.methods import DreamBoothSettings
from customize.storage.run_folder import LORA

ENDINGS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "BMP": "bmp", "TIFF": "tif"}


def put_pictures(folder: Path, first: int, last: int) -> set[str]:
    """Writes mutated images with image suffixes; returns the names of those that are refused individually."""
    folder.mkdir()
    originals = {name: data for name, data in seeds().items() if name != "safetensors"}
    refused = set()
    for number in range(first, last):
        dice = random.Random(f"mutation {number}")
        kind = dice.choice(sorted(originals))
        file = folder / f"{number}.{ENDINGS.get(kind.rpartition(' ')[2], 'png')}"
        file.write_bytes(mutated(originals[kind], dice))
        try:
            open_image(file)
        except InputError:
            refused.add(file.name)
    return refused


CHECK = """
import sys
from customize.__main__ import main
status = main(["check", *sys.argv[1:]])
with open("/proc/self/status") as file:
    print(*(line for line in file if line.startswith("VmHWM")))
sys.exit(status)
"""
"""`customize check`, and its largest memory: what the system reports of a child begins with the memory of its parent."""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("count", "together"), [(200, 200), pytest.param(10_000, 500, marks=pytest.mark.slow)])
def test_a_folder_of_mutated_images_is_checked(count, together, tmp_path):
    """`customize check` counts each that is damaged and names no other, with less than 1 GiB; each is a problem by name."""
    for first in range(0, count, together):
        folder = tmp_path / str(first)
        refused = put_pictures(folder, first, first + together)
        command = [sys.executable, "-c", CHECK, str(folder), "--captions", "prompt", "--instance_prompt", "a dog"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        printed = done.stdout + done.stderr
        assert done.returncode == 2 and "Traceback" not in printed, printed
        assert 20 << 10 < int(re.search(r"VmHWM:\s+(\d+) kB", printed)[1]) < 1 << 20
        firsts = re.findall(r"^error: (.+?): ", printed, re.MULTILINE)
        alike = re.findall(r"^      and (\d+) more with the same problem: (.+?)(?: and \d+ more)?$", printed, re.MULTILINE)
        named = {Path(file).name for file in [*firsts, *(file for _, files in alike for file in files.split(", "))]}
        assert named <= refused and len(firsts) + sum(int(number) for number, _ in alike) == len(refused)
        assert f"\n{len(refused)} errors, " in printed
        with pytest.raises(InputError) as caught:
            load_examples(DreamBoothSettings(instance_prompt="a dog", instance_data_dir=str(folder), resolution=512))
        assert sorted(refused) == sorted(Path(problem.where).name for problem in caught.value.problems)


@pytest.mark.parametrize("count", [40, pytest.param(2_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["words", "adapter"])
def test_mutated_weights_are_refused_or_loaded_with_finite_numbers(kind, count, tiny_epsilon, tmp_path):
    width = 32
    file = (
        embeddings(tmp_path / "learned_embeds.safetensors", tiny_epsilon, {"<toy>": torch.randn(2, width)})
        if kind == "words"
        else lora(tmp_path / "lora", tiny_epsilon) / LORA
    )
    original = file.read_bytes()
    header = 8 + int.from_bytes(original[:8], "little")
    refused = 0
    for number in range(count):
        dice = random.Random(f"{kind} {number}")
        where = dice.choice(("header", "all"))  # most of a file are its tensors
        changed = mutated(original[:header], dice) + original[header:] if where == "header" else mutated(original, dice)
        file.write_bytes(changed)
        started = time.process_time()
        try:
            pipeline = load_pipeline(None, [(file, 1.0)])
        except InputError:
            refused += 1
        else:
            parts = (pipeline.family.unet, pipeline.family.text_encoder)
            assert all(tensor.isfinite().all() for part in parts for tensor in part.parameters()), number
        assert time.process_time() - started < 5, number
    assert count // 3 < refused
