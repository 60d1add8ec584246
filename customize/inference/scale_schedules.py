"""The learned weights in a pipeline's networks, and estimates whose weight scales change during denoising."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from customize.inference.estimates import Estimate
from customize.inference.prompt_estimates import Changing
from customize.settings.scale import Now, Scale, at
from customize.weights.loaded import Loaded
from customize.weights.weight_file import LearnedFile

if TYPE_CHECKING:
    from customize.inference.step import Step


class LoadedWeights:
    """All weight files loaded into a family's networks. scales: one per file, used for the next images; may be assigned."""

    def __init__(self, files: Sequence[LearnedFile] = (), parts: Sequence[Loaded] = ()):
        self.files, self.parts = tuple(files), tuple(parts)
        self.scales: tuple[Scale, ...] = tuple(file.scale for file in files)
        self.now: tuple[Now | None, ...] = (None,) * len(files)
        self.set(self.during(0, 1))

    def during(self, step: int, steps: int) -> tuple[Now, ...]:
        """The scale of each file at step 0, 1, ... of `steps`."""
        return tuple(at(scale, step, steps) for scale in self.scales)

    def set(self, scales: Sequence[Now]) -> None:
        """Sets the scale of each file in the networks."""
        for part, scale, before in zip(self.parts, scales, self.now, strict=True):
            if scale != before:
                part.set_scale(scale)
        self.now = tuple(scales)

    def scheduled(self, make: Callable[[], Estimate], steps: int) -> Estimate:
        """The estimate that `make` returns; if scales change during the `steps`, a `Scheduled` one, with one call per scale."""
        planned = [self.during(step, steps) for step in range(steps)]
        made = {}
        for scales in dict.fromkeys(planned):
            self.set(scales)
            made[scales] = make()
        return Scheduled(tuple(made[scales] for scales in planned), self, tuple(planned)) if len(made) > 1 else made[planned[0]]


@dataclass(frozen=True)
class Scheduled(Changing):
    """A sequence of estimates; before each one is evaluated, the learned weights are set to its scales."""

    weights: LoadedWeights
    scales: tuple[tuple[Now, ...], ...]

    def now(self, step: "Step") -> Estimate:
        self.weights.set(self.scales[self.place(step)])
        return super().now(step)
