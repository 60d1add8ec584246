"""Draws the pictures of each weights, then measures all of them: one model at a time is in memory, the base model last."""

import gc
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import torch

from customize import device as machine
from customize import events
from customize.data.samples.encoding import encode_each_caption
from customize.errors import InputError, Problem
from customize.evaluation import record
from customize.evaluation.masks import patches
from customize.evaluation.photos import compared
from customize.evaluation.picture_probe import BASE_FOLDER, PICTURES, PictureProbe, folder_of
from customize.evaluation.record import BASE, Candidate, Evaluation
from customize.evaluation.score.plan import Plan
from customize.evaluation.score.subject import Target
from customize.evaluation.scorers import Scorer, at_hand
from customize.evaluation.scorers.base_model import BaseModelScorer
from customize.families.base import Family
from customize.families.conditioning import Conditioning
from customize.inference.pipeline import ConditionedPipeline
from customize.inference.pipeline_loading import load_pipeline
from customize.inference.request import GenerationRequest
from customize.storage import manifest
from customize.storage.atomic import write_text
from customize.storage.run_folder import remove_own

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
Condition = Callable[[Sequence[str]], Conditioning]


@dataclass
class Counter:
    """Reports how many of all pictures are drawn, and after the first ones how long the rest will take."""

    total: int
    done: int = 0
    began: float = field(default_factory=perf_counter)

    def add(self, number: int) -> None:
        """Counts pictures that were drawn."""
        if not self.done:
            events.emit(events.TimeEstimate(self.total, number, (perf_counter() - self.began) / number * self.total))
            events.emit(events.Progress("drawing", "picture", 0, self.total))
        self.done += number
        events.emit(events.Progress("drawing", "picture", self.done, self.total))


class CountedPipeline(ConditionedPipeline):
    """A pipeline that counts the pictures that it draws."""

    counter: Counter

    def run(self, request: GenerationRequest, *arguments: Any, **options: Any) -> Any:
        drawn = super().run(request, *arguments, **options)
        self.counter.add(len(request.seeds))
        return drawn


def measure(plan: Plan, folder: Path) -> Evaluation:
    """Draws and measures what is missing; the record in the folder has all that was measured, also after an interruption.
    Raises InputError for weights that do not fit the base model, NumericsError for NaN and infinity."""
    evaluation = replace(plan.evaluation, device=machine.describe(machine.best_device()).name)
    make_room(plan, folder)
    write(folder, evaluation)
    counter = Counter(sum(number for name, number in numbers_of(plan).items() if not is_drawn(folder, name)))
    began = perf_counter()
    for target in dict.fromkeys(target for target, _ in plan.missing):
        scales = [scale for each, scale in plan.missing if each == target]
        if not all(is_drawn(folder, folder_of(target.step, scale)) for scale in scales):
            draw(plan, folder, target, scales, counter)
            gc.collect()
            torch.cuda.empty_cache()
    probe = probe_of(plan, folder, load(plan, None, counter))
    evaluation = measured(evaluation, probe.start())
    for target, scale in plan.missing:
        evaluation = measured(evaluation, probe.measure(target.step, scale))
        write(folder, evaluation)
    return replace(evaluation, seconds=round(evaluation.seconds + perf_counter() - began, 1))


def measured(evaluation: Evaluation, found: Candidate) -> Evaluation:
    """The record with the numbers of these pictures; losses that are in it stay."""
    before = evaluation.candidate(found.step, found.scale)
    return evaluation.with_candidate(replace(found, losses=before.losses if before else {}))


def write(folder: Path, evaluation: Evaluation) -> None:
    """Writes the record."""
    write_text(folder / record.FOLDER / record.NAME, evaluation.to_json())


def make_room(plan: Plan, folder: Path) -> None:
    """Removes pictures that are to be drawn again, and those of another measurement."""
    drawn = folder / record.FOLDER / PICTURES
    if not plan.continues:
        found = sorted(drawn.glob("*"))
    else:
        found = [drawn / name for name in numbers_of(plan)] if plan.again else []
    for each in found:
        remove_own(each)


def numbers_of(plan: Plan) -> dict[str, int]:
    """The folders of pictures that are needed, the base model's first, with the number of different pictures drawn for each."""
    prompts = [(plan.evaluation.prompts[pair.prompt], pair.seed) for pair in plan.evaluation.pairs]
    found = {BASE_FOLDER: len({(each.plain, seed) for each, seed in prompts})}
    for step, scale in [(BASE, 1.0), *((target.step, scale) for target, scale in plan.missing)]:
        drawn = {(each.text, seed) for each, seed in prompts if each.text != each.plain or can_differ(plan, step, each.text)}
        found[folder_of(step, scale)] = len(drawn)
    return found


def can_differ(plan: Plan, step: int, prompt: str) -> bool:
    """Whether the weights of a step may draw another picture of a prompt than the base model does; see `PictureProbe`."""
    return step != BASE and (plan.subject.settings is None or plan.subject.settings.can_change(prompt))


def is_drawn(folder: Path, name: str) -> bool:
    """Whether the pictures of this name are there."""
    path = folder / record.FOLDER / PICTURES / name
    return (path / manifest.NAME).exists() and not manifest.faults(path)


def draw(plan: Plan, folder: Path, target: Target, scales: Sequence[float], counter: Counter) -> None:
    """Draws the pictures of weights at these scales; before that the base model's, where the weights are words beside it."""
    pipeline = load(plan, target, counter)
    for scale in scales:
        pipeline.weights.scales = (scale,) * len(pipeline.weights.files)
        pipeline.condition = condition_of(plan, pipeline.family)  # what was looked up is of another scale
        drawer = PictureProbe(
            pipeline, plan.evaluation, cast(Scorer, None), (), folder, options_of(plan, pipeline), nullcontext, nullcontext,
            can_differ=partial(can_differ, plan),
        )  # fmt: skip
        drawer.of_weights(target.step, scale)


def load(plan: Plan, target: Target | None, counter: Counter) -> CountedPipeline:
    """The pipeline of weights; None: of the base model."""
    own = {"prompt_embeddings": plan.base_options["prompt_embeddings"]} if target and target.model else plan.base_options
    weights = [(target.path, 1.0)] if target else []
    base = None if target and target.model else plan.base
    loaded = load_pipeline(base, weights, device=machine.best_device(), torch_dtype=DTYPES[plan.precision], **own)
    pipeline = CountedPipeline(loaded.family, condition_of(plan, loaded.family), weights=loaded.weights)
    pipeline.counter = counter
    return pipeline


def options_of(plan: Plan, pipeline: ConditionedPipeline) -> dict[str, Any]:
    """The options of `Pipeline.generate`."""
    return {**plan.options, **pipeline.blank}


def condition_of(plan: Plan, family: Family) -> Condition:
    """The conditioning of prompts: of a batch at once where a run trains text encoders, else of each by itself, like a run."""
    if plan.whole_batches:
        return lambda prompts: family.encode_prompts(prompts, clip_skip=plan.clip_skip)
    return looked_up(plan, family)


def looked_up(plan: Plan, family: Family) -> Condition:
    """The conditioning of prompts, each encoded once by itself."""
    known: dict[str, Conditioning] = {}

    def condition(prompts: Sequence[str]) -> Conditioning:
        new = {"", *prompts} - known.keys()
        known.update(encode_each_caption(family, new, clip_skip=plan.clip_skip))
        return family.collate([known[prompt] for prompt in prompts], known[""])

    return condition


def probe_of(plan: Plan, folder: Path, base: CountedPipeline) -> PictureProbe:
    """The probe with the base model. Raises InputError where nothing can compare pictures."""
    family, device = base.family, base.family.device
    condition = looked_up(plan, family)
    scorer, reason = at_hand.best_at_hand(plan.scorer, family, condition, device, nullcontext)
    if scorer is None:
        raise InputError(Problem("scorer", reason, "name another one"))
    own, resolution = BaseModelScorer(family, condition, device), plan.options["height"] or family.resolution
    photos, masks = compared(plan.photos, plan.concept, resolution, own, folder)
    grid = torch.from_numpy(patches(masks, scorer.features(photos[:1]).patches.shape[1])) if masks else None
    return PictureProbe(
        base, plan.evaluation, scorer, photos, folder, options_of(plan, base), nullcontext, nullcontext, grid,
        partial(can_differ, plan),
    )  # fmt: skip
