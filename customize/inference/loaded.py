"""Learned weights that are in the networks already: their scales can be set anew without loading anything.

N vectors of a word, D embedding width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from customize.adapters.peft_layers import tuner_layers
from customize.families.base import Family
from customize.families.tokens import TokenTable
from customize.inference.changes import Changed
from customize.inference.estimates import Estimate
from customize.inference.learned import LearnedFile
from customize.inference.wording import Changing
from customize.scales import Now, Scale, apart, at

if TYPE_CHECKING:
    from customize.inference.step import Step


class Loaded(Protocol):
    """What one file holds, in the networks."""

    def set_scale(self, scale: Now) -> None:
        """Makes it count so strongly."""
        ...


class LoadedAdapter:
    """The adapter `name`: layers beside modules of the family's networks, and changes of weights, by network."""

    def __init__(self, family: Family, name: str, changed: Mapping[str, Sequence[Changed]]):
        self.name = name
        self.parts = [  # the denoiser's first
            ([layer for layer in tuner_layers(network) if name in layer.scaling], changed[part])
            for part, network in family.trainable.items()
        ]

    def set_scale(self, scale: Now) -> None:
        denoiser, text_encoder = apart(scale)
        for place, (layers, changed) in enumerate(self.parts):
            for each in (*layers, *changed):
                each.set_scale(self.name, text_encoder if place else denoiser)


@dataclass(frozen=True)
class LoadedWords:
    """Words of a token table. vectors: those that a word was learned as, [N, D] in float32 on the CPU, by its place there."""

    table: TokenTable
    vectors: dict[int, Tensor]

    def set_scale(self, scale: Now) -> None:
        for place, vectors in self.vectors.items():
            self.table.vectors[place].data.copy_(vectors * apart(scale)[1])


@dataclass(frozen=True)
class LoadedTogether:
    """What one file holds of several kinds."""

    members: tuple[Loaded, ...]

    def set_scale(self, scale: Now) -> None:
        for member in self.members:
            member.set_scale(scale)


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
