"""The pictures of a run of infer.py: which are made together, by which model, and what is written of each."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL.Image import Image, Resampling

from customize import machine
from customize.config import InferenceSettings
from customize.errors import InputError
from customize.files import write_image
from customize.findings import first_few
from customize.images import open_image
from customize.inference.command import Job
from customize.inference.compositions import composition
from customize.inference.figures import contact_sheet
from customize.inference.image_folder import ImageFolder
from customize.inference.learned import find_learned
from customize.inference.lessons import LESSONS
from customize.inference.loading import load_pipeline
from customize.inference.looks import Bar, Looks
from customize.inference.masks import Mask, mask_of
from customize.inference.pipeline import Pipeline, set_steps
from customize.inference.readings import readings_sheet
from customize.inference.records import facts, saving, texts, told
from customize.inference.sampler import Moment
from customize.inference.schedulers import make_scheduler
from customize.inference.sweep import Grid, Wanted, batches
from customize.inference.wording import Between, Prompt
from customize.printable import printable
from customize.triggers import calls_learned
from customize.units import duration

MOST_ON_SHEET = 100
WORTH_TELLING = 60
"""Seconds from which on the time of all images is said."""
PASSED_ON = (
    "num_inference_steps", "height", "width", "strength", "scheduler", "use_karras_sigmas", "timestep_spacing",
    "rescale_betas_zero_snr", "eta", "guidance_rescale", "clip_skip", "num_resamples", "jump_length",
    "plain_prompt", "vae_tiling",
)  # fmt: skip


PER_PICTURE = ("prompt", "negative_prompt", "guidance_scale", "seed")
"""Settings in which pictures may differ that are made together."""
OF_THE_MODEL = (
    "pretrained_model_name_or_path", "revision", "variant", "prediction_type", "mixed_precision", "allow_tf32", "partial_weights",
    "vae",
)  # fmt: skip


class Models:
    """The pipeline that is in use, loaded when settings ask for another one; where just scales differ, these are set anew."""

    def load(self, settings: InferenceSettings) -> None:
        """Puts the pipeline that the settings name on the best device; says what the user should know of it."""
        device = machine.best_device()
        if problems := machine.fp16_problem(settings.mixed_precision, device.type):
            raise InputError(problems)
        torch.backends.cuda.matmul.allow_tf32 = settings.allow_tf32
        self.name = of_the_model(settings)
        self.pipeline = load_pipeline(
            settings.pretrained_model_name_or_path, settings.weights_and_scales, revision=settings.revision,
            variant=settings.variant, prediction_type=settings.prediction_type, device=device,
            partial=settings.partial_weights, vae=settings.vae,
            torch_dtype={"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[settings.mixed_precision],
        )  # fmt: skip
        self.scales = settings.weights_and_scales
        self.facts = facts(self.pipeline.family.name, self.pipeline.weights.files)
        for line in find_learned(settings.pretrained_model_name_or_path, settings.weights_and_scales).described:
            print(line)
        notes, words = list(self.pipeline.notes), self.pipeline.trigger_words
        if words and not calls_learned([*settings.prompt, settings.negative_prompt], words):
            notes.append(f"no prompt has a word that calls what was learned: {first_few(words)}")
        if self.pipeline.family.takes_guidance and settings.negative_prompt:
            notes.append(
                "negative_prompt has no effect: this base model (LCM) takes guidance_scale as a number, and no such prompt"
            )
        for note in notes:
            print(printable(f"note: {note}"), file=sys.stderr)

    def of(self, settings: InferenceSettings) -> Pipeline:
        """The pipeline that the settings name."""
        if of_the_model(settings) != self.name:
            self.load(settings)
        if settings.weights_and_scales != self.scales:
            self.rescale(settings)
        return self.pipeline

    def check_steps(self, grid: Grid) -> None:
        """Raises InputError where the model that is loaded cannot make the steps that some image asks for."""
        asked = {steps_of(wanted.settings) for wanted in grid.wanted if of_the_model(wanted.settings) == self.name}
        for number, scheduler, options in asked:
            solver = make_scheduler(self.pipeline.family.scheduler, scheduler, **dict(options))
            set_steps(solver, number, 1.0, self.pipeline.family.device)

    def rescale(self, settings: InferenceSettings) -> None:
        """Gives the files that are loaded the scales that the settings name."""
        files = find_learned(settings.pretrained_model_name_or_path, settings.weights_and_scales).files
        self.scales = settings.weights_and_scales
        self.pipeline.weights.scales = tuple(file.scale for file in files)
        said = zip(self.facts["weights"], files, strict=True)
        self.facts = {**self.facts, "weights": [{**each, "scale": told(file.scale)} for each, file in said]}


def of_the_model(settings: InferenceSettings) -> tuple:
    """What tells one loaded pipeline from another; the scales of weights do not."""
    return *(getattr(settings, name) for name in OF_THE_MODEL), *(path for path, _ in settings.weights_and_scales)


def steps_of(settings: InferenceSettings) -> tuple:
    """What a scheduler's steps hang on: their number, the scheduler and its options."""
    options = ("use_karras_sigmas", "timestep_spacing", "rescale_betas_zero_snr", "eta")
    chosen = tuple((name, getattr(settings, name)) for name in options)
    return settings.num_inference_steps, settings.scheduler, chosen


def alike(settings: InferenceSettings) -> tuple:
    """What must be equal for pictures to be made together."""
    given = {name: value for name, value in settings.values().items() if name not in PER_PICTURE}
    return of_the_model(settings), settings.guidance_scale > 1, tuple(given.items())


def draw(settings: InferenceSettings, job: Job, models: Models, place: ImageFolder) -> None:
    """Makes the images that are not finished, `batch_size` at a time, and puts each in its place as it comes."""
    wanted = [at_its_link(each, number, place) for number, each in enumerate(job.grid.wanted)]
    seat, crew = job.seat
    on_sheet = len(wanted) <= MOST_ON_SHEET or settings.chain > 1
    pictures: dict[int, Image] = {number: open_image(place.image(number)) for number in sorted(place.finished) if on_sheet}
    starts: dict[int, Image] = {}
    clock = Clock(len(wanted) - len(place.finished))
    with Bar(len(wanted), settings.batch_size) as bar:
        for pipeline, places in together(job.grid.wanted, models, settings.batch_size):
            if place.finished.issuperset(places) and not settings.show_start:
                bar.begun(len(places))
                continue
            batch = [wanted[number] for number in places] * crew
            own = type(pipeline.family.scheduler).__name__
            with Looks(pipeline, batch, [bar.begun(len(places))]) as looks:
                drawn = generate(pipeline, batch, job.images | given_back(pictures, place), job.masks, looks)
            drawn = drawn[seat : seat + len(places)]
            numbers = [place.start + number for number in places]
            looks.write(place.folder, numbers, drawn, place.file("trace.jsonl").name)
            for number, (at, picture) in enumerate(zip(places, drawn, strict=True)):
                if at not in place.finished:
                    said = texts(models.facts, wanted[at], own, picture.size, (seat + number, len(batch)))
                    write_image(place.image(at), picture, **saving(place.format, said))
                    place.finished.add(at)
            clock.tell(len(places))
            if settings.show_start:
                starts |= dict(zip(places, looks.starts(), strict=True))
            if on_sheet:
                pictures |= dict(zip(places, drawn, strict=True))
    shown = readings_sheet(job.grid, pictures) if len(wanted) <= MOST_ON_SHEET and not starts else None
    if shown or 1 < len(wanted) <= MOST_ON_SHEET or settings.show_start:
        write_image(place.file("sheet.png"), shown or sheet(job.grid, pictures, starts))


class Clock:
    """Says once, after the first batch, how long all images will take, where it is long."""

    def __init__(self, count: int):
        self.count, self.begin = count, time.monotonic()
        self.told = False

    def tell(self, made: int) -> None:
        """With the first `made` images there."""
        seconds = (time.monotonic() - self.begin) * self.count / made
        if not self.told and made < self.count and seconds > WORTH_TELLING:
            print(f"{self.count:,} images, about {duration(seconds)} (measured on the first {made})", file=sys.stderr)
        self.told = True


def together(wanted: Sequence[Wanted], models: Models, size: int) -> Iterator[tuple[Pipeline, list[int]]]:
    """The places of pictures that are made in one batch, each after what it starts from, with their pipeline."""
    in_order = sorted(range(len(wanted)), key=lambda place: wanted[place].link)
    for group in batches(in_order, lambda place: (wanted[place].link, alike(wanted[place].settings)), len(wanted)):
        pipeline = models.of(wanted[group[0]].settings)
        chunks = {place: lengths(pipeline, wanted[place]) for place in group}
        yield from ((pipeline, places) for places in batches(group, chunks.__getitem__, size))


def at_its_link(wanted: Wanted, number: int, place: ImageFolder) -> Wanted:
    """What is asked for, with the start that it has in its chain: the picture before it."""
    if not wanted.link:
        return wanted
    return replace(wanted, settings=wanted.settings.model_copy(update={"image": str(place.image(number - 1))}))


def given_back(pictures: Mapping[int, Image], place: ImageFolder) -> dict[str, Image]:
    """The pictures under the names that they have."""
    return {str(place.image(number)): picture for number, picture in pictures.items()}


def lengths(pipeline: Pipeline, wanted: Wanted) -> tuple[int, int]:
    """See `Pipeline.lengths`: a picture among longer prompts would be another one."""
    settings = wanted.settings
    return pipeline.lengths(wanted.prompts, settings.negative_prompt, settings.num_inference_steps, settings.plain_prompt)


def generate(
    pipeline: Pipeline,
    batch: Sequence[Wanted],
    images: Mapping[str, Image],
    masks: Mapping[Mask, Image],
    record: Callable[[Moment], None],
) -> list[Image]:
    """The pictures of one batch."""
    common = batch[0].settings
    if common.lesson != "none":
        return [LESSONS[common.lesson](pipeline, images[each.settings.image], each) for each in batch]
    options, drawn = {name: getattr(common, name) for name in PASSED_ON}, mask_of(common)
    options |= {
        "negative_prompt": [each.settings.negative_prompt for each in batch],
        "guidance_scale": [each.settings.guidance_scale for each in batch],
        "seeds": [each.seed for each in batch],
        "record": record,
    }
    made = pipeline.generate(
        [asked(each) for each in batch],
        image=[images.get(each.settings.image or "") for each in batch],
        mask_image=drawn and masks[drawn],
        composition=composition(common, pipeline),
        **options,
    )
    return enlarged(pipeline, batch, made, options) if common.hires_scale else made


def enlarged(pipeline: Pipeline, batch: Sequence[Wanted], made: Sequence[Image], options: dict[str, Any]) -> list[Image]:
    """The images of a first pass, enlarged by Lanczos' filter, and made anew to the part `hires_strength`."""
    common, unit = batch[0].settings, pipeline.family.vae_scale_factor
    width, height = (max(round(side * common.hires_scale / unit), 1) * unit for side in made[0].size)
    large = [image.resize((width, height), Resampling.LANCZOS) for image in made]
    again = {"image": large, "strength": common.hires_strength, "width": width, "height": height}
    return pipeline.generate([asked(each) for each in batch], **{**options, **again})


def asked(wanted: Wanted) -> Prompt | tuple[Prompt, ...]:
    """What the pipeline is asked for one picture."""
    if wanted.settings.between is not None:
        return Between(*wanted.prompts, wanted.settings.between, wanted.settings.interpolation == "spherical")
    return wanted.prompts if wanted.settings.illusion != "none" else wanted.prompts[0]


def sheet(grid: Grid, pictures: Mapping[int, Image], starts: Mapping[int, Image]) -> Image:
    """All pictures, with what they were made by beside and above them; above each row its noised starts, if there are any."""
    places, rows, labels = iter(range(len(grid.wanted))), [], []
    for number, row in enumerate(grid.rows):
        here = [next(places) for _ in row]
        for kind, shown in (("start with noise", starts), ("result", pictures)):
            if shown:
                rows.append([shown[place] for place in here])
                own = grid.row_labels[number] if grid.row_labels else ""
                labels.append(f"{own} {kind}".strip() if starts else own)
    return contact_sheet(rows, grid.column_labels, labels if any(labels) else [])
