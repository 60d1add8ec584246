"""Evaluations of the denoiser that the pictures of a run cost, and how many candidates are worth it. torch is not imported."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from customize.evaluation.photos import MOST_PHOTOS
from customize.evaluation.probe_prompts import MOST_STEPS, pairs
from customize.evaluation.record import BASE, ProbePrompt
from customize.settings.concept import Concept

USUAL_CANDIDATES = 4
LEVELS, MAPS = 2, 6
"""Evaluations of the base model as a scorer (`scorers.base_model`, `masks.word_maps`): for each picture with each prompt that it
is compared with, and for the mask of an image. The features of an image take one."""


class Cost(NamedTuple):
    """Evaluations of the denoiser for the pictures of the base model and of the start, and for those of each candidate."""

    start: int
    each: int


def cost_of_all(settings, probes: Sequence[Sequence[ProbePrompt]], num_photos: Sequence[int]) -> Cost:
    """The sum over the concepts of a run. probes: the prompts of each, num_photos: their images."""
    costs = [cost(settings, *each) for each in zip(settings.concepts, probes, num_photos, strict=True)]
    return Cost(sum(each.start for each in costs), sum(each.each for each in costs))


def cost(settings, concept: Concept, prompts: Sequence[ProbePrompt], num_photos: int) -> Cost:
    """That of one concept, with guidance, and with the base model as the scorer; pictures that equal the base model's are neither
    drawn nor seen again. num_photos: images that pictures are compared with."""
    shown = [(prompts[pair.prompt], pair.seed) for pair in pairs(prompts, settings.evaluation_seeds)]
    of_concept = [prompt.plain for prompt, _ in shown if prompt.kind == "concept"]
    obedience = LEVELS * len(of_concept) * len(set(of_concept)) if concept.kind != "style" else 0
    masks = MAPS if concept.kind != "style" else 0
    per_picture = 2 * min(settings.sample_inference_steps, MOST_STEPS)
    base = per_picture * len({(prompt.plain, seed) for prompt, seed in shown}) + len(shown)
    base += min(num_photos, MOST_PHOTOS) * (1 + masks)
    start, each = (
        (per_picture + 1) * sum(prompt.text != prompt.plain or can_differ(settings, step, prompt.text) for prompt, _ in shown)
        for step in (BASE, BASE + 1)
    )
    return Cost(base + start + obedience, each + obedience)


def can_differ(settings: Any, step: int, prompt: str) -> bool:
    """Whether the weights of a step may draw another picture of a prompt than the base model does; see `PictureProbe`."""
    return (step != BASE or bool(settings.init_weights)) and settings.can_change(prompt)


def number_of_candidates(settings, costs: Cost, training: int) -> int:
    """How many steps are measured by pictures: as many as are asked for; else `USUAL_CANDIDATES`, or as many as cost no more than
    the training, and at least one. training: evaluations of the denoiser for all steps."""
    if settings.num_candidates is not None:
        return settings.num_candidates
    return max(1, min(USUAL_CANDIDATES, (training - costs.start) // costs.each))
