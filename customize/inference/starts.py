"""Where denoising starts, and the correction after each step: one class per kind of generation.

A new kind (an inverted image, blended noise) is another class that implements `Start`.

B images, C latent channels, H W latent height and width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import torch
from PIL import Image, ImageOps

from customize.errors import InputError, Problem
from customize.inference.estimates import Estimate, WithChannels
from customize.inference.illusions.components import Components
from customize.inference.illusions.illusion_estimates import keep_component
from customize.inference.inpainting import ImageEncoder, as_pixels, inpainting_task, read_mask
from customize.inference.sampler import DenoisingTask, draw_noise
from customize.inference.solvers import Solver

Size = tuple[int, int]
"""(height, width) in pixels."""
Generators = list[torch.Generator]


class Start(Protocol):
    """images: the input images, or empty; strength: the fraction of the schedule to run, above 0 and up to 1.

    gives_mask: whether this start provides the mask for an inpainting network. shortens: whether a distilled solver makes all
    its steps within the fraction `strength` of the schedule.
    """

    @property
    def gives_mask(self) -> bool: ...
    @property
    def shortens(self) -> bool: ...
    @property
    def images(self) -> Sequence[Image.Image]: ...
    @property
    def strength(self) -> float: ...

    def task(
        self, pipeline: ImageEncoder, solver: Solver, estimate: Estimate, size: Size, generators: Generators
    ) -> DenoisingTask:
        """The task for images of this size. solver: with its steps set; generators: one per row of the latents."""
        ...


@dataclass(frozen=True)
class TextToImage:
    """Starts from noise."""

    gives_mask: ClassVar[bool] = False
    shortens: ClassVar[bool] = False
    images: ClassVar[Sequence[Image.Image]] = ()
    strength: ClassVar[float] = 1.0

    def task(
        self, pipeline: ImageEncoder, solver: Solver, estimate: Estimate, size: Size, generators: Generators
    ) -> DenoisingTask:
        return DenoisingTask(solver.start(pipeline.noise(size, generators)), estimate)


@dataclass(frozen=True)
class ImageToImage:
    """Starts from images, noised to the fraction `strength` of the schedule (SDEdit, see `Solver.start`)."""

    images: Sequence[Image.Image]
    strength: float = 0.8
    gives_mask: ClassVar[bool] = False
    shortens: ClassVar[bool] = True

    def task(
        self, pipeline: ImageEncoder, solver: Solver, estimate: Estimate, size: Size, generators: Generators
    ) -> DenoisingTask:
        clean = pipeline.encode(fitted(self.images, size), generators)
        return DenoisingTask(solver.start(draw_noise(clean.shape, generators, like=clean), clean), estimate)


@dataclass(frozen=True)
class Inpainting:
    """Regenerates images where their masks are white; all other pixels are kept. num_resamples, jump_length: `repaint_plan`."""

    images: Sequence[Image.Image]
    masks: Sequence[Image.Image]
    strength: float = 1.0
    num_resamples: int = 1
    jump_length: int = 10
    gives_mask: ClassVar[bool] = True
    shortens: ClassVar[bool] = False

    def task(
        self, pipeline: ImageEncoder, solver: Solver, estimate: Estimate, size: Size, generators: Generators
    ) -> DenoisingTask:
        images, masks = fitted(self.images, size), [read_mask(mask, size) for mask in self.masks]
        return inpainting_task(pipeline, solver, estimate, images, masks, generators, self.num_resamples, self.jump_length)


@dataclass(frozen=True)
class KeepComponent:
    """Starts from noise and keeps component `index` of the images (see `illusion_estimates.keep_component`)."""

    images: Sequence[Image.Image]
    components: Components
    index: int
    strength: float = 1.0
    gives_mask: ClassVar[bool] = False
    shortens: ClassVar[bool] = True

    def task(
        self, pipeline: ImageEncoder, solver: Solver, estimate: Estimate, size: Size, generators: Generators
    ) -> DenoisingTask:
        clean = pipeline.encode(fitted(self.images, size), generators)
        start = solver.start(pipeline.noise(size, generators))
        return DenoisingTask(start, estimate, keep_component(self.components, clean, solver, generators, index=self.index))


@dataclass(frozen=True)
class Enlarging:
    """Any other start, of a super-resolution model, which enlarges `low_res_images`.

    noise_level: the timestep that these are noised to; None: the model's own default. See `SuperResolution`.
    """

    start: Start
    low_res_images: Sequence[Image.Image]
    noise_level: int | None = None

    @property
    def gives_mask(self) -> bool:
        return self.start.gives_mask

    @property
    def shortens(self) -> bool:
        return self.start.shortens

    @property
    def images(self) -> Sequence[Image.Image]:
        """Those whose aspect ratio the results have."""
        return self.low_res_images

    @property
    def strength(self) -> float:
        return self.start.strength

    def task(
        self, pipeline: ImageEncoder, solver: Solver, estimate: Estimate, size: Size, generators: Generators
    ) -> DenoisingTask:
        """Raises InputError for a noise level that the model does not take."""
        takes = pipeline.family.super_resolution
        assert takes, "`Pipeline.run` has checked that the model enlarges images"
        level = self.noise_level
        if level is None:
            level = takes.for_inpainting if self.gives_mask else takes.noise_level
        if level > takes.largest:
            what = f"{level} is above {takes.largest}, the largest that {pipeline.family.name} takes"
            raise InputError(Problem("noise_level", what, f"use {takes.noise_level}, its default"))
        pixels = torch.cat([as_pixels(image.convert("RGB")) for image in self.low_res_images]).to(pipeline.family.device)
        pixels = pixels.to(pipeline.family.dtype).repeat(len(generators) // len(pixels), 1, 1, 1)
        shape = (*pixels.shape[:2], *(side // pipeline.family.latents.factor for side in size))
        noise = draw_noise(shape, generators, like=pixels) if takes.noised_first else None
        task = self.start.task(pipeline, solver, estimate, size, generators)
        if noise is None:
            noise = draw_noise(shape, generators, like=pixels)
        levels = torch.full((len(pixels),), level, device=pixels.device)
        channels = takes.noised(pixels, noise, levels)
        return replace(task, estimate=WithChannels(task.estimate, channels, {"class_labels": levels}))


def fitted(images: Sequence[Image.Image], size: Size) -> list[Image.Image]:
    """The images as RGB, cropped and scaled to `size` (height, width)."""
    return [ImageOps.fit(image.convert("RGB"), size[::-1], Image.Resampling.LANCZOS) for image in images]
