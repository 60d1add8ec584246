"""Helpers for tests of training: images on disk, settings for each method, and the parts of a run without the run."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

METHODS = ("textual_inversion", "lora", "full")
"""Those of most tests; a fourth kind is `pivotal`, which learns a word beside a LoRA."""


def write_images(folder: Path, count: int = 3, size: tuple[int, int] = (24, 16), seed: int = 0) -> Path:
    """Writes random images as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for i in range(count):
        Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


def write_shapes(folder: Path) -> Path:
    """Writes four images, which are in three buckets at 16 pixels."""
    for number, size in enumerate([(24, 16), (48, 16), (16, 48), (60, 24)]):
        [image] = write_images(folder / "new", 1, size, seed=number).iterdir()
        image.rename(folder / f"{number}.png")
    (folder / "new").rmdir()
    return folder


@contextmanager
def mounted(folder: Path, mebibytes: int) -> Iterator[Path]:
    """Mounts a separate disk at this path; skips the test without the permission to mount."""
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("needs the permission to mount")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def conditioning(hidden_states):
    """Conditioning that consists of encoder_hidden_states [B, L, D] only."""
    from customize.families.conditioning import Conditioning

    return Conditioning({"encoder_hidden_states": hidden_states})


def hidden_states(conditioning):
    """encoder_hidden_states [B, L, D] of a conditioning that has no other tensors."""
    assert conditioning.tensors.keys() == {"encoder_hidden_states"}
    return conditioning.tensors["encoder_hidden_states"]


def denoiser(network):
    """Wraps a function (latents, timesteps, conditioning) -> tensor as a denoiser for the sampler."""
    from customize.families.base import DenoiserOutput

    return lambda *inputs: DenoiserOutput(network(*inputs))


def settings_for(method: str, base: Path, image_folder: Path, output: Path, **changes):
    """Settings of a short run of one of `METHODS`, or of `pivotal` tuning."""
    from customize.methods import DreamBoothSettings, TextualInversionSettings

    common = {
        "pretrained_model_name_or_path": str(base), "output_dir": str(output), "max_train_steps": 6, "checkpointing_steps": 2,
        "train_batch_size": 1, "report_to": ("none",), "validation_prompt": (), "seed": 3, "learning_rate": 1e-3,
        "random_flip": True, "crop_variants": 3,
    }  # fmt: skip
    if changes.get("validation_prompt", ()) != ():  # without which nothing is drawn
        common["evaluation"] = "none"
    words = {"placeholder_token": ("<new>",), "initializer_token": ("toy dog",), "num_vectors": (2,)}
    if method == "textual_inversion":
        return TextualInversionSettings(**{**common, **words, "train_data_dir": (str(image_folder),), **changes})
    own = {"instance_prompt": "a photo of sks dog", "instance_data_dir": str(image_folder)}
    if method == "pivotal":
        own |= {**words, "instance_prompt": "a photo of <new> dog"}
    if method in ("lora", "pivotal"):
        own |= {"adapter": "lora", "rank": 4, "lora_alpha": 2.0}
    return DreamBoothSettings(**{**common, **own, **changes})


def train_loop(settings, training, accelerator, steps, callbacks=(), method=None, dataset=None, scale=1.0, resume=None):
    """Runs only the training loop, as a run calls it; returns its last state."""
    from customize.training.loop import LoopConfig, train
    from customize.training.resumable import parts_of

    rates = training.learning_rates(settings, steps, scale)
    config, method, dataset = LoopConfig.of(settings, steps), method or training.method, dataset or training.dataset
    parts = parts_of(method, rates.optimizer, accelerator.scaler, *(callback.parts(method) for callback in callbacks))
    return train(config, method, dataset, callbacks, accelerator, rates, parts, resume, {})


def parts_for(method, settings, scaler=None):
    """The parts of the state of a run before its first step."""
    from customize.training.resumable import parts_of

    return parts_of(method, method.build_optimizer(settings), scaler)


def context_of(family, settings, examples=None, mixed_precision: str = "no", first_step: int = 0, skipped_draws: int = 0):
    """The context that a run passes to its method, with this family as the base model, on the CPU."""
    from accelerate import Accelerator

    from customize.training.preflight import check
    from customize.training.setup import RunContext

    accelerator = Accelerator(cpu=True, mixed_precision=mixed_precision)
    return RunContext(settings, accelerator, family, examples or check(settings)[2], first_step, skipped_draws)


def prepared(settings, first_step: int = 0, mixed_precision: str = "no", skipped_draws: int = 0):
    """Returns (context, training) as a run prepares them, on the CPU."""
    from customize.methods import prepare
    from customize.training.preflight import check
    from customize.training.setup import load_base

    _, source, examples = check(settings)
    context = context_of(load_base(settings, source), settings, examples, mixed_precision, first_step, skipped_draws)
    return context, prepare(settings, context)
