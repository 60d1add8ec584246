"""Learned weights that are loaded into the networks of a family. Their scales can be changed without loading them again.

N vectors of a word, D embedding width.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from customize.adapters import Adapter
from customize.adapters.forms.lycoris import change
from customize.adapters.forms.rotations import Terms
from customize.adapters.peft_layers import has_adapter, tuner_layers
from customize.families.base import Family
from customize.settings.scale import Now, apart


class Loaded(Protocol):
    """The loaded contents of one file."""

    def set_scale(self, scale: Now) -> None:
        """Sets the scale of the contents."""
        ...


class Changed:
    """A parameter of a module with the changes of any number of adapters, recomputed from its original value each time."""

    def __init__(self, module: nn.Module, name: str):
        self.module, self.name = module, name
        self.base: Tensor = getattr(module, name).detach().clone()
        self.terms: dict[str, Terms] = {}
        self.scales: dict[str, float] = {}

    def add(self, adapter: str, terms: Terms) -> None:
        """Adds the change of one adapter, at scale 0."""
        self.terms[adapter], self.scales[adapter] = terms, 0.0

    @torch.no_grad()
    def set_scale(self, adapter: str, scale: float) -> None:
        """Sets the scale of one adapter."""
        self.scales[adapter] = scale
        parameter = getattr(self.module, self.name)
        total = base = self.base.to(parameter.device).float()
        for name, terms in self.terms.items():
            if self.scales[name]:
                own = {kind: tensor.to(parameter.device) for kind, tensor in terms.items()}
                total = total + change(own, self.name, base, self.scales[name])
        parameter.data.copy_(total)


class LoadedAdapter:
    """The adapter `name` in the networks of a family: peft's layers that have it, and changes of the weights themselves."""

    def __init__(self, adapter: Adapter, family: Family, name: str, changed: Mapping[str, Sequence[Changed]]):
        self.adapter, self.name = adapter, name
        self.parts = [  # the denoiser first
            ([layer for layer in tuner_layers(network) if has_adapter(layer, name)], changed[part])
            for part, network in family.trainable.items()
        ]

    def set_scale(self, scale: Now) -> None:
        denoiser, text_encoder = apart(scale)
        for place, (layers, changed) in enumerate(self.parts):
            own = text_encoder if place else denoiser
            for layer in layers:
                self.adapter.set_scale(layer, self.name, own)
            for each in changed:
                each.set_scale(self.name, own)


@dataclass(frozen=True)
class LoadedWords:
    """Words in the vocabularies of the text encoders. vectors: (the parameter in use [N, D], its values at scale 1 in float32)
    of each word and encoder."""

    vectors: Sequence[tuple[nn.Parameter, Tensor]]

    def set_scale(self, scale: Now) -> None:
        for parameter, vectors in self.vectors:
            parameter.data.copy_(vectors * apart(scale)[1])


@dataclass(frozen=True)
class LoadedTogether:
    """The loaded contents of one file with several kinds of weights."""

    members: tuple[Loaded, ...]

    def set_scale(self, scale: Now) -> None:
        for member in self.members:
            member.set_scale(scale)


def adapters_of(parts: Iterable[Loaded]) -> list[LoadedAdapter]:
    """The adapters among the loaded files, in their order."""
    flat = [member for part in parts for member in (part.members if isinstance(part, LoadedTogether) else (part,))]
    return [each for each in flat if isinstance(each, LoadedAdapter)]
