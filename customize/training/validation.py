"""Sample images during a run: the same prompts and seeds each time, with those of the base model in the first column."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from customize import events
from customize.data.example import Example, in_turn_of_concepts
from customize.data.images.image_file import open_image
from customize.errors import InputError, ResourceError
from customize.inference.explain.contact_sheet import before_after, contact_sheet
from customize.inference.pipeline import ConditionedPipeline
from customize.inference.schedulers import make_scheduler
from customize.methods.method import Condition
from customize.printable import first_few
from customize.settings.training_parts.validation_prompts import images_per_prompt
from customize.storage import checkpoint, manifest
from customize.storage.atomic import new_folder, write_image
from customize.storage.resources import optional_file
from customize.storage.untrusted_files import MIB, read_text, regular_file
from customize.training.loop import State

if TYPE_CHECKING:
    from customize.training.setup import RunContext

PROMPTS = "prompts.json"
MOST_ENLARGED = 4
DAMAGE = (OSError, ValueError, SyntaxError, RecursionError, Image.DecompressionBombError)
"""Errors raised for an image or a list of prompts that cannot be read."""
STEP, IMAGE = re.compile(r"step-([0-9]{6,})(?:-[0-9]+)?"), re.compile(r"[0-9]{3,}\.png")


class ValidationImages:
    """Generates `images` images of each prompt into a folder per step, and a contact sheet of all steps.

    to_enlarge: the images that a super-resolution model enlarges, in turn; none for other models.
    """

    def __init__(self, context: "RunContext", condition: Condition, folder: Path):
        settings, family, prompts = context.settings, context.family, context.sample_prompts
        self.settings, self.family, self.folder, self.to_enlarge = settings, family, folder, to_enlarge(context)
        self.pipeline = ConditionedPipeline(family, condition)
        self.prompts, self.images = prompts, images_per_prompt(settings)
        self.damaged: list[str] = []
        try:
            make_scheduler(family.scheduler, settings.validation_scheduler, spec=family.spec)
        except InputError as error:
            raise InputError([replace(problem, where="validation_scheduler") for problem in error.problems]) from error

    def __call__(self, state: State) -> None:
        with state.whole_weights():
            if state.accelerator.is_main_process:
                self.track(state, self.draw_step(state, state.step))
        state.accelerator.wait_for_everyone()

    def track(self, state: State, images: dict[str, list[Image.Image]]) -> None:
        """Logs the images to the trackers, by prompt."""
        for tracker in state.accelerator.trackers:
            options = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            arrays = {prompt: np.stack([np.asarray(image) for image in drawn]) for prompt, drawn in images.items()}
            with optional_file(f"{tracker.name} cannot log sample images", Exception):
                tracker.log_images(arrays, step=state.step, **options)

    def draw_step(self, state: State, step: int) -> dict[str, list[Image.Image]]:
        """Generates and saves images with the method's current weights, which are those of `step`; returns them by prompt."""
        events.emit(events.Phase("drawing samples"))
        state.method.eval()
        self.family.latents.to(state.accelerator.device)
        with state.accelerator.autocast():
            images = {prompt: self.draw(prompt) for prompt in self.prompts}
        self.family.latents.to("cpu")
        state.method.train()
        events.emit(events.ValidationImagesDrawn(step, images))
        with optional_file(f"sample images of step {step} cannot be saved"):
            self.save(images, step)
        return images

    def draw(self, prompt: str) -> list[Image.Image]:
        """The images of one prompt, with the run's seed and the seeds after it."""
        seeds = range(self.settings.seed, self.settings.seed + self.images)
        settings = self.settings
        small = [self.to_enlarge[place % len(self.to_enlarge)] for place in range(self.images)] if self.to_enlarge else None
        return self.pipeline.generate(
            prompt,
            plain_prompt=True,
            seeds=list(seeds),
            num_inference_steps=settings.sample_inference_steps,
            guidance_scale=settings.sample_guidance_scale,
            scheduler=settings.validation_scheduler,
            low_res_image=small,
            height=settings.resolution,
            width=settings.resolution,
            **self.pipeline.blank,
        )

    def save(self, images: dict[str, list[Image.Image]], step: int) -> None:
        """Writes the images of a step and the contact sheet of all steps so far."""
        with new_folder(self.folder / f"step-{step:06d}") as unfinished:
            for row, image in enumerate(image for drawn in images.values() for image in drawn):
                image.save(unfinished / f"{row:03d}.png")
            (unfinished / PROMPTS).write_text(json.dumps(self.row_labels()), encoding="utf-8")
            manifest.write(unfinished)
        write_image(self.folder / "contact_sheet.png", self.sheet())

    def sheet(self) -> Image.Image:
        """Rows: prompts and seeds; columns: steps, the base model first."""
        columns = self.columns()
        return contact_sheet(
            rows=list(zip(*columns.values(), strict=True)),
            column_labels=[self.settings.start_label if step == 0 else f"step {step:,}" for step in columns],
            row_labels=self.row_labels(),
        )

    def write_before_after(self, path: Path, examples: Sequence[Example], step: int) -> None:
        """Writes the training images, above the base model's images beside those of `step`, if any were generated."""
        columns = self.columns()
        if columns and 0 not in columns:
            events.note(f"no {path.name}: the base model's sample images no longer exist")
        elif columns:
            step = step if step in columns else max(columns)
            rows = list(zip(self.row_labels(), columns[0], columns[step], strict=True))
            try:
                with optional_file(f"no {path.name}"):
                    labels = f"before: {self.settings.start_label}", f"after {step:,} steps"
                    shown = [example.open() for example in in_turn_of_concepts(examples)[:8]]
                    write_image(path, before_after(shown, rows, of=len(examples), labels=labels))
            except ResourceError as error:  # the run is done and does not depend on these images
                events.note(f"no {path.name}: {error}")

    def columns(self) -> dict[int, list[Image.Image]]:
        """The images generated so far from the present prompts, by step; a step with damaged images is left out."""
        found, damaged = {}, []
        for folder in sorted(path for path in self.folder.glob("step-*") if STEP.fullmatch(path.name)):
            try:
                if (images := self.images_in(folder)) is not None:
                    found[int(folder.name.split("-")[1])] = images
            except DAMAGE:
                damaged.append(folder.name)
        if damaged and damaged != self.damaged:
            events.note(f"not shown, because sample images are missing or damaged in {self.folder}: {first_few(damaged)}")
        self.damaged = damaged
        return found

    def of_step(self, step: int) -> list[tuple[str, Path]]:
        """(prompt, file) of each image of a step, as far as they were saved."""
        files = [self.folder / checkpoint.name(step) / f"{row:03d}.png" for row in range(len(self.row_labels()))]
        return [pair for pair in zip(self.row_labels(), files, strict=True) if pair[1].is_file()]

    def images_in(self, folder: Path) -> list[Image.Image] | None:
        """The images of a step, None if they are of other prompts. Raises one of `DAMAGE` if some are missing."""
        if json.loads(read_text(folder / PROMPTS, MIB)) != self.row_labels():
            return None
        files = sorted(path for path in folder.glob("*.png") if IMAGE.fullmatch(path.name))
        if [file.stem for file in files] != [f"{row:03d}" for row in range(len(self.row_labels()))]:
            raise ValueError(f"{folder} does not contain the images that were generated")
        images = []
        for file in files:
            with regular_file(file) as stream, Image.open(stream, formats=["PNG"]) as image:
                images.append(image.convert("RGB"))
        return images

    def row_labels(self) -> list[str]:
        """The prompt of each image of a step."""
        return [prompt for prompt in self.prompts for _ in range(self.images)]


def to_enlarge(context: "RunContext") -> list[Image.Image]:
    """The images that sample images of a super-resolution model enlarge: those of the settings, else the training images, a
    quarter as large as the model's; none for other models."""
    if context.family.super_resolution is None:
        return []
    side, given = max(context.resolution // 4, 1), context.settings.validation_images
    if given:
        return [open_image(path) for path in given]
    return [
        ImageOps.fit(example.open(), (side, side)) for example in in_turn_of_concepts(context.examples.instances)[:MOST_ENLARGED]
    ]
