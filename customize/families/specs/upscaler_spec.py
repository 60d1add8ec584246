"""The x4 upscaler of Stable Diffusion, before torch."""

from pathlib import Path

from customize.errors import InputError, Problem
from customize.families.files.configurations import SCHEDULER
from customize.families.files.folder_check import AGAIN, INDEX, configuration_problems, read_configuration
from customize.families.specs.family_spec import SETTING, FamilySpec, Source, Start
from customize.families.specs.stable_diffusion_spec import StableDiffusionSpec
from customize.printable import printable

LOW_RES = "low_res_scheduler"
"""The folder of the scheduler that adds noise to the image to enlarge."""
PIPELINE = "StableDiffusionUpscalePipeline"
CHANNELS = 7
"""Of the UNet: the latents, and the image to enlarge."""


class UpscalerSpec(StableDiffusionSpec):
    """Folders of the x4 upscaler, the third stage of DeepFloyd IF too; files are read as those of Stable Diffusion."""

    name, title = "stable_diffusion_upscaler", "the x4 upscaler of Stable Diffusion"
    load = "customize.families.stable_diffusion_upscaler:load"
    pipeline = PIPELINE
    pipeline_files = (*StableDiffusionSpec.pipeline_files, LOW_RES, "watermarker")
    hub_names = r"stable-diffusion-x4-upscaler"
    align_your_steps = ""

    def matches(self, path: Path) -> bool:
        return path.is_dir() and read_configuration(path / INDEX, []).get("_class_name") == PIPELINE

    def check(self, source: Source) -> Source:
        source = super().check(source)
        low_res = source.folder / LOW_RES / "scheduler_config.json" if source.folder else None
        if low_res and (problems := configuration_problems(low_res, SCHEDULER)[0]):
            raise InputError(problems)
        return source

    def refuse_others(self, folder: Path) -> None:
        """Raises InputError for a UNet of another kind."""
        unet = read_configuration(folder / "unet/config.json", [])
        if unet and (unet.get("in_channels") != CHANNELS or not unet.get("num_class_embeds")):
            what = f"is {self.title} by its model_index.json, but its UNet does not take an image to enlarge and its noise level"
            raise InputError(Problem(SETTING, f"{printable(folder)} {what}", AGAIN))

    def enlarges(self, source: Source) -> bool:
        return True

    def guidance_scale(self, source: Source, start: Start = "noise") -> float:
        return 9.0

    def not_trainable(self, source: Source) -> Problem | None:
        what = f"{printable(source.folder or source.name)} is {self.title}; it can enlarge images, but cannot be trained here"
        return Problem(SETTING, what, "train the model whose images it enlarges")

    single_file_layout = FamilySpec.single_file_layout

    def architectures(self):
        return ()

    def learned_on(self, tensors) -> bool:
        return False


UPSCALER = UpscalerSpec()
