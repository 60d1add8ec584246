"""Learned weights in the networks of a pipeline, and estimates under scales that change during denoising."""

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
    """All files in a family's networks. scales: one for each, as the next pictures are to be made with; set it at will."""

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
        """What `make` returns; where scales change on the way, what it returns under those of each of the `steps`."""
        wanted = [self.during(step, steps) for step in range(steps)]
        made = {}
        for scales in dict.fromkeys(wanted):
            self.set(scales)
            made[scales] = make()
        return Scheduled(tuple(made[scales] for scales in wanted), self, tuple(wanted)) if len(made) > 1 else made[wanted[0]]


@dataclass(frozen=True)
class Scheduled(Changing):
    """One estimate after another, each asked of networks in which learned weights have the scales that it was made under."""

    weights: LoadedWeights
    scales: tuple[tuple[Now, ...], ...]

    def now(self, step: "Step") -> Estimate:
        self.weights.set(self.scales[self.place(step)])
        return super().now(step)
