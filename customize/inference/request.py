"""What is asked of a pipeline: one batch of images, as a value."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL.Image import Image

from customize.errors import InputError, Problem
from customize.inference.estimates import Estimate
from customize.inference.illusions.illusion_estimates import Components
from customize.inference.prompt_estimates import Prompt
from customize.inference.starts import ImageToImage, Inpainting, KeepComponent, Start, TextToImage


@dataclass(frozen=True)
class Composition:
    """One image of several prompts. of: given an estimate for each prompt, in their order, returns the image's.

    copies: how many latents each image has; the first of them is decoded. kept: components, and the index of the one that is
    taken from the given image (`illusion_estimates.keep_component`).
    """

    of: Callable[[Sequence[Estimate]], Estimate]
    copies: int = 1
    kept: tuple[Components, int] | None = None


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """B images to generate in one batch. The first four fields have an entry for each.

    prompts: each image's, read by the grammar of `customize.prompts`, unless `plain_prompt`: one, or those that `composition`
    makes one image of. An image depends on its own prompt, seed and start only, not on the others in its batch, when all prompts
    have as many chunks (see `Pipeline.lengths`); shorter ones are padded with empty chunks.
    guidance_scales: where all are up to 1, the negative prompts are not evaluated; nor where the network takes the scale as an
    input (LCM). height, width: in pixels; by default the base model's own, or the shape of the start's images at as many pixels.
    scheduler, use_karras_sigmas, timestep_spacing, rescale_betas_zero_snr: see `make_scheduler`. eta: in 0..1, the noise that
    DDIM or TCD adds at each step. guidance_rescale: in 0..1, see `estimates.rescaled`. clip_skip: last layers of the text
    encoder that are left out, as diffusers counts them. max_batch: the largest number of rows in a call of a network (with
    guidance, an image is two). vae_tiling: the autoencoder works on large images tile by tile.
    """

    prompts: Sequence[tuple[Prompt, ...]]
    negative_prompts: Sequence[str]
    guidance_scales: Sequence[float]
    seeds: Sequence[int]
    start: Start = TextToImage()
    composition: Composition | None = None
    num_inference_steps: int = 50
    height: int | None = None
    width: int | None = None
    scheduler: str | None = None
    use_karras_sigmas: bool | None = None
    timestep_spacing: str | None = None
    rescale_betas_zero_snr: bool = False
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
    composition: Composition | None = None,
    start: Start | None = None,
    **options: Any,
) -> GenerationRequest:
    """The request that the options of `Pipeline.generate` stand for; without `start`, they decide where denoising starts.

    Raises InputError where they do not go together.
    """
    prompts = [prompts] if composition and isinstance(prompts, tuple) else prompts
    per_image = each_of_one_length(
        prompts=prompts, negative_prompt=negative_prompt, guidance_scale=guidance_scale, seeds=seeds, image=image,
        mask_image=mask_image,
    )  # fmt: skip
    images, masks = per_image["image"], per_image["mask_image"]
    if start and (images[0] or masks[0] or strength is not None or (composition and composition.kept)):
        raise InputError(Problem("start", "says where denoising starts, and so do image, mask_image and strength", "give one"))
    start = start or start_of(images, masks, strength, num_resamples, jump_length, composition)
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
    """Where denoising starts, by what is given. Raises InputError for a mask or a strength without an image."""
    given = {} if strength is None else {"strength": strength}
    if not images[0]:
        lonely = "mask_image" if masks[0] else "strength" if strength not in (None, 1.0) else None
        if lonely:
            raise InputError(Problem(lonely, "there is no image that it is for", "give the picture as image"))
        return TextToImage()
    if masks[0]:
        return Inpainting(images, masks, num_resamples=num_resamples, jump_length=jump_length, **given)
    if composition and composition.kept:
        return KeepComponent(images, *composition.kept, **given)
    return ImageToImage(images, **({"strength": 1.0} if composition else {}) | given)


def each_of_one_length(**values: Any) -> dict[str, list]:
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
    return {name: items * count if len(items) == 1 else items for name, items in lists.items()}
