"""The picture probe of a run: its prompts, the user's images, and the base model as it was before the run."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from customize.data.samples.encoding import encode_each_caption
from customize.device import describe
from customize.errors import InputError, Problem
from customize.evaluation.masks import patches
from customize.evaluation.photos import compared
from customize.evaluation.picture_probe import PictureProbe
from customize.evaluation.probe_of_several import ProbeOfSeveral
from customize.evaluation.probe_prompts import MOST_STEPS, pairs
from customize.evaluation.record import BASE_MODEL, Evaluation, Taught
from customize.evaluation.scorers import at_hand
from customize.evaluation.scorers.base_model import BaseModelScorer
from customize.families.conditioning import Conditioning
from customize.inference.pipeline import ConditionedPipeline
from customize.methods.method import Condition, TrainingSetup
from customize.training.evaluating.cost import can_differ
from customize.training.setup import RunContext


def new_record(context: RunContext) -> Evaluation:
    """The record of a run before anything is measured."""
    settings, prompts = context.settings, context.probe_prompts
    draws = context.evaluation == "pictures"
    every = [
        Taught(concept.kind, concept.trigger, concept.class_word, len(context.photos(place)), len(context.probes[place]))
        for place, concept in enumerate(settings.concepts)
    ]
    return Evaluation(
        subject=every[0].subject,
        trigger=", ".join(each.trigger for each in every),
        class_word=", ".join(dict.fromkeys(each.class_word for each in every)),
        scorer=at_hand.choose(settings.scorer).reason if draws else "",
        photos=sum(each.photos for each in every),
        prompts=prompts,
        pairs=pairs(prompts, settings.evaluation_seeds),
        held_out=len(context.examples.held_out),
        steps=context.max_train_steps,
        device=describe(context.device).name,
        options=sampling_options(settings) if draws else {},
        start=settings.start_label if settings.untrained else BASE_MODEL,
        concepts=tuple(every) if every[1:] else (),
    )


def sampling_options(settings: Any) -> dict[str, Any]:
    """How pictures are drawn: arguments of `Pipeline.generate`, apart from their size."""
    return {
        "num_inference_steps": min(settings.sample_inference_steps, MOST_STEPS),
        "guidance_scale": settings.sample_guidance_scale,
        "scheduler": settings.validation_scheduler,
    }


def probe_of(
    context: RunContext, setup: TrainingSetup, record: Evaluation, folder: Path, base: Callable[[], AbstractContextManager[Any]]
) -> PictureProbe:
    """The probe of a run whose networks are those of the base model. Nothing is drawn yet. base: a context in which they are.
    Raises InputError where nothing can compare pictures."""
    settings, family, accelerator = context.settings, context.family, context.accelerator
    pipeline = ConditionedPipeline(family, setup.condition)
    options = {
        **sampling_options(settings),
        "height": settings.resolution,
        "width": settings.resolution,
        **pipeline.blank,
    }
    condition = base_condition(context, setup)
    scorer, reason = at_hand.best_at_hand(settings.scorer, family, condition, context.device, accelerator.autocast)
    if scorer is None:
        raise InputError(Problem("scorer", reason, "name another one"))
    record = replace(record, scorer=reason)
    own = BaseModelScorer(family, condition, context.device, accelerator.autocast)
    parts = []
    for place, (concept, of_it) in enumerate(zip(settings.concepts, record.each(), strict=True)):
        with base():
            images, masks = compared(context.photos(place), concept, context.resolution, own, folder)
        grid = torch.from_numpy(patches(masks, scorer.features(images[:1]).patches.shape[1])) if masks else None
        facts = base, accelerator.autocast, grid, partial(can_differ, settings)
        parts.append(PictureProbe(pipeline, of_it, scorer, images, folder, options, *facts))
    return parts[0] if not record.concepts else ProbeOfSeveral(pipeline, record, scorer, (), folder, options, *facts, parts=parts)


def base_condition(context: RunContext, setup: TrainingSetup) -> Condition:
    """The base model's conditioning of prompts without new words: looked up, where the text encoders learn."""
    settings, family = context.settings, context.family
    if not settings.trains_text_encoders:
        return setup.condition
    known = encode_each_caption(family, [*context.measured_prompts, ""], clip_skip=settings.clip_skip)
    known = {prompt: each.to("cpu") for prompt, each in known.items()}

    def condition(prompts: Sequence[str]) -> Conditioning:
        return family.collate([known[prompt] for prompt in prompts], known[""]).to(context.device)

    return condition
