"""A base model, with whatever was taught to it, as one object that generates images.

B images, C latent channels, H W latent height and width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from customize.errors import InputError, NumericsError, Problem
from customize.families.base import Family
from customize.families.conditioning import Conditioning
from customize.inference.estimates import Estimate
from customize.inference.illusions import Components, keep_component
from customize.inference.inpainting import as_pixels, inpainted, read_mask
from customize.inference.loaded import LoadedWeights
from customize.inference.sampler import DenoisingTask, StepResult, draw_noise, sample
from customize.inference.schedulers import make_scheduler
from customize.inference.solvers import Solver
from customize.inference.wording import Prompt, Text, read, worded


@dataclass(frozen=True)
class Composition:
    """One picture of several prompts. of: given an estimate for each prompt, in their order, returns the picture's.

    copies: how many latents each picture has, the first of them being those that are shown. kept: components, and the index
    of the one that is the given image's instead (`illusions.keep_component`).
    """

    of: Callable[[Sequence[Estimate]], Estimate]
    copies: int = 1
    kept: tuple[Components, int] | None = None


class Pipeline:
    """Generates with a family's parts as they are, whatever has been loaded into them or is learning in them.

    trigger_words: the words that call what was learned. notes: what the user should know of how it was loaded. weights:
    what was loaded, whose scales can be set anew.
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

    @torch.no_grad()
    def generate(
        self,
        prompts: Prompt | Sequence[Prompt | tuple[Prompt, ...]],
        *,
        negative_prompt: str | Sequence[str] = "",
        num_inference_steps: int = 50,
        guidance_scale: float | Sequence[float] = 7.5,
        seeds: int | Sequence[int] = 0,
        height: int | None = None,
        width: int | None = None,
        image: Image.Image | Sequence[Image.Image] | None = None,
        strength: float | None = None,
        mask_image: Image.Image | Sequence[Image.Image] | None = None,
        num_resamples: int = 1,
        jump_length: int = 10,
        scheduler: str | None = None,
        use_karras_sigmas: bool | None = None,
        timestep_spacing: str | None = None,
        rescale_betas_zero_snr: bool = False,
        eta: float | None = None,
        guidance_rescale: float = 0.0,
        clip_skip: int | None = None,
        max_batch: int | None = None,
        plain_prompt: bool = False,
        vae_tiling: bool = False,
        composition: Composition | None = None,
        record: Callable[[StepResult], None] = lambda result: None,
        output_type: str = "pil",
    ) -> Any:
        """Returns B pictures; of prompts, negative prompts, guidance scales, seeds and images, one serves for all B.

        prompts: read by the grammar of `customize.prompts`, unless `plain_prompt`; with a composition each is a tuple, and
        the pictures' stand in a list.
        A picture depends on its own prompt, seed and image only, not on the others in its batch, when all prompts have as
        many chunks (see `lengths`); shorter ones are filled up with empty chunks.
        guidance_scale: where all are up to 1, the negative prompts are not asked; nor where the network takes the scale as an
        input (LCM). height, width: in pixels; by default the
        base model's own, or with an image its shape at as many pixels. image, strength: start from it, noised to the part
        `strength` (above 0, up to 1; by default 0.8, with a mask 1) of the schedule. mask_image: only where it is white the
        image is made anew, every other pixel comes back as it was. num_resamples, jump_length: see `repaint_plan`.
        scheduler, use_karras_sigmas, timestep_spacing, rescale_betas_zero_snr: see `make_scheduler`. eta: in 0..1, the
        noise that DDIM or TCD adds at each step. guidance_rescale: in 0..1, see `estimates.rescaled`. clip_skip: last
        layers of the text encoder that are left out, as diffusers counts them. max_batch: most rows in a call of a network
        (with guidance, a picture is two). vae_tiling: the autoencoder works on large pictures tile by tile. output_type:
        "pil", or "latent" for [B, C, H, W].

        Raises InputError for what cannot be done (a prompt that is too long, ...), NumericsError for NaN and infinity.
        """
        prompts = [prompts] if composition and isinstance(prompts, tuple) else prompts
        count, (prompts, negative_prompts, scales, seeds, images, masks) = together(
            prompts=prompts, negative_prompt=negative_prompt, guidance_scale=guidance_scale, seeds=seeds, image=image,
            mask_image=mask_image,
        )  # fmt: skip
        self.check_pictures(images[0], masks[0])
        size = self.size(height, width, images[0])
        self.family.latents.set_tiling(vae_tiling)
        copies = composition.copies if composition else 1
        generators = [torch.Generator().manual_seed(seed) for seed in seeds] * copies
        made = make_scheduler(
            self.family.scheduler, scheduler, use_karras_sigmas, timestep_spacing=timestep_spacing,
            rescale_betas_zero_snr=rescale_betas_zero_snr, eta=eta,
        )  # fmt: skip
        solver = Solver(made, generators, eta or 0.0)
        usual = 0.8 if images[0] and not masks[0] and not composition else 1.0
        distilled = self.family.takes_guidance and bool(images[0]) and not masks[0]
        strength = usual if strength is None else strength
        solver.set_steps(num_inference_steps, strength, self.family.device, distilled)
        parts = zip(*(prompts if composition else [[prompt] for prompt in prompts]), strict=True)
        estimates = [
            self.estimate(part, negative_prompts, scales, num_inference_steps, plain_prompt, guidance_rescale, clip_skip)
            for part in parts
        ]
        estimate = composition.of(estimates) if composition else estimates[0]
        images = [image and fitted(image, size) for image in images]
        if masks[0]:
            masks = [read_mask(mask, size) for mask in masks]
            task = inpainted(self, solver, estimate, images, masks, generators, num_resamples, jump_length)
        elif images[0] and composition and composition.kept:
            clean, (components, index) = self.encode(images, generators), composition.kept
            start = solver.start(self.noise(size, generators))
            task = DenoisingTask(start, estimate, keep_component(components, clean, solver, generators, index=index))
        elif images[0]:
            clean = self.encode(images, generators)
            task = DenoisingTask(solver.start(draw_noise(clean.shape, generators, like=clean), clean), estimate)
        else:
            task = DenoisingTask(solver.start(self.noise(size, generators)), estimate)
        latents = sample(
            self.family.predict,
            solver,
            task.start,
            task.estimate,
            plan=task.plan,
            correct=task.correct,
            record=record,
            max_batch=max_batch,
        )
        latents = latents[:count]
        return latents if output_type == "latent" else task.finish(self.decode(latents, max_batch))

    def estimate(
        self,
        prompts: Sequence[Prompt],
        negatives: Sequence[str],
        scales: Sequence[float],
        steps: int,
        plain: bool = False,
        rescale: float = 0.0,
        clip_skip: int | None = None,
    ) -> Estimate:
        """Guidance from the negative prompts to the prompts, one of each and a scale per picture: see `worded`."""
        guides = self.family.takes_guidance
        kind = {"dtype": torch.float64} if guides else {"dtype": self.family.dtype, "device": self.family.device}
        scale = torch.tensor(scales, **kind).view(-1, 1, 1, 1)
        encode = partial(self.conditioning, clip_skip=clip_skip) if clip_skip else self.conditioning
        return self.weights.scheduled(lambda: worded(encode, prompts, negatives, scale, steps, plain, guides, rescale), steps)

    def lengths(self, prompts: Sequence[Prompt], negative_prompt: str, steps: int, plain: bool = False) -> tuple[int, int]:
        """How many chunks the longest of one picture's prompts has, at any step, and how many its negative prompt."""
        positive, negative = (
            [text for prompt in wanted for text in read(prompt, plain).texts(steps)] for wanted in (prompts, [negative_prompt])
        )
        return max(map(self.family.num_chunks, positive)), max(map(self.family.num_chunks, negative))

    def conditioning(self, texts: Sequence[Text], clip_skip: int | None = None) -> Conditioning:
        """The conditioning of texts, a row for each."""
        return self.family.encode_prompts(texts, clip_skip=clip_skip)

    def size(self, height: int | None, width: int | None, picture: Image.Image | None) -> tuple[int, int]:
        """(height, width) in pixels; what is not given follows the picture's shape and the base model's resolution."""
        factor = self.family.latents.factor
        unit = self.family.size_multiple
        shape = (picture.height / picture.width) ** 0.5 if picture else 1
        own = [max(round(self.family.resolution * side / unit), 1) * unit for side in (shape, 1 / shape)]
        sides = {"height": height or own[0], "width": width or own[1]}
        problems = [
            Problem(name, f"{side} is no multiple of {factor}", f"take {max(round(side / factor), 1) * factor}")
            for name, side in sides.items()
            if side < factor or side % factor
        ]
        if problems:
            raise InputError(problems)
        return sides["height"], sides["width"]

    def check_pictures(self, image: Image.Image | None, mask: Image.Image | None) -> None:
        """Raises InputError when the model or the mask lacks a picture that it goes with."""
        if mask and not image:
            raise InputError(Problem("mask_image", "there is no image that it is for", "give the picture as image"))
        if self.family.takes_mask and not mask:
            what = "is an inpainting model, which is shown a picture and a mask"
            raise InputError(Problem(self.family.name, what, "give image and mask_image, or take another model"))

    def noise(self, size: tuple[int, int], generators: list[torch.Generator]) -> Tensor:
        """Standard normal numbers [B, C, H, W], the latents' shape for pictures of `size` (height, width)."""
        height, width = (side // self.family.latents.factor for side in size)
        shape = (len(generators), self.family.latents.channels, height, width)
        return draw_noise(shape, generators, like=torch.empty((), device=self.family.device, dtype=self.family.dtype))

    @torch.no_grad()
    def encode(self, images: Sequence[Image.Image], generators: Sequence[torch.Generator]) -> Tensor:
        """RGB images of one size -> latents [B, C, H, W], each drawn by its own generator."""
        return torch.cat([self.encode_pixels(as_pixels(image), g) for image, g in zip(images, generators, strict=True)])

    @torch.no_grad()
    def encode_pixels(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """pixels [1, 3, height, width] in [-1, 1] -> latents [1, C, H, W], sampled with the generator."""
        space = self.family.latents
        stored = space.encode(pixels)
        noise = torch.randn(1, *space.shape(stored), generator=generator, dtype=stored.dtype)
        latents = space.sample(stored, noise.to(stored.device))
        return latents.to(self.family.device, self.family.dtype)

    @torch.no_grad()
    def decode(self, latents: Tensor, max_batch: int | None = None) -> list[Image.Image]:
        """latents [B, C, H, W] -> B pictures. Raises NumericsError when a pixel is NaN or infinite."""
        pictures = []
        for piece in latents.split(max_batch or 1):
            pixels = self.family.latents.decode(piece).float()
            if not pixels.isfinite().all():
                raise NumericsError(
                    "a picture came out with NaN or infinite pixels: take a higher precision (mixed_precision no or "
                    "bf16), a lower guidance_scale, or a smaller scale of the weights"
                )
            pixels = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
            pictures += [Image.fromarray(array) for array in pixels.permute(0, 2, 3, 1).cpu().numpy()]
        return pictures


def together(**values: Any) -> tuple[int, list[list]]:
    """Each value as a list of one common length; a single one is repeated. Raises InputError when lengths differ."""
    lists = {
        name: list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        for name, value in values.items()
    }
    count = max(map(len, lists.values()))
    problems = [
        Problem(name, f"{len(items)} given for {count} pictures", f"give 1 or {count}")
        for name, items in lists.items()
        if len(items) not in (1, count)
    ]
    if problems:
        raise InputError(problems)
    return count, [items * count if len(items) == 1 else items for items in lists.values()]


def fitted(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The image as RGB, cut and scaled to `size` (height, width)."""
    return ImageOps.fit(image.convert("RGB"), size[::-1], Image.Resampling.LANCZOS)
