"""Learned weights in the networks of a family: their scales can be set without loading anything again.

N vectors of a word, D embedding width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from customize.adapters.peft_layers import tuner_layers
from customize.families.base import Family
from customize.families.token_table import TokenTable
from customize.settings.scale import Now, apart
from customize.weights.lycoris import Changed


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
