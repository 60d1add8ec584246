"""Several concepts in one run: which of them a step is about.

All samples of a step are of one concept, as they are of one bucket. The steps of a run are rounds, in each of which every concept
has its turns, in random order: one each, or as many as its share of the images that an epoch uses. The images, buckets and class
images of a concept are dealt by the number of its turn, so in the order of a run of its own.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from customize import units
from customize.data.example import Example
from customize.data.samples.batches import Batch
from customize.data.samples.latent_dataset import ImageDataset, TurnOf
from customize.data.samples.prior import PriorDistillation, PriorPreservation
from customize.diffusion import rng

ConceptDataset = ImageDataset | PriorPreservation | PriorDistillation
"""Samples of one concept, with those of its prior."""


@dataclass(frozen=True)
class Turns:
    """Whose turn a step is. shares: how many turns each concept has in a round."""

    shares: tuple[int, ...]
    seed: int

    @classmethod
    def of(cls, settings, examples: Sequence[Example]) -> "Turns":
        """Those of a run: one each, unless concepts have repeats. examples: the training images."""
        if settings.repeats_of_concepts is None:
            return cls((1,) * len(settings.parts), settings.seed)
        uses = Counter[int]()
        for example in examples:
            uses[example.concept] += example.repeats
        common = math.gcd(*uses.values())
        return cls(tuple(uses[place] // common for place in range(len(settings.parts))), settings.seed)

    def at(self, step: int) -> tuple[int, int]:
        """(concept, which of its own steps) of a step, counted from 0."""
        number, place = divmod(step, sum(self.shares))
        order = self.order(number)
        concept = order[place]
        return concept, number * self.shares[concept] + order[:place].count(concept)

    def order(self, number: int) -> list[int]:
        """The concepts of the steps of a round."""
        turns = [concept for concept, share in enumerate(self.shares) for _ in range(share)]
        return [turns[place] for place in rng.permutation(len(turns), self.seed, "concepts", number)]

    def of_concept(self, concept: int) -> TurnOf:
        """The number of each step of the run among those of a concept, None for a step of another one."""

        def turn(step: int) -> int | None:
            whose, own = self.at(step)
            return own if whose == concept else None

        return turn


def in_words(settings, examples: Sequence[Example]) -> str:
    """How often each concept of a run is shown: `"a photo of sks dog" (5 images) and "a photo of ohwx cat" (9 images) equally
    often`."""
    shares, images = Turns.of(settings, examples).shares, Counter(example.concept for example in examples)
    named = [f"{part.subject} ({units.count(images[place], 'image')})" for place, part in enumerate(settings.parts)]
    if settings.repeats_of_concepts is None:
        return f"{' and '.join(named)} equally often: a step is of one of them, and each has its turn before one has a second"
    steps = units.count(sum(shares), "step")
    return " and ".join(f"{name} in {share}" for name, share in zip(named, shares, strict=True)) + f" of {steps}, by repeats"


class Concepts:
    """The samples of several concepts, those of a step all of one. datasets: of each concept, in the order of `turns`."""

    def __init__(self, datasets: Sequence[ConceptDataset], turns: Turns):
        self.datasets, self.turns = datasets, turns

    def deal(self, step: int, positions: Sequence[int]) -> Sequence[Batch]:
        """The samples at these positions of the step's global batch, one batch for each shape of latents."""
        return self.datasets[self.turns.at(step)[0]].deal(step, positions)

    def probe(self, number: int) -> Batch:
        """Fixed samples, in turn of each concept, at noise levels that are spread evenly. Where concepts have other shapes of
        latents, those are cut to what all have."""
        return in_turn([dataset.probe(number) for dataset in self.datasets])


def in_turn(probes: Sequence[Batch]) -> Batch:
    """Every so many rows of fixed samples of each concept, which together have each place once."""
    count = len(probes)
    own = [probe.part(slice(place, None, count)) for place, probe in enumerate(probes)]
    height, width = (min(probe.latents.shape[side] for probe in probes) for side in (2, 3))
    joined = Batch.cat([cut(batch, height, width) for batch in own])
    return joined.part(torch.tensor(joined.positions).argsort())


def cut(batch: Batch, height: int, width: int) -> Batch:
    """The batch with its upper left part alone, H = height and W = width; numbers of whole samples stay."""
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    areas = {
        name: each for name, each in values.items() if isinstance(each, Tensor) and each.shape[2:] == batch.latents.shape[2:]
    }
    return replace(batch, **{name: each[..., :height, :width] for name, each in areas.items()})


def stream_of(role: str, place: int) -> str:
    """The stream of the random draws of a concept. role: "instance" or "class"; place: of the concept."""
    return f"{role}/{place + 1}" if place else role
