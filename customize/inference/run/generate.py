"""The images of a job: which are generated pipeline_batches, by which model, and what each says of how it was made."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image, Resampling

from customize import device as machine
from customize import events
from customize.data.images.image_file import open_image
from customize.errors import InputError
from customize.families.trigger_words import calls_learned
from customize.inference.explain.lessons import LESSONS
from customize.inference.illusions.build import composition
from customize.inference.masks import Mask, mask_of
from customize.inference.metadata.write_png import facts, texts, told
from customize.inference.pipeline import Pipeline
from customize.inference.pipeline_loading import load_pipeline
from customize.inference.prompt_estimates import InterpolatedPrompt, Prompt
from customize.inference.run.grid import Grid, ImageRequest, batches
from customize.inference.run.job import Job
from customize.inference.run.observers import DenoisingProgress, Observers
from customize.inference.sampler import StepResult
from customize.inference.schedulers import make_scheduler
from customize.inference.solvers import Solver
from customize.printable import first_few
from customize.settings.field import of_scope
from customize.settings.inference import InferenceSettings
from customize.weights.learned_weights import find_learned


class PipelineCache:
    """The pipeline that is in use, loaded when settings ask for another one; where just scales differ, these are set anew."""

    def load(self, settings: InferenceSettings) -> None:
        """Puts the pipeline that the settings name on the best device; reports what the user should know of it."""
        device = machine.best_device()
        if problems := machine.fp16_problem(settings.mixed_precision, device.type):
            raise InputError(problems)
        torch.backends.cuda.matmul.allow_tf32 = settings.allow_tf32
        self.name = pipeline_key(settings)
        self.pipeline = load_pipeline(
            settings.pretrained_model_name_or_path, settings.weights_and_scales, revision=settings.revision,
            variant=settings.variant, prediction_type=settings.prediction_type, device=device,
            partial=settings.partial_weights, vae=settings.vae,
            torch_dtype={"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[settings.mixed_precision],
        )  # fmt: skip
        self.scales = settings.weights_and_scales
        self.facts = facts(self.pipeline.family.name, self.pipeline.weights.files)
        for line in find_learned(settings.pretrained_model_name_or_path, settings.weights_and_scales).described:
            events.info(line)
        notes, words = list(self.pipeline.notes), self.pipeline.trigger_words
        if words and not calls_learned([*settings.prompt, settings.negative_prompt], words):
            notes.append(f"no prompt has a word that calls what was learned: {first_few(words)}")
        if self.pipeline.family.takes_guidance and settings.negative_prompt:
            notes.append(
                "negative_prompt has no effect: this base model (LCM) takes guidance_scale as a number, and no such prompt"
            )
        for note in notes:
            events.warn(note)

    def of(self, settings: InferenceSettings) -> Pipeline:
        """The pipeline that the settings name."""
        if pipeline_key(settings) != self.name:
            self.load(settings)
        if settings.weights_and_scales != self.scales:
            self.rescale(settings)
        return self.pipeline

    def check_steps(self, grid: Grid) -> None:
        """Raises InputError where the model that is loaded cannot make the steps that some image asks for."""
        needed = {scheduler_key(each.settings) for each in grid.requests if pipeline_key(each.settings) == self.name}
        for number, scheduler, options in needed:
            family = self.pipeline.family
            solver = Solver(make_scheduler(family.scheduler, scheduler, spec=family.spec, **dict(options)))
            solver.set_steps(number, device=family.device)

    def rescale(self, settings: InferenceSettings) -> None:
        """Gives the files that are loaded the scales that the settings name."""
        files = find_learned(settings.pretrained_model_name_or_path, settings.weights_and_scales).files
        self.scales = settings.weights_and_scales
        self.pipeline.weights.scales = tuple(file.scale for file in files)
        said = zip(self.facts["weights"], files, strict=True)
        self.facts = {**self.facts, "weights": [{**each, "scale": told(file.scale)} for each, file in said]}


def pipeline_key(settings: InferenceSettings) -> tuple:
    """What tells one loaded pipeline from another; the scales of weights do not."""
    names = of_scope(InferenceSettings, "model")
    return *(getattr(settings, name) for name in names), *(path for path, _ in settings.weights_and_scales)


def scheduler_key(settings: InferenceSettings) -> tuple:
    """What a scheduler's steps hang on: their number, the scheduler and its options."""
    options = ("use_karras_sigmas", "timestep_spacing", "rescale_betas_zero_snr", "eta")
    chosen = tuple((name, getattr(settings, name)) for name in options)
    return settings.num_inference_steps, settings.scheduler, chosen


def batch_key(settings: InferenceSettings) -> tuple:
    """What must be equal for pictures to be made together."""
    differing = of_scope(InferenceSettings, "image")
    given = {name: value for name, value in settings.values().items() if name not in differing}
    return pipeline_key(settings), settings.guidance_scale > 1, tuple(given.items())


@dataclass(frozen=True)
class GeneratedBatch:
    """The images of one batch. places: where each belongs in the job (0, 1, ...); texts: what each says of how it was made, by
    the names of PNG's text chunks; looks: what was recorded meanwhile, of the batch that begins with these images."""

    places: Sequence[int]
    images: Sequence[Image]
    texts: Sequence[Mapping[str, str]]
    looks: Observers


def generate_batches(
    settings: InferenceSettings,
    job: Job,
    models: PipelineCache,
    path_of: Callable[[int], Path],
    finished: Collection[int] = (),
) -> Iterator[GeneratedBatch]:
    """Generates the images of a job, `batch_size` at a time, each batch when it is asked for. Nothing is written.

    path_of: the file that the image of a place is to have, by which the next one in a chain names its start. finished: places
    whose images exist there; a batch of only these is left out, but with `show_start`, for which each is drawn again.
    """
    requests = [with_start(each, number, path_of) for number, each in enumerate(job.grid.requests)]
    seat, crew = job.seat
    chained = any(each.link for each in requests)
    links = {str(path_of(place)): open_image(path_of(place)) for place in sorted(finished)} if chained else {}
    denoising = DenoisingProgress(len(requests), settings.batch_size)
    for pipeline, places in pipeline_batches(job.grid.requests, models, settings.batch_size):
        denoising.begin(len(places))
        if set(places).issubset(finished) and not settings.show_start:
            continue
        batch = [requests[place] for place in places] * crew
        with Observers(pipeline, batch, [denoising]) as looks:
            starts = links if batch[0].link else job.images
            images = generate_batch(pipeline, batch, starts, job.masks, looks)[seat : seat + len(places)]
        if chained:
            links |= {str(path_of(place)): image for place, image in zip(places, images, strict=True)}
        own = type(pipeline.family.scheduler).__name__
        said = [
            texts(models.facts, requests[place], own, image.size, (seat + number, len(batch)))
            for number, (place, image) in enumerate(zip(places, images, strict=True))
        ]
        yield GeneratedBatch(places, images, said, looks)


def pipeline_batches(requests: Sequence[ImageRequest], models: PipelineCache, size: int) -> Iterator[tuple[Pipeline, list[int]]]:
    """The places of pictures that are made in one batch, each after what it starts from, with their pipeline."""
    in_order = sorted(range(len(requests)), key=lambda place: requests[place].link)
    for group in batches(in_order, lambda place: (requests[place].link, batch_key(requests[place].settings)), len(requests)):
        pipeline = models.of(requests[group[0]].settings)
        chunks = {place: lengths(pipeline, requests[place]) for place in group}
        yield from ((pipeline, places) for places in batches(group, chunks.__getitem__, size))


def with_start(request: ImageRequest, place: int, path_of: Callable[[int], Path]) -> ImageRequest:
    """What is asked for, with the start that it has in its chain: the picture before it."""
    if not request.link:
        return request
    return replace(request, settings=request.settings.model_copy(update={"image": str(path_of(place - 1))}))


def lengths(pipeline: Pipeline, request: ImageRequest) -> tuple[int, int]:
    """See `Pipeline.lengths`: a picture among longer prompts would be another one."""
    settings = request.settings
    return pipeline.lengths(request.prompts, settings.negative_prompt, settings.num_inference_steps, settings.plain_prompt)


def generate_batch(
    pipeline: Pipeline,
    batch: Sequence[ImageRequest],
    images: Mapping[str, Image],
    masks: Mapping[Mask, Image],
    record: Callable[[StepResult], None],
) -> list[Image]:
    """The pictures of one batch."""
    common = batch[0].settings
    if common.lesson != "none":
        return [LESSONS[common.lesson](pipeline, images[each.settings.image], each) for each in batch]
    options, drawn = {name: getattr(common, name) for name in of_scope(InferenceSettings, "sampling")}, mask_of(common)
    options |= {
        "negative_prompt": [each.settings.negative_prompt for each in batch],
        "guidance_scale": [each.settings.guidance_scale for each in batch],
        "seeds": [each.seed for each in batch],
        "record": record,
    }
    made = pipeline.generate(
        [prompts_of(each) for each in batch],
        image=[images.get(each.settings.image or "") for each in batch],
        mask_image=drawn and masks[drawn],
        composition=composition(common, pipeline),
        **options,
    )
    return hires_pass(pipeline, batch, made, options) if common.hires_scale else made


def hires_pass(pipeline: Pipeline, batch: Sequence[ImageRequest], made: Sequence[Image], options: dict[str, Any]) -> list[Image]:
    """The images of a first pass, enlarged by Lanczos' filter, and made anew to the part `hires_strength`."""
    common, unit = batch[0].settings, pipeline.family.latents.factor
    width, height = (max(round(side * common.hires_scale / unit), 1) * unit for side in made[0].size)
    large = [image.resize((width, height), Resampling.LANCZOS) for image in made]
    again = {"image": large, "strength": common.hires_strength, "width": width, "height": height}
    return pipeline.generate([prompts_of(each) for each in batch], **{**options, **again})


def prompts_of(request: ImageRequest) -> Prompt | tuple[Prompt, ...]:
    """What the pipeline is asked for one picture."""
    if request.settings.between is not None:
        return InterpolatedPrompt(*request.prompts, request.settings.between, request.settings.interpolation == "spherical")
    return request.prompts if request.settings.illusion != "none" else request.prompts[0]
