"""The x4 upscaler of Stable Diffusion: a latent diffusion model that is also given the image to enlarge.

B batch, C latent channels, H W latent height and width, which are those of the image to enlarge.
Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models", section 4.4.
"""

from pathlib import Path
from typing import Any

from diffusers import StableDiffusionUpscalePipeline

from customize.families.base import Placement
from customize.families.conditioning import SuperResolution
from customize.families.files.folder_check import INDEX
from customize.families.files.scheduler import load_scheduler
from customize.families.loading import CLASSES, load_folder, placed
from customize.families.specs.family_spec import Source
from customize.families.specs.upscaler_spec import LOW_RES, UPSCALER
from customize.families.stable_diffusion import StableDiffusion
from customize.storage.json_files import read_object

NOISE_LEVEL, LARGEST = 20, 350
"""Defaults of `StableDiffusionUpscalePipeline`."""


class Upscaler(StableDiffusion):
    """Stable Diffusion whose UNet takes the latents and the noised image [B, C + 3, H, W], and the noise level as class label.

    low_res_scheduler: adds the noise; max_noise_level: the largest that the UNet knows.
    """

    spec = UPSCALER
    takes_mask = False

    def __init__(self, *parts: Any, low_res_scheduler: Any, max_noise_level: int = LARGEST, **others: Any):
        self.low_res_scheduler, self.max_noise_level = low_res_scheduler, max_noise_level
        super().__init__(*parts, **others)

    @property
    def super_resolution(self) -> SuperResolution:
        level = min(NOISE_LEVEL, self.max_noise_level)
        return SuperResolution(self.low_res_scheduler, level, level, self.max_noise_level, self.latents.factor, noised_first=True)

    @property
    def model_spec(self) -> dict[str, str]:
        return {}

    def pipeline(self) -> StableDiffusionUpscalePipeline:
        """diffusers' pipeline of these components (not copies), without safety checker and watermarker."""
        return StableDiffusionUpscalePipeline(
            vae=self.vae, text_encoder=self.text_encoder, tokenizer=self.tokenizer, unet=self.unet, scheduler=self.scheduler,
            low_res_scheduler=self.low_res_scheduler, max_noise_level=self.max_noise_level,
        )  # fmt: skip


def load(source: Source, placement: Placement) -> StableDiffusion:
    """Loads a folder that the spec has checked. Raises InputError, also for weights that are NaN or infinite."""
    folder: Path | None = source.folder
    assert folder, "a model on the hub is downloaded by families.load"
    most = read_object(folder / INDEX).get("max_noise_level", LARGEST)
    most = most if type(most) is int and 0 <= most < 1000 else LARGEST
    low_res = load_scheduler(folder, LOW_RES)
    return placed(load_folder(Upscaler, CLASSES, source, placement, low_res_scheduler=low_res, max_noise_level=most), placement)
