"""Sample pictures while a run goes on: the same prompts and seeds each time, the base model's in the first column."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from customize.families.stable_diffusion import StableDiffusion
from customize.files import new_folder, write_image
from customize.inference.estimates import Conditional
from customize.inference.figures import contact_sheet
from customize.inference.pipeline import Pipeline
from customize.methods.method import Condition
from customize.trainer import State

STEP = re.compile(r"step-(\d{6,})")


class ConditionedPipeline(Pipeline):
    """A pipeline that takes its conditioning from a method's `condition`, where the text encoder may be gone."""

    def __init__(self, family: StableDiffusion, condition: Condition):
        super().__init__(family)
        self.condition = condition

    def conditional(self, prompts: Sequence[str]) -> Conditional:
        return Conditional(self.condition(prompts))


class SamplePictures:
    """Draws `num_validation_images` pictures of each validation prompt into a folder per step, and the sheet of all."""

    def __init__(self, settings, family: StableDiffusion, condition: Condition, folder: Path):
        self.settings, self.family, self.folder = settings, family, folder
        self.pipeline = ConditionedPipeline(family, condition)

    def __call__(self, state: State) -> None:
        if state.accelerator.is_main_process:
            state.method.eval()
            self.family.vae.to(state.accelerator.device)
            with state.accelerator.autocast():
                pictures = {prompt: self.draw(prompt) for prompt in self.settings.validation_prompt}
            self.family.vae.to("cpu")
            state.method.train()
            self.keep(pictures, state)
        state.accelerator.wait_for_everyone()

    def draw(self, prompt: str) -> list[Image.Image]:
        """The pictures of one prompt, of the seeds that follow the run's."""
        seeds = range(self.settings.seed, self.settings.seed + self.settings.num_validation_images)
        return self.pipeline.generate(
            prompt, seeds=list(seeds), num_inference_steps=self.settings.sample_inference_steps, guidance_scale=self.settings.sample_guidance_scale,
            scheduler=self.settings.validation_scheduler, height=self.settings.resolution, width=self.settings.resolution,
        )  # fmt: skip

    def keep(self, pictures: dict[str, list[Image.Image]], state: State) -> None:
        """Writes the pictures of a step, the sheet of all steps so far, and tells the trackers."""
        with new_folder(self.folder / f"step-{state.step:06d}") as unfinished:
            for row, picture in enumerate(picture for drawn in pictures.values() for picture in drawn):
                picture.save(unfinished / f"{row:03d}.png")
        write_image(self.folder / "contact_sheet.png", self.sheet(list(pictures)))
        for tracker in state.accelerator.trackers:
            options = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            arrays = {prompt: np.stack([np.asarray(p) for p in drawn]) for prompt, drawn in pictures.items()}
            tracker.log_images(arrays, step=state.step, **options)

    def sheet(self, prompts: Sequence[str]) -> Image.Image:
        """Rows: prompts and seeds; columns: steps, the base model first."""
        columns = sorted(path for path in self.folder.iterdir() if STEP.fullmatch(path.name))
        steps = [int(column.name.removeprefix("step-")) for column in columns]
        pictures = [[Image.open(file) for file in sorted(column.glob("*.png"))] for column in columns]
        return contact_sheet(
            rows=list(zip(*pictures, strict=True)),
            column_labels=["base model" if step == 0 else f"step {step}" for step in steps],
            row_labels=[prompt for prompt in prompts for _ in range(self.settings.num_validation_images)],
        )
