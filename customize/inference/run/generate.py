"""Generates the images of a job: batches, the pipeline of each, and the metadata of each image."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image, Resampling

from customize import device as machine
from customize import events
from customize.data.images.image_file import open_image
from customize.errors import InputError
from customize.families.base import Family
from customize.families.trigger_words import any_calls, calls_learned
from customize.inference.explain.lessons import LESSONS
from customize.inference.illusions.build import composition
from customize.inference.masks import Mask, mask_of
from customize.inference.metadata.write_png import facts, scale_as_json, texts
from customize.inference.pipeline import Pipeline
from customize.inference.pipeline_loading import load_pipeline
from customize.inference.prompt_estimates import InterpolatedPrompt, Prompt
from customize.inference.run.grid import Grid, ImageRequest, batches
from customize.inference.run.job import Job
from customize.inference.run.observers import DenoisingProgress, Observers
from customize.inference.run.processes import ONE, Processes
from customize.inference.sampler import StepResult
from customize.inference.schedulers import make_scheduler, timesteps_of
from customize.inference.solvers import Solver
from customize.printable import first_few, printable
from customize.settings.field import of_scope
from customize.settings.inference import InferenceSettings
from customize.weights.learned_weights import find_learned
from customize.weights.weight_file import LearnedFile

LATENT_WARNING = (
    "views transform latents here, but autoencoders are not equivariant: a rotated latent decodes only approximately to the "
    "rotated image, which shows as strokes and seams. --illusion looking_glass works on pixels, at the cost of a decode and two "
    "encodes per view and step"
)


class PipelineCache:
    """Holds the current pipeline. Reloads it when settings need another one; if only scales differ, sets these."""

    pipeline: Pipeline

    def load(self, settings: InferenceSettings) -> None:
        """Loads the pipeline of the settings to the best device, in place of the one before, and emits notes about it."""
        if hasattr(self, "pipeline"):
            self.pipeline.family.to("meta")  # frees its memory, whoever still refers to it
        device = machine.best_device()
        if problems := machine.fp16_problem(settings.mixed_precision, device.type):
            raise InputError(problems)
        torch.backends.cuda.matmul.allow_tf32 = settings.allow_tf32
        self.name = pipeline_key(settings)
        self.pipeline = load_pipeline(
            settings.pretrained_model_name_or_path, settings.weights_and_scales, revision=settings.revision,
            variant=settings.variant, prediction_type=settings.prediction_type, device=device,
            prompt_embeddings=settings.prompt_embeddings,
            partial=settings.partial_weights, vae=settings.vae,
            torch_dtype={"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[settings.mixed_precision],
        )  # fmt: skip
        self.scales = settings.weights_and_scales
        self.facts = facts(self.pipeline.family.name, self.pipeline.weights.files)
        self.describe(settings)

    def begin(self, settings: InferenceSettings) -> None:
        """Loads the pipeline of a job's first settings, unless it is loaded, and emits notes about it."""
        if getattr(self, "name", None) == pipeline_key(settings):
            self.of(settings)
            self.describe(settings)
        else:
            self.load(settings)

    def describe(self, settings: InferenceSettings) -> None:
        """Emits what is worth knowing of the pipeline with these settings."""
        for line in find_learned(settings.pretrained_model_name_or_path, settings.weights_and_scales).summaries:
            events.info(line)
        notes, words = list(self.pipeline.notes), self.pipeline.trigger_words
        if words and not calls_learned([*settings.prompt, settings.negative_prompt], words):
            notes.append(f"no prompt contains a trigger word of the weights: {first_few(words)}")
        if self.pipeline.family.takes_guidance and settings.negative_prompt:
            notes.append(
                "negative_prompt has no effect: this base model (LCM) takes guidance_scale as an input and no negative prompt"
            )
        if settings.illusion in ("anagram", "alternating_anagram") and not self.pipeline.family.latents.equivariant:
            notes.append(LATENT_WARNING)
        files = self.pipeline.weights.files
        notes += [*trained_otherwise(files, settings.clip_skip), *without_words(files, self.pipeline.family, settings)]
        for note in notes:
            events.warn(note)

    def of(self, settings: InferenceSettings) -> Pipeline:
        """The pipeline of the settings."""
        if pipeline_key(settings) != self.name:
            self.load(settings)
        if settings.weights_and_scales != self.scales:
            self.rescale(settings)
        return self.pipeline

    def check_steps(self, grid: Grid) -> None:
        """Raises InputError if the scheduler of a request for the loaded model does not support its number of steps."""
        needed = {scheduler_key(each.settings) for each in grid.requests if pipeline_key(each.settings) == self.name}
        for number, scheduler, options in needed:
            family = self.pipeline.family
            solver = Solver(make_scheduler(family.scheduler, scheduler, spec=family.spec, **dict(options)))
            solver.set_steps(number, device=family.device, timesteps=timesteps_of(dict(options)["timesteps"]))

    def rescale(self, settings: InferenceSettings) -> None:
        """Sets the scales of the loaded files to those of the settings."""
        files = find_learned(settings.pretrained_model_name_or_path, settings.weights_and_scales).files
        self.scales = settings.weights_and_scales
        self.pipeline.weights.scales = tuple(file.scale for file in files)
        entries = zip(self.facts["weights"], files, strict=True)
        self.facts = {**self.facts, "weights": [{**each, "scale": scale_as_json(file.scale)} for each, file in entries]}


def trained_otherwise(files: Iterable[LearnedFile], clip_skip: int | None) -> Iterator[str]:
    """A note for each file whose prompts were encoded with another clip_skip while it was trained."""
    for file in files:
        own = file.metadata.get("settings", {}).get("clip_skip") or 0
        if own != (clip_skip or 0):
            yield printable(f"{file.path} was trained with clip_skip {own}, and is used with {clip_skip or 0}")


def without_words(files: Iterable[LearnedFile], family: Family, settings: InferenceSettings) -> Iterator[str]:
    """A note for each adapter that was learned together with words that a prompt has, but that neither weights nor model hold."""
    for file in files:
        learned = file.metadata.get("settings", {}).get("placeholder_token") or ()
        for word in [word for word in learned if isinstance(word, str)] if file.is_adapter else ():
            known = any(word in encoder.tokenizer.get_vocab() for encoder in family.text_encoders)
            if not known and any_calls([*settings.prompt, settings.negative_prompt], [word]):
                yield printable(f"{file.path} was trained with the new word {word}: add its learned_embeds file to the weights")


def pipeline_key(settings: InferenceSettings) -> tuple:
    """Settings with equal keys share a pipeline; the scales of weights may differ."""
    names = of_scope(InferenceSettings, "model")
    return *(getattr(settings, name) for name in names), *(path for path, _ in settings.weights_and_scales)


def scheduler_key(settings: InferenceSettings) -> tuple:
    """What determines a scheduler's steps: their number, the scheduler and its options."""
    options = ("use_karras_sigmas", "timestep_spacing", "rescale_betas_zero_snr", "eta", "timesteps")
    chosen = tuple((name, getattr(settings, name)) for name in options)
    return settings.num_inference_steps, settings.scheduler, chosen


def batch_key(settings: InferenceSettings) -> tuple:
    """Images with equal keys can be generated in one batch."""
    differing = of_scope(InferenceSettings, "image")
    given = {name: value for name, value in settings.values().items() if name not in differing}
    return pipeline_key(settings), settings.guidance_scale > 1, tuple(given.items())


@dataclass(frozen=True)
class GeneratedBatch:
    """The images of one batch. places: the index of each in the job (0, 1, ...); texts: the metadata of each, by name of the PNG
    text chunk; observers: what was recorded of the batch, which begins with these images."""

    places: Sequence[int]
    images: Sequence[Image]
    texts: Sequence[Mapping[str, str]]
    observers: Observers


def generate_batches(
    settings: InferenceSettings,
    job: Job,
    models: PipelineCache,
    path_of: Callable[[int], Path],
    finished: Collection[int] = (),
    shared: Processes = ONE,
) -> Iterator[GeneratedBatch]:
    """Generates the images of a job lazily, in batches of at most `batch_size`. Nothing is written.

    path_of: the path of the image at a place, by which the next image in a chain names its input. finished: places whose
    images exist; batches of only these are skipped, except with `show_start`, which needs every batch. shared: batches that
    other processes generate are skipped.
    """
    requests = [with_start(each, number, path_of) for number, each in enumerate(job.grid.requests)]
    first, copies = job.place_in_batch
    chained = any(each.link for each in requests)
    links = {str(path_of(place)): open_image(path_of(place)) for place in sorted(finished)} if chained else {}
    denoising = DenoisingProgress(len(requests), settings.batch_size)
    for number, (pipeline, places) in enumerate(pipeline_batches(job.grid.requests, models, settings.batch_size)):
        denoising.begin(len(places))
        if number % shared.count != shared.index:
            continue
        if set(places).issubset(finished) and not settings.show_start:
            continue
        batch = [requests[place] for place in places] * copies
        with Observers(pipeline, batch, [denoising]) as observers:
            inputs = [inputs_of(each, job.images, links) for each in batch]
            images = generate_batch(pipeline, batch, inputs, job.masks, observers)[first : first + len(places)]
        if chained:
            links |= {str(path_of(place)): image for place, image in zip(places, images, strict=True)}
        own = type(pipeline.family.scheduler).__name__
        metadata = [
            texts(models.facts, requests[place], own, image.size, (first + number, len(batch)))
            for number, (place, image) in enumerate(zip(places, images, strict=True))
        ]
        yield GeneratedBatch(places, images, metadata, observers)


def pipeline_batches(requests: Sequence[ImageRequest], models: PipelineCache, size: int) -> Iterator[tuple[Pipeline, list[int]]]:
    """The places of the images of each batch, with their pipeline. An image in a chain comes after the one it starts from."""
    in_order = sorted(range(len(requests)), key=lambda place: requests[place].link)
    for group in batches(in_order, lambda place: (requests[place].link, batch_key(requests[place].settings)), len(requests)):
        pipeline = models.of(requests[group[0]].settings)
        chunks = {place: lengths(pipeline, requests[place]) for place in group}
        yield from ((pipeline, places) for places in batches(group, chunks.__getitem__, size))


def with_start(request: ImageRequest, place: int, path_of: Callable[[int], Path]) -> ImageRequest:
    """The request, with the previous image of its chain as input image, or as the image to enlarge."""
    if not request.link:
        return request
    return replace(request, settings=request.settings.model_copy(update={request.link_to: str(path_of(place - 1))}))


def inputs_of(request: ImageRequest, given: Mapping[str, Image], links: Mapping[str, Image]) -> dict[str, Image | None]:
    """The input images of a request by setting: of the paths that the user gave, and the previous image of its chain, which may
    have the name of one of these."""
    paths = {name: getattr(request.settings, name) or "" for name in ("image", "low_res_image")}
    found = {name: given.get(path) for name, path in paths.items()}
    return found | {request.link_to: links[paths[request.link_to]]} if request.link else found


def lengths(pipeline: Pipeline, request: ImageRequest) -> tuple[int, int]:
    """See `Pipeline.lengths`: in a batch with longer prompts, the image would differ."""
    settings = request.settings
    return pipeline.lengths(request.prompts, settings.negative_prompt, settings.steps, settings.plain_prompt)


def generate_batch(
    pipeline: Pipeline,
    batch: Sequence[ImageRequest],
    inputs: Sequence[Mapping[str, Image | None]],
    masks: Mapping[Mask, Image],
    record: Callable[[StepResult], None],
) -> list[Image]:
    """Generates the images of one batch. inputs: see `inputs_of`."""
    common = batch[0].settings
    if common.lesson != "none":
        return [LESSONS[common.lesson](pipeline, own["image"], each) for own, each in zip(inputs, batch, strict=True)]
    options, mask = {name: getattr(common, name) for name in of_scope(InferenceSettings, "sampling")}, mask_of(common)
    options |= {
        "negative_prompt": [each.settings.negative_prompt for each in batch],
        "guidance_scale": [each.settings.guidance_scale for each in batch],
        "seeds": [each.seed for each in batch],
        "record": record,
    }
    images = pipeline.generate(
        [prompts_of(each) for each in batch],
        image=[each["image"] for each in inputs],
        mask_image=mask and masks[mask],
        low_res_image=[each["low_res_image"] for each in inputs],
        composition=composition(common, pipeline),
        **options,
    )
    return hires_pass(pipeline, batch, images, options) if common.hires_scale else images


def hires_pass(
    pipeline: Pipeline, batch: Sequence[ImageRequest], images: Sequence[Image], options: dict[str, Any]
) -> list[Image]:
    """The second pass of `hires_scale`: Lanczos upscaling, then image to image with strength `hires_strength`."""
    common, unit = batch[0].settings, pipeline.family.latents.factor
    width, height = (max(round(side * common.hires_scale / unit), 1) * unit for side in images[0].size)
    large = [image.resize((width, height), Resampling.LANCZOS) for image in images]
    second = {"image": large, "strength": common.hires_strength, "width": width, "height": height}
    return pipeline.generate([prompts_of(each) for each in batch], **{**options, **second})


def prompts_of(request: ImageRequest) -> Prompt | tuple[Prompt, ...]:
    """The prompt or prompts of one image, as the pipeline takes them."""
    if request.settings.between is not None:
        return InterpolatedPrompt(*request.prompts, request.settings.between, request.settings.interpolation == "spherical")
    return request.prompts if request.settings.illusion != "none" else request.prompts[0]
