"""The loss on fixed draws, relative to that of the base model on the same ones: whether a run learns, by noise band.

The draws (image, crop, noise, timestep) come from a random stream of their own and nothing is differentiated, so a run has the
same bits with and without them, and equal weights give equal bits. Their timesteps are stratified: a loss depends far more on
its timestep than on anything else, which is why the loss of the steps shows so little. They are mean squared errors without a
weight, whatever loss the run minimizes, so that runs can be compared.

N fixed draws of a set; C latent channels, H W latent height and width.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from customize.data.samples.batches import Batch
from customize.diffusion.losses import mean_squared_error
from customize.evaluation.choice import spread_over
from customize.evaluation.learned_change import TOO_FAR, Change, kept, relative_change

TRAINING, HELD_OUT, OTHER_CROPS, CLASS, AS_CLASS = "training", "held out", "other crops", "class", "training as class"
"""The sets: training images under their captions; images, or crops of training images, that are not trained on; images of the
class under its prompt; training images under the prompt of the class."""
BANDS = 4
"""Quarters of the noise schedule, the least noise first."""
LEAST = 8
"""Draws on which a run's change is measured, at its start and at its end: 16 predictions; a run of 800 steps makes 2,400."""
SHARE = 0.02
"""Of the predictions of a run, counting three for each sample of a step (its gradient costs two), at most this many are made
here, unless the run is so short that `LEAST` draws at its start and end are more."""
MOST_TIMES = 40
LADDER = ((8, 8, 8, 8), (8, 4, 4, 4), (8, 4, 4, 0), (8, 4, 0, 0), (4, 4, 0, 0))
"""Draws of the training set, of one that is not trained on, of the class, and of the training set as the class."""
MOST_DRAWS = max(LEAST, *map(max, LADDER))


@dataclass(frozen=True)
class Plan:
    """How many draws of each set are measured, after which steps."""

    draws: dict[str, int]
    steps: tuple[int, ...]


def plan(steps: int, batch: int, sets: Sequence[str], times: int) -> Plan:
    """The richest measurement of these sets that costs at most `SHARE` of a run of `steps` steps of `batch` samples: after each
    of `times` evenly spread steps, or a multiple of them, else after fewer. The base model is measured too. A run that is too
    short for any has only the draws for its change."""
    affordable = SHARE * 3 * steps * batch
    for often in (times, 1):
        for rung in LADDER:
            order = dict(zip((TRAINING, *(HELD_OUT if HELD_OUT in sets else OTHER_CROPS, CLASS, AS_CLASS)), rung, strict=True))
            draws = {name: number for name, number in order.items() if number and name in sets}
            rounds = int(affordable // sum(draws.values())) - 1
            if rounds >= often:
                rounds = often * max(1, min(rounds, MOST_TIMES) // often)
                return Plan(draws, tuple(spread_over(steps, rounds)))
    return Plan({TRAINING: LEAST}, ())


@dataclass(frozen=True)
class Measured:
    """losses: by set, the loss of each noise band relative to the base model's; change: since the start of the run."""

    losses: dict[str, tuple[float, ...]]
    change: Change


class Probe:
    """Measures a method when created, and later relative to that.

    method: a `DenoisingMethod` before its first step, also when a run is resumed: the base model. sets: the draws, by name,
    `TRAINING` among them (the `probe` of datasets); size: of the batches in which they are evaluated; autocast: the context in
    which the networks are evaluated.
    """

    def __init__(self, method, sets: Mapping[str, Batch], device: torch.device, size: int, autocast: Callable[[], Any]):
        self.method, self.device, self.size, self.autocast = method, device, size, autocast
        self.sets, self.base = dict(sets), {name: self.predicted(batch) for name, batch in sets.items()}
        self.weights = kept(method)
        self.measured: dict[int, Measured] = {}

    def add(self, name: str, batch: Batch) -> None:
        """Adds a set while the networks are those of the base model."""
        self.sets[name], self.base[name] = batch, self.predicted(batch)

    @torch.no_grad()
    def predicted(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The predictions [N, C, H, W] and losses [N] of the present weights, float32 on the CPU. The method stays in its mode of
        training or evaluation."""
        was_training = self.method.training
        self.method.eval()
        predictions, losses = [], []
        for first in range(0, len(batch), self.size):
            part = batch.part(slice(first, first + self.size)).to(self.device)
            with self.autocast():
                prediction, target = self.method.prediction(part), self.method.denoising_target(part)
            predictions.append(prediction.float().cpu())
            losses.append(mean_squared_error(prediction, target, part.loss_mask).float().cpu())
        self.method.train(was_training)
        return torch.cat(predictions), torch.cat(losses)

    def at(self, step: int) -> Measured:
        """The measurements of the present weights, those of `step`; made once for each step."""
        if step not in self.measured:
            self.measured[step] = self.measure()
        return self.measured[step]

    def measure(self) -> Measured:
        """The measurements of the present weights."""
        found = {name: self.predicted(batch) for name, batch in self.sets.items()}
        losses = {name: relative(now, self.base[name][1]) for name, (_, now) in found.items()}
        (before, base), (predictions, now) = self.base[TRAINING], found[TRAINING]
        changed = ((predictions - before).norm() / before.norm()).item()
        weights = relative_change(self.method, self.weights, kept(self.method))
        too_far = TOO_FAR if self.method.small_changes else math.inf
        return Measured(losses, Change(weights, changed, (base.mean().item(), now.mean().item()), too_far, len(now)))


def relative(losses: Tensor, base: Tensor) -> tuple[float, ...]:
    """The mean of each band, of losses [N] at rising noise levels, divided by that of the base model."""
    bands = zip(losses.double().chunk(min(BANDS, len(losses))), base.double().chunk(min(BANDS, len(base))), strict=True)
    return tuple((now.mean() / start.mean()).item() for now, start in bands)
