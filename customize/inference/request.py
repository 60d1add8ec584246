"""A request for one batch of images, as a value."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL.Image import Image

from customize.errors import InputError, Problem
from customize.inference.estimates import Estimate
from customize.inference.illusions.components import Components
from customize.inference.prompt_estimates import Prompt
from customize.inference.starts import Enlarging, ImageToImage, Inpainting, KeepComponent, Start, TextToImage


@dataclass(frozen=True)
class Composition:
    """One image of several prompts. of: combines the estimates of the prompts, in order, into the estimate of the image.

    copies: number of latents per image, the first of which is decoded. kept: components, and the index of the one to keep from
    the input image (see `illusion_estimates.keep_component`).
    """

    of: Callable[[Sequence[Estimate]], Estimate]
    copies: int = 1
    kept: tuple[Components, int] | None = None


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """B images to generate in one batch. The first four fields have one entry per image.

    prompts: a tuple of prompts per image, of length 1 unless a `composition` combines several. They are parsed by the grammar of
    `customize.prompts`, unless `plain_prompt` is set. Shorter prompts are padded with empty chunks to the longest of the batch;
    if all have the same number of chunks (see `Pipeline.lengths`), an image does not depend on the rest of its batch.
    guidance_scales: if all are at most 1, or if the network takes the scale as an input (LCM), negative prompts are not
    evaluated. height, width: in pixels, multiples of the latents' factor; the default is the base model's resolution, in the
    aspect ratio of the input images. timesteps: replace num_inference_steps evenly spaced ones, see `schedulers.timesteps_of`.
    scheduler, use_karras_sigmas, timestep_spacing, rescale_betas_zero_snr: see `make_scheduler`. eta: in 0..1, the noise that
    DDIM or TCD adds at each step. guidance_rescale: in 0..1, see `estimates.rescaled`. clip_skip: number of final text encoder
    layers to skip, as in diffusers. max_batch: largest number of rows per call of a network (guidance needs two rows per image).
    vae_tiling: encode and decode large images in tiles.
    """

    prompts: Sequence[tuple[Prompt, ...]]
    negative_prompts: Sequence[str]
    guidance_scales: Sequence[float]
    seeds: Sequence[int]
    start: Start = TextToImage()
    composition: Composition | None = None
    num_inference_steps: int = 50
    timesteps: str | Sequence[int] | None = None
    height: int | None = None
    width: int | None = None
    scheduler: str | None = None
    use_karras_sigmas: bool | None = None
    timestep_spacing: str | None = None
    rescale_betas_zero_snr: bool | None = None
    eta: float | None = None
    guidance_rescale: float = 0.0
    clip_skip: int | None = None
    max_batch: int | None = None
    plain_prompt: bool = False
    vae_tiling: bool = False


def request_of(
    prompts: Prompt | Sequence[Prompt | tuple[Prompt, ...]],
    *,
    negative_prompt: str | Sequence[str] = "",
    guidance_scale: float | Sequence[float] = 7.5,
    seeds: int | Sequence[int] = 0,
    image: Image | Sequence[Image | None] | None = None,
    mask_image: Image | Sequence[Image | None] | None = None,
    strength: float | None = None,
    num_resamples: int = 1,
    jump_length: int = 10,
    low_res_image: Image | Sequence[Image | None] | None = None,
    noise_level: int | None = None,
    composition: Composition | None = None,
    start: Start | None = None,
    **options: Any,
) -> GenerationRequest:
    """Builds a request from the options of `Pipeline.generate`; without `start`, the start follows from the other options.

    Raises InputError for options that contradict each other.
    """
    prompts = [prompts] if composition and isinstance(prompts, tuple) else prompts
    per_image = each_of_one_length(
        prompts=prompts, negative_prompt=negative_prompt, guidance_scale=guidance_scale, seeds=seeds, image=image,
        mask_image=mask_image, low_res_image=low_res_image,
    )  # fmt: skip
    images, masks, small = (per_image[name] for name in ("image", "mask_image", "low_res_image"))
    if start and (images[0] or masks[0] or strength is not None or (composition and composition.kept)):
        what = "cannot be combined with image, mask_image, strength or a kept component"
        raise InputError(Problem("start", what, "give one or the other"))
    start = start or start_of(images, masks, strength, num_resamples, jump_length, composition)
    if small[0]:
        start = Enlarging(start, small, noise_level)
    elif noise_level is not None:
        raise InputError(Problem("noise_level", "is of an image to enlarge", "give it as low_res_image"))
    return GenerationRequest(
        prompts=per_image["prompts"] if composition else [(prompt,) for prompt in per_image["prompts"]],
        negative_prompts=per_image["negative_prompt"],
        guidance_scales=per_image["guidance_scale"],
        seeds=per_image["seeds"],
        start=start,
        composition=composition,
        **options,
    )


def start_of(
    images: list[Any],
    masks: list[Any],
    strength: float | None,
    num_resamples: int,
    jump_length: int,
    composition: Composition | None,
) -> Start:
    """Chooses the start for the given options. Raises InputError for a mask or a strength without an image."""
    given = {} if strength is None else {"strength": strength}
    if not images[0]:
        lonely = "mask_image" if masks[0] else "strength" if strength not in (None, 1.0) else None
        if lonely:
            raise InputError(Problem(lonely, "needs an image", "give it as image"))
        return TextToImage()
    if masks[0]:
        return Inpainting(images, masks, num_resamples=num_resamples, jump_length=jump_length, **given)
    if composition and composition.kept:
        return KeepComponent(images, *composition.kept, **given)
    return ImageToImage(images, **({"strength": 1.0} if composition else {}) | given)


def each_of_one_length(**values: Any) -> dict[str, list]:
    """Returns each value as a list of one common length; single values are repeated. Raises InputError if lengths differ."""
    lists = {
        name: list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        for name, value in values.items()
    }
    count = max(map(len, lists.values()))
    problems = [
        Problem(name, f"{len(items)} given for {count} images", f"give 1 or {count}")
        for name, items in lists.items()
        if len(items) not in (1, count)
    ]
    if problems:
        raise InputError(problems)
    return {name: items * count if len(items) == 1 else items for name, items in lists.items()}
