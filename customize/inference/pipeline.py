"""A base model and its learned weights as one object that generates images.

B images, C latent channels, H W latent height and width.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from customize.errors import InputError, NumericsError, Problem
from customize.families.base import Family
from customize.families.conditioning import Conditioning, Crop
from customize.inference.estimates import Estimate
from customize.inference.inpainting import as_pixels
from customize.inference.prompt_estimates import Prompt, Text, prompt_estimate, read
from customize.inference.request import GenerationRequest, request_of
from customize.inference.sampler import StepResult, draw_noise, sample
from customize.inference.scale_schedules import LoadedWeights
from customize.inference.schedulers import make_scheduler, timesteps_of
from customize.inference.solvers import Solver
from customize.inference.starts import Enlarging, Start


class Pipeline:
    """Generates images with the networks of a family, including weights that were loaded into them or are being trained.

    trigger_words: words that make a prompt use the learned concept. notes: remarks for the user on how the weights were
    loaded. weights: the loaded weights, whose scales can be changed.
    """

    def __init__(
        self,
        family: Family,
        trigger_words: Sequence[str] = (),
        notes: Sequence[str] = (),
        weights: LoadedWeights | None = None,
    ):
        self.family = family
        self.weights = weights or LoadedWeights()
        self.trigger_words = tuple(trigger_words)
        self.notes = tuple(notes)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt | tuple[Prompt, ...]],
        *,
        record: Callable[[StepResult], None] = lambda result: None,
        output_type: str = "pil",
        **options: Any,
    ) -> Any:
        """Generates one batch of images: builds a `GenerationRequest` from the options and runs it.

        Give one value of prompts, negative_prompt, guidance_scale, seeds, image and mask_image for all B images, or a list with
        one value per image. image, strength: image to image; strength, above 0 and up to 1, is the fraction of the schedule to
        run (default: 0.8, or 1 with a mask). mask_image: inpainting; only the white part is regenerated, all other pixels stay
        equal. num_resamples, jump_length: see `repaint_plan`. low_res_image, noise_level: the image that a super-resolution model
        enlarges, see `Enlarging`. With a composition, each prompt is a tuple. All other options are
        fields of `GenerationRequest`. record, output_type, and the errors raised: see `run`.
        """
        return self.run(request_of(prompts, **options), record, output_type)

    @torch.no_grad()
    def run(
        self,
        request: GenerationRequest,
        record: Callable[[StepResult], None] = lambda result: None,
        output_type: str = "pil",
    ) -> Any:
        """Returns the B images of a request, or their clean latents [B, C, H, W] if output_type is "latent".

        record: a callback that receives the result of each step. Raises InputError for an invalid request (a size that does not
        fit, too many steps, ...), and NumericsError if a pixel is NaN or infinite.
        """
        start, composition, timesteps = request.start, request.composition, timesteps_of(request.timesteps)
        steps = request.num_inference_steps if timesteps is None else len(timesteps)
        self.check_start(start)
        size = self.size(request.height, request.width, start.images[0] if start.images else None)
        self.family.latents.set_tiling(request.vae_tiling)
        copies = composition.copies if composition else 1
        generators = [torch.Generator().manual_seed(seed) for seed in request.seeds] * copies
        scheduler = make_scheduler(
            self.family.scheduler, request.scheduler, request.use_karras_sigmas, timestep_spacing=request.timestep_spacing,
            rescale_betas_zero_snr=request.rescale_betas_zero_snr, eta=request.eta, timesteps=timesteps, spec=self.family.spec,
        )  # fmt: skip
        solver = Solver(scheduler, generators, request.eta or 0.0)
        distilled = self.family.takes_guidance and start.shortens
        solver.set_steps(steps, start.strength, self.family.device, distilled, timesteps)
        estimates = [
            self.estimate(
                prompts, request.negative_prompts, request.guidance_scales, steps, request.plain_prompt,
                request.guidance_rescale, request.clip_skip, size,
            )
            for prompts in zip(*request.prompts, strict=True)
        ]  # fmt: skip
        estimate = composition.of(estimates) if composition else estimates[0]
        task = start.task(self, solver, solver.bounded(estimate), size, generators)
        latents = sample(
            self.family.predict, solver, task.start, task.estimate, plan=task.plan, correct=task.correct, record=record,
            max_batch=request.max_batch,
        )[: len(request.seeds)]  # fmt: skip
        return latents if output_type == "latent" else task.finish(self.decode(latents, request.max_batch))

    def check_start(self, start: Start) -> None:
        """Raises InputError if the model needs a mask or an image to enlarge that the start does not have, or takes none."""
        name, enlarges = self.family.name, self.family.super_resolution is not None
        if self.family.takes_mask and not start.gives_mask:
            what = "is an inpainting model, which needs an image and a mask"
            raise InputError(Problem(name, what, "give image and mask_image, or use another model"))
        if enlarges and not isinstance(start, Enlarging):
            what = "is a super-resolution model, which needs an image to enlarge"
            raise InputError(Problem(name, what, "give it as low_res_image, or use another model"))
        if not enlarges and isinstance(start, Enlarging):
            what = f"is for super-resolution models, and {name} is none"
            raise InputError(Problem("low_res_image", what, "give image to start from it, or use another model"))

    @property
    def blank(self) -> dict[str, Image.Image]:
        """The options with which an inpainting model generates a whole image from its prompt; none for any other model."""
        if not self.family.takes_mask:
            return {}
        size = (self.family.resolution, self.family.resolution)
        return {"image": Image.new("RGB", size), "mask_image": Image.new("L", size, 255)}

    def estimate(
        self,
        prompts: Sequence[Prompt],
        negatives: Sequence[str],
        scales: Sequence[float],
        steps: int,
        plain: bool = False,
        rescale: float = 0.0,
        clip_skip: int | None = None,
        size: tuple[int, int] | None = None,
    ) -> Estimate:
        """Guidance from negative prompts to prompts, with one of each and one scale per image; see `prompt_estimate`.

        size: (height, width) of the images; None: the base model's own.
        """
        guides = self.family.takes_guidance
        kind = {"dtype": torch.float64} if guides else {"dtype": self.family.dtype, "device": self.family.device}
        scale = torch.tensor(scales, **kind).view(-1, 1, 1, 1)
        encode = partial(self.conditioning, clip_skip=clip_skip) if clip_skip else self.conditioning
        sizes = self.family.size_conditioning([Crop.whole(*(size or self.size(None, None, None)))] * len(prompts))
        return self.weights.scheduled(
            lambda: prompt_estimate(encode, prompts, negatives, scale, steps, plain, guides, rescale, sizes), steps
        )

    def lengths(self, prompts: Sequence[Prompt], negative_prompt: str, steps: int, plain: bool = False) -> tuple[int, int]:
        """The largest number of chunks, at any step, of one image's prompts and of its negative prompt."""
        positive, negative = (
            [text for prompt in side for text in read(prompt, plain).texts(steps)] for side in (prompts, [negative_prompt])
        )
        return max(map(self.family.num_chunks, positive)), max(map(self.family.num_chunks, negative))

    def conditioning(self, texts: Sequence[Text], clip_skip: int | None = None) -> Conditioning:
        """The conditioning of the texts, one row each."""
        return self.family.encode_prompts(texts, clip_skip=clip_skip)

    def size(self, height: int | None, width: int | None, image: Image.Image | None) -> tuple[int, int]:
        """(height, width) in pixels. A side that is None follows from the image's aspect ratio and the model's resolution, or
        from the size of an image to enlarge."""
        factor = self.family.latents.factor
        unit = self.family.size_multiple
        takes = self.family.super_resolution
        if image and takes and takes.factor:
            own = [image.height * takes.factor, image.width * takes.factor]
        else:
            shape = (image.height / image.width) ** 0.5 if image else 1
            own = [max(round(self.family.resolution * side / unit), 1) * unit for side in (shape, 1 / shape)]
        sides = {"height": height or own[0], "width": width or own[1]}
        problems = [
            Problem(name, f"{side} is not a multiple of {factor}", f"use {max(round(side / factor), 1) * factor}")
            for name, side in sides.items()
            if side < factor or side % factor
        ]
        if problems:
            raise InputError(problems)
        return sides["height"], sides["width"]

    def noise(self, size: tuple[int, int], generators: list[torch.Generator]) -> Tensor:
        """Standard normal noise [B, C, H, W] in the shape of the latents of images of `size` (height, width)."""
        height, width = (side // self.family.latents.factor for side in size)
        shape = (len(generators), self.family.latents.channels, height, width)
        return draw_noise(shape, generators, like=torch.empty((), device=self.family.device, dtype=self.family.dtype))

    @torch.no_grad()
    def encode(self, images: Sequence[Image.Image], generators: Sequence[torch.Generator]) -> Tensor:
        """RGB images of one size -> latents [B, C, H, W], each sampled with its own generator."""
        return torch.cat([self.encode_pixels(as_pixels(image), g) for image, g in zip(images, generators, strict=True)])

    @torch.no_grad()
    def encode_pixels(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """pixels [1, 3, height, width] in [-1, 1] -> latents [1, C, H, W], sampled with the generator."""
        space = self.family.latents
        stored = space.encode(pixels)
        noise = None
        if space.is_random:
            noise = torch.randn(1, *space.shape(stored), generator=generator, dtype=stored.dtype).to(stored.device)
        latents = space.sample(stored, noise)
        return latents.to(self.family.device, self.family.dtype)

    @torch.no_grad()
    def decode(self, latents: Tensor, max_batch: int | None = None) -> list[Image.Image]:
        """latents [B, C, H, W] -> B images. Raises NumericsError if a pixel is NaN or infinite."""
        images = []
        for piece in latents.split(max_batch or 1):
            pixels = self.family.latents.decode(piece).float()
            if not pixels.isfinite().all():
                raise NumericsError(
                    "an image has NaN or infinite pixels: use a higher precision (mixed_precision no or bf16), a lower "
                    "guidance_scale, or a smaller scale of the weights"
                )
            pixels = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
            images += [Image.fromarray(array) for array in pixels.permute(0, 2, 3, 1).cpu().numpy()]
        return images


class ConditionedPipeline(Pipeline):
    """A pipeline that takes its conditioning from `condition`, such as that of a method whose text encoder may be off
    the device, or of prompts that were encoded before."""

    def __init__(self, family: Family, condition: Callable[[Sequence[str]], Conditioning], **options: Any):
        super().__init__(family, **options)
        self.condition = condition

    def conditioning(self, texts: Sequence[Text], clip_skip: int | None = None) -> Conditioning:
        return self.condition(["".join(span.text for span in text) for text in texts])
