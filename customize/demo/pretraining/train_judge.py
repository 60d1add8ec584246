"""Trains the judge of the demo world: `python -m customize.demo.pretraining.train_judge`.

Its renderings are not those of the generator, and include held-out objects. N images, Q questions, A answers to all questions
together.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from customize.demo.judge import (
    NOT_ASKED,
    QUESTIONS,
    WEIGHTS,
    Judge,
    JudgedWorld,
    as_pixels,
    by_question,
    labels,
    load_judge,
    parts,
    rates,
)
from customize.demo.pretraining.conv_muon import Muon, parameter_groups
from customize.demo.world import renderings
from customize.demo.world.world import RESOLUTION, Spec
from customize.settings.common import MANY, Settings
from customize.settings.field import override, setting
from customize.settings.frozen_model import Validated
from customize.storage.atomic import write_bytes

TRAINING_SEED, TEST_SEED = 1001, 2002  # of worlds that no generator is trained on
WEIGHT_OF_OBJECT = 2.0  # loss weight of the hardest question; all others have weight 1


class JudgeSettings(Validated):
    """Train the judge of the demo world on rendered images (needs the font Noto Color Emoji)."""

    command: ClassVar[str] = "-m customize.demo.pretraining.train_judge"

    num_pictures: int = setting(40_000, "data", "training images to render", ge=128, le=MANY)
    num_test_pictures: int = setting(2400, "data", "test images to render", ge=1, le=MANY)
    num_workers: int = setting(2, "data", "rendering processes", ge=1, le=1024)
    num_epochs: int = setting(4, "train", "epochs", ge=1, le=1000)
    train_batch_size: int = setting(96, "train", "images per step", ge=2, le=4096)
    learning_rate: float = setting(0.02, "train", "learning rate of Muon; that of AdamW is a fifth of it", gt=0, le=10)
    bf16: bool = setting(True, "train", "compute in bf16 where that is precise enough")
    output: str = setting(str(WEIGHTS), "output", "the file of the weights", default_in_words="customize/demo/judge.safetensors")
    data_dir: str = setting("runs/judge", "output", "folder of the renderings")
    seed: int = override(Settings, "seed", 0)


def disturbed(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Augments images uint8 [N, 64, 64, 3] by random mirroring, shifts, blur and noise: float32 [N, 3, 64, 64] in [-1, 1].

    Blur and noise imitate the artefacts of an autoencoder.
    """

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(len(pixels), *shape).uniform_(low, high, generator=generator)

    side = torch.arange(RESOLUTION)
    down, right = uniform(-3, 3, 1).round().long(), uniform(-3, 3, 1).round().long()
    rows, columns = (side + down).clamp(0, RESOLUTION - 1), (side + right).clamp(0, RESOLUTION - 1)
    columns = torch.where(uniform(0, 1, 1) < 0.5, columns.flip(1), columns)
    moved = as_pixels(pixels[torch.arange(len(pixels))[:, None, None], rows[:, :, None], columns[:, None]])
    soft = F.avg_pool2d(moved, 3, 1, 1, count_include_pad=False)
    moved = moved.lerp(soft, uniform(-0.4, 0.8, 1, 1, 1).clamp(min=0))
    noise = torch.randn(moved.shape, generator=generator)
    return moved + uniform(0, 0.06, 1, 1, 1) * noise + uniform(-0.03, 0.03, 3, 1, 1)


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of all questions, each averaged over the images that it applies to. targets: see `labels`."""
    losses = [
        F.cross_entropy(piece, column, ignore_index=NOT_ASKED, reduction="sum") / (column != NOT_ASKED).sum().clamp(min=1)
        for piece, column in zip(by_question(logits.float()), targets.unbind(1), strict=True)
    ]
    return WEIGHT_OF_OBJECT * losses[0] + torch.stack(losses[1:]).sum()


def train(judge: nn.Module, settings: JudgeSettings, pixels: np.ndarray, specs: Sequence[Spec]) -> Iterator[float]:
    """Yields the loss of each step. The learning rate warms up for a tenth of the steps, then decays linearly to 0."""
    generator = torch.Generator().manual_seed(settings.seed)
    optimizer = Muon(parameter_groups([judge], settings.learning_rate, settings.learning_rate / 5))
    data, targets = torch.from_numpy(np.array(pixels)), labels(specs)
    batches = len(data) // settings.train_batch_size
    steps = settings.num_epochs * batches
    warmup = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))
    )
    for _ in range(settings.num_epochs):
        order = torch.randperm(len(data), generator=generator)[: batches * settings.train_batch_size]
        for chosen in order.split(settings.train_batch_size):
            batch = disturbed(data[chosen], generator).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.bf16):
                logits = judge(batch)
            error = loss(logits, targets[chosen])
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
            schedule.step()
            yield error.item()


def save_judge(judge: nn.Module, file: Path) -> None:
    """Writes the weights in half precision, with the questions as metadata."""
    tensors = {name: tensor.half().contiguous() for name, tensor in judge.state_dict().items() if tensor.is_floating_point()}
    write_bytes(file, save(tensors, {"questions": json.dumps(QUESTIONS)}))


def run(settings: JudgeSettings) -> None:
    """Renders the images, trains, writes the weights and prints the rates on test images."""
    folder, world = Path(settings.data_dir), JudgedWorld()
    renderings.prepare(world, TRAINING_SEED, settings.num_pictures, folder / "train", settings.num_workers)
    renderings.prepare(world, TEST_SEED, settings.num_test_pictures, folder / "test", settings.num_workers)
    pixels, specs = renderings.load(folder / "train")
    torch.manual_seed(settings.seed)
    judge = Judge().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    steps = settings.num_epochs * (len(pixels) // settings.train_batch_size)
    with tqdm(train(judge, settings, pixels, specs), total=steps, unit="step", dynamic_ncols=True, mininterval=5) as bar:
        for error in bar:
            bar.set_postfix(loss=f"{error:.3f}")
    save_judge(judge, Path(settings.output))
    pixels, specs = renderings.load(folder / "test")
    for name, part in parts(specs).items():
        print(f"{name}: {rates(load_judge(settings.output), pixels[part], [specs[index] for index in part])}")


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the settings and trains; returns the exit status."""
    from customize.cli.main import main

    return main(JudgeSettings, run, argv)


if __name__ == "__main__":
    sys.exit(main())
