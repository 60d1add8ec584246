"""From what users write to estimates: each prompt read by the grammar, each different text encoded once.

B pictures.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from customize import prompts as grammar
from customize.errors import InputError, Problem
from customize.families.conditioning import Conditioning
from customize.inference.estimates import Composed, Conditional, DenoiserInput, Estimate, Guided
from customize.prompts import Clause, Span

if TYPE_CHECKING:
    from customize.inference.step import Step

Text = tuple[Span, ...]
Encode = Callable[[Sequence[Text]], Conditioning]
"""Texts -> conditioning, a row for each."""


@dataclass(frozen=True)
class InterpolatedPrompt:
    """A prompt interpolated between two. part: 0 is the first, 1 the second; spherical: see `Conditioning.interpolate`."""

    first: str
    second: str
    part: float
    spherical: bool = False


Prompt = str | InterpolatedPrompt


@dataclass(frozen=True)
class Clauses:
    """What a picture is to show: clauses, each at its place on the way from a first to a second wording of it."""

    first: tuple[Clause, ...]
    second: tuple[Clause, ...]
    part: float = 0.0
    spherical: bool = False

    def texts(self, steps: int) -> Iterator[Text]:
        """Everything that has to be encoded."""
        for clause in (*self.first, *self.second):
            yield from clause.schedule(steps)


@dataclass(frozen=True)
class Changing:
    """One estimate after another, each for an equal part of the way: prompts that change."""

    estimates: tuple[Estimate, ...]

    def place(self, step: "Step") -> int:
        """Which of the estimates is this step's."""
        return step.index * len(self.estimates) // step.count

    def now(self, step: "Step") -> Estimate:
        """The estimate of this step."""
        return self.estimates[self.place(step)]

    def inputs(self, latents: Tensor, step: "Step") -> list[DenoiserInput]:
        return self.now(step).inputs(latents, step)

    def combine(self, outputs: Iterator[Tensor], latents: Tensor, step: "Step") -> Tensor:
        return self.now(step).combine(outputs, latents, step)


def read(prompt: Prompt, plain: bool, where: str = "prompt") -> Clauses:
    """A prompt by the grammar, or as it stands. Raises InputError that shows the place, and for AND on the way between."""
    parse = grammar.plain if plain else (lambda text: grammar.parse(text, where))
    if isinstance(prompt, str):
        clauses = parse(prompt).clauses
        return Clauses(clauses, clauses)
    first, second = parse(prompt.first).clauses, parse(prompt.second).clauses
    if len(first) + len(second) > 2:
        raise InputError(Problem(where, "AND has no meaning on the way between two prompts", "leave it out"))
    return Clauses(first, second, prompt.part, prompt.spherical)


def prompt_estimate(
    encode: Encode,
    prompts: Sequence[Prompt],
    negatives: Sequence[str],
    scales: Tensor,
    steps: int,
    plain: bool = False,
    network_guides: bool = False,
    rescale: float = 0.0,
    further: Mapping[str, Tensor] = MappingProxyType({}),
) -> Estimate:
    """The estimate of B pictures, each with its prompt, negative prompt and guidance scale [B, 1, 1, 1].

    steps: into how many parts the way is divided for prompts that change. Where no scale is above 1 and no prompt has
    AND, negative prompts are not asked. network_guides: the network takes the scale as an input, and negative prompts are
    never asked. rescale: see `estimates.rescaled`. further: conditioning of all B
    images besides their texts. Raises InputError as `read`, for AND in a negative prompt, and for AND
    where the network guides.
    """
    wanted = [read(prompt, plain) for prompt in prompts]
    unwanted = [read(prompt, plain, "negative_prompt") for prompt in negatives]
    if any(len(each.first) > 1 for each in unwanted):
        raise InputError(Problem("negative_prompt", "AND has no meaning in a negative prompt", "use a comma"))
    most = max(len(each.first) for each in wanted)
    weights = torch.tensor([[clause.weight for clause in each.first] + [0.0] * (most - len(each.first)) for each in wanted])
    if network_guides and most > 1:
        what = "AND is not possible here: the base model takes guidance as a number, and no negative prompt"
        raise InputError(Problem("prompt", what, "use a comma, or take another base model"))
    guided = not network_guides and (bool(scales.max() > 1) or most > 1 or bool((weights != 1).any()))
    texts = dict.fromkeys(text for each in [*wanted, *(unwanted if guided else [])] for text in each.texts(steps))
    encoded = dict(zip(texts, encode(list(texts)).split(1), strict=True))
    guidance = {"guidance_scale": scales.flatten()} if network_guides else {}
    positives = [clause_estimate(wanted, number, encoded, steps, {**further, **guidance}) for number in range(most)]
    if not guided:
        return positives[0]
    negative = clause_estimate(unwanted, 0, encoded, steps, further)
    if most == 1 and bool((weights == 1).all()):
        return Guided(positives[0], negative, scales, rescale)
    parts = zip(positives, weights.to(scales).T[..., None, None, None], strict=True)
    return Composed(tuple(parts), negative, scales, rescale)


def clause_estimate(
    wanted: Sequence[Clauses],
    number: int,
    encoded: dict[Text, Conditioning],
    steps: int,
    further: Mapping[str, Tensor] = MappingProxyType({}),
) -> Estimate:
    """The estimate for clause `number` of every picture, or its last clause where it has fewer.

    encoded: one row for each text; further: conditioning of all B pictures besides their texts.
    """

    def at(each: Clauses, step: int) -> Conditioning:
        first, second = (encoded[c[min(number, len(c) - 1)].at(step, steps)] for c in (each.first, each.second))
        return first if each.part == 0 else first.interpolate(second, each.part, each.spherical)

    def at_step(step: int) -> Conditional:
        return Conditional(Conditioning.cat([at(each, step) for each in wanted]).extended(**further))

    told = [tuple(c[min(number, len(c) - 1)].schedule(steps) for c in (each.first, each.second)) for each in wanted]
    if all(len(set(schedule)) == 1 for pair in told for schedule in pair):
        return at_step(0)
    return Changing(tuple(map(at_step, range(steps))))
