"""The weights of candidates, exact, in the run's folder: what the result is chosen from."""

import math
from collections.abc import Collection
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from customize.evaluation.probe_prompts import pairs
from customize.evaluation.record import FOLDER
from customize.methods.method import Method
from customize.storage import checkpoint, manifest
from customize.storage.atomic import new_folder
from customize.storage.checkpoint import LEARNED, size
from customize.storage.disk import free_bytes
from customize.storage.run_folder import remove_own
from customize.storage.tensor_files import save_tensors
from customize.training.evaluating.resumed import WEIGHTS
from customize.training.setup import RunContext

LARGE = 256 << 20
"""Bytes of trained weights beyond which only those of the best candidate so far are kept."""
ROOM = 4
"""Weights are kept where there is room for so many of them: a checkpoint and the result come after them."""


class KeptWeights:
    """The trained tensors of candidates, by step: `evaluation/weights/step-000350/learned.safetensors`.

    steps: whose weights are there, and intact.
    """

    def __init__(self, folder: Path, method: Method):
        self.folder, self.method = folder / FOLDER / WEIGHTS, method
        self.bytes = size(method.trainable_state_dict())
        self.steps = {checkpoint.step_of(path) for path in checkpoint.every(self.folder) if not manifest.faults(path)}

    @property
    def most(self) -> float:
        """How many candidates' weights are kept."""
        return math.inf if self.bytes <= LARGE else 1

    def keep(self, step: int) -> None:
        """Keeps the present weights, those of `step`, if there is room for them."""
        path = self.folder / checkpoint.name(step)
        if free_bytes(path) < ROOM * self.bytes:
            return
        with new_folder(path, self.bytes) as unfinished:
            save_tensors(unfinished / LEARNED, self.method.trainable_state_dict(), self.method.description(), None)
            manifest.write(unfinished)
        self.steps.add(step)

    def load(self, step: int) -> dict[str, Tensor]:
        """The trained tensors of a step."""
        return load_file(self.folder / checkpoint.name(step) / LEARNED)

    def drop(self, steps: Collection[int]) -> None:
        """Removes the weights of these steps."""
        for step in steps:
            remove_own(self.folder / checkpoint.name(step))
        self.steps -= set(steps)


def planned_files(context: RunContext, method: Method) -> tuple[int, int]:
    """(pictures, files of weights) that the evaluation of a run will write, at most: pictures twice of the base model; of small
    weights the exact ones and those that are loaded like a result, of large ones the exact ones of the best so far and the next.
    """
    due = len([step for step in context.candidates if step > context.first_step])
    pictures = len(pairs(context.probe_prompts, context.settings.evaluation_seeds)) * (due + 2) if due else 0
    return pictures, 2 * due if size(method.trainable_state_dict()) <= LARGE else min(due, 2)
