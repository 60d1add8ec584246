"""Turns prompts into estimates: parses each prompt, and encodes each distinct text once.

B images.
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
    """An interpolation of two prompts. part: 0 is the first, 1 the second; spherical: see `Conditioning.interpolate`."""

    first: str
    second: str
    part: float
    spherical: bool = False


Prompt = str | InterpolatedPrompt


@dataclass(frozen=True)
class Clauses:
    """The parsed prompt of one image: its clauses, interpolated from `first` to `second` by `part`."""

    first: tuple[Clause, ...]
    second: tuple[Clause, ...]
    part: float = 0.0
    spherical: bool = False

    def texts(self, steps: int) -> Iterator[Text]:
        """All texts to encode."""
        for clause in (*self.first, *self.second):
            yield from clause.schedule(steps)


@dataclass(frozen=True)
class Changing:
    """A sequence of estimates, each for an equal share of the steps: prompts that change during denoising."""

    estimates: tuple[Estimate, ...]

    def place(self, step: "Step") -> int:
        """The index of this step's estimate."""
        return step.index * len(self.estimates) // step.count

    def now(self, step: "Step") -> Estimate:
        """The estimate of this step."""
        return self.estimates[self.place(step)]

    def inputs(self, latents: Tensor, step: "Step") -> list[DenoiserInput]:
        return self.now(step).inputs(latents, step)

    def combine(self, outputs: Iterator[Tensor], latents: Tensor, step: "Step") -> Tensor:
        return self.now(step).combine(outputs, latents, step)


def read(prompt: Prompt, plain: bool, where: str = "prompt") -> Clauses:
    """Parses a prompt, unless it is plain. Raises InputError for a syntax error and for AND in an interpolation."""
    parse = grammar.plain if plain else (lambda text: grammar.parse(text, where))
    if isinstance(prompt, str):
        clauses = parse(prompt).clauses
        return Clauses(clauses, clauses)
    first, second = parse(prompt.first).clauses, parse(prompt.second).clauses
    if len(first) + len(second) > 2:
        raise InputError(Problem(where, "AND cannot be interpolated between two prompts", "remove it"))
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
    extra: Mapping[str, Tensor] = MappingProxyType({}),
) -> Estimate:
    """The estimate of B images, each with its prompt, negative prompt and guidance scale [B, 1, 1, 1].

    steps: number of steps, for prompts that change. If no scale is above 1 and no prompt has AND, negative prompts are not
    evaluated. network_guides: the network takes the scale as an input (LCM), and negative prompts are never evaluated.
    rescale: see `estimates.rescaled`. extra: conditioning of the B images besides their texts. Raises InputError as
    `read`, for AND in a negative prompt, and for AND if the network takes the scale.
    """
    positive = [read(prompt, plain) for prompt in prompts]
    negative = [read(prompt, plain, "negative_prompt") for prompt in negatives]
    if any(len(each.first) > 1 for each in negative):
        raise InputError(Problem("negative_prompt", "AND is not allowed in a negative prompt", "use a comma"))
    most = max(len(each.first) for each in positive)
    weights = torch.tensor([[clause.weight for clause in each.first] + [0.0] * (most - len(each.first)) for each in positive])
    if network_guides and most > 1:
        what = "AND needs classifier-free guidance, but this base model (LCM) takes guidance_scale as an input"
        raise InputError(Problem("prompt", what, "use a comma, or another base model"))
    guided = not network_guides and (bool(scales.max() > 1) or most > 1 or bool((weights != 1).any()))
    texts = dict.fromkeys(text for each in [*positive, *(negative if guided else [])] for text in each.texts(steps))
    encoded = dict(zip(texts, encode(list(texts)).split(1), strict=True))
    guidance = {"guidance_scale": scales.flatten()} if network_guides else {}
    clauses = [clause_estimate(positive, number, encoded, steps, {**extra, **guidance}) for number in range(most)]
    if not guided:
        return clauses[0]
    unguided = clause_estimate(negative, 0, encoded, steps, extra)
    if most == 1 and bool((weights == 1).all()):
        return Guided(clauses[0], unguided, scales, rescale)
    parts = zip(clauses, weights.to(scales).T[..., None, None, None], strict=True)
    return Composed(tuple(parts), unguided, scales, rescale)


def clause_estimate(
    prompts: Sequence[Clauses],
    number: int,
    encoded: dict[Text, Conditioning],
    steps: int,
    extra: Mapping[str, Tensor] = MappingProxyType({}),
) -> Estimate:
    """The estimate for clause `number` of each image, or for its last clause if it has fewer.

    encoded: one row per text; extra: conditioning of the B images besides their texts.
    """

    def at(each: Clauses, step: int) -> Conditioning:
        first, second = (encoded[c[min(number, len(c) - 1)].at(step, steps)] for c in (each.first, each.second))
        return first if each.part == 0 else first.interpolate(second, each.part, each.spherical)

    def at_step(step: int) -> Conditional:
        return Conditional(Conditioning.cat([at(each, step) for each in prompts]).extended(**extra))

    schedules = [tuple(c[min(number, len(c) - 1)].schedule(steps) for c in (each.first, each.second)) for each in prompts]
    if all(len(set(schedule)) == 1 for pair in schedules for schedule in pair):
        return at_step(0)
    return Changing(tuple(map(at_step, range(steps))))
