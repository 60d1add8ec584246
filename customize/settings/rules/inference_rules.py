"""Rules about combinations of infer.py's settings. See `rule.py`."""

from collections.abc import Iterator
from typing import Any

from customize.errors import InputError, Problem
from customize.settings.rules.rule import rule, text_is_no_path
from customize.settings.sampler_names import TIMESTEPS, configuration, find, read_timesteps
from customize.settings.scale import changes, path_and_scale

PARTS_OF_AN_IMAGE = {
    "hybrid": ("low", "high"), "triple": ("low", "middle", "high"), "colour": ("grey", "colour"), "motion": ("moving", "rest"),
}  # fmt: skip
"""The parts whose sum an illusion is."""


@rule("seed", "num_images")
def seeds_exist(seed: int, num_images: int) -> Iterator[Problem]:
    """The seed of the last image is below 2**64."""
    if seed + num_images > 2**64:
        what = f"{seed} + {num_images - 1} is not a valid seed: the largest is {2**64 - 1}"
        yield Problem("num_images", what, "use a smaller seed, or fewer images")


@rule("hires_scale", "image", "low_res_image", "illusion", "lesson")
def second_pass_starts_from_noise(
    hires_scale: float | None, image: str | None, low_res_image: str | None, illusion: str, lesson: str
) -> Iterator[Problem]:
    """hires_scale is not combined with an input image, an illusion or a lesson."""
    of_images = ("image", image is not None), ("low_res_image", low_res_image is not None)
    for name, is_given in *of_images, ("illusion", illusion != "none"), ("lesson", lesson != "none"):
        if hires_scale is not None and is_given:
            yield Problem(
                "hires_scale", f"cannot be combined with {name}: the first pass starts from noise", "leave one of the two out"
            )


@rule("hires_scale", "trace", "attention", "show_start")
def records_show_one_pass(hires_scale: float | None, trace: bool, attention: bool, show_start: bool) -> Iterator[Problem]:
    """Records of the denoising steps are not combined with hires_scale."""
    for name, is_on in ("trace", trace), ("attention", attention), ("show_start", show_start):
        if hires_scale is not None and is_on:
            yield Problem(name, "shows one pass, but hires_scale makes two", "leave one of the two out")


OPTIONS = ("use_karras_sigmas", "timestep_spacing", "rescale_betas_zero_snr", "eta", "timesteps")
"""Settings that are options of a sampler."""


@rule("scheduler", *OPTIONS)
def sampler_takes_its_options(scheduler: str | None, *options: Any) -> Iterator[Problem]:
    """scheduler is the name of a sampler, and the sampler supports the given options."""
    if scheduler is not None:
        try:
            configuration(find(scheduler), dict(zip(OPTIONS, options, strict=True)))
        except InputError as error:
            yield from error.problems


@rule("timesteps", "use_karras_sigmas", "timestep_spacing")
def timesteps_are_a_list(
    timesteps: str | None, use_karras_sigmas: bool | None, timestep_spacing: str | None
) -> Iterator[Problem]:
    """timesteps is the name of a list or descending numbers, and is not combined with another spacing."""
    if timesteps is None:
        return
    try:
        read_timesteps(timesteps)
    except ValueError as error:
        yield Problem("timesteps", str(error), f"use one of {', '.join(TIMESTEPS)}, or numbers such as 999,750,500,250,0")
    for name, is_given in ("use_karras_sigmas", use_karras_sigmas), ("timestep_spacing", timestep_spacing is not None):
        if is_given:
            yield Problem("timesteps", f"cannot be combined with {name}: both space the steps", "leave one of the two out")


@rule("merge", "weights")
def merged_weights_have_one_scale(merge: str | None, weights: tuple[str, ...]) -> Iterator[Problem]:
    """Weights to merge have constant scales."""
    for each in weights if merge is not None else ():
        if changes(path_and_scale(each)[1]):
            remedy = "give one scale, as in PATH:0.8"
            yield Problem("weights", f"{each} changes during denoising, but merged weights have one scale", remedy)


@rule("merge", "sweep")
def one_model_is_merged(merge: str | None, sweep: tuple[str, ...]) -> Iterator[Problem]:
    """merge is not combined with sweep."""
    if merge is not None and sweep:
        yield Problem(
            "sweep", "cannot be combined with merge, which writes one model with one scale per file", "leave one of the two out"
        )


@rule("chain", "sweep", "mask_image")
def chain_is_a_row_of_whole_images(chain: int, sweep: tuple[str, ...], mask_image: str | None) -> Iterator[Problem]:
    """chain is not combined with sweep or mask_image."""
    if chain > 1 and sweep:
        yield Problem(
            "chain", "cannot be combined with sweep: both make the columns of the contact sheet", "leave one of the two out"
        )
    if chain > 1 and mask_image is not None:
        yield Problem(
            "chain",
            "cannot be combined with mask_image: each image of a chain continues from the whole one before",
            "leave mask_image out",
        )


@rule("upscalers", "chain", "lesson", "hires_scale")
def stages_enlarge_one_image(upscalers: tuple[str, ...], chain: int, lesson: str, hires_scale: float | None) -> Iterator[Problem]:
    """upscalers are not combined with a chain, a lesson or a second pass."""
    for name, is_given in ("chain", chain > 1), ("lesson", lesson != "none"), ("hires_scale", hires_scale is not None):
        if upscalers and is_given:
            yield Problem("upscalers", f"cannot be combined with {name}", "leave one of the two out")


@rule("prompt", "merge", "lesson", "like")
def prompt_is_given(prompt: tuple[str, ...], merge: str | None, lesson: str, like: str | None) -> Iterator[Problem]:
    """A prompt is given, except for merging and for lessons that need none."""
    if not prompt and merge is None and lesson in ("none", "denoising"):
        yield Problem(
            "prompt", "is missing" if like is None else f"is missing: {like} stores none", "give a prompt: what the image shows"
        )


@rule("lesson", "image")
def lesson_is_about_an_image(lesson: str, image: str | None) -> Iterator[Problem]:
    """A lesson has an image."""
    if lesson != "none" and image is None:
        yield Problem("image", f"is missing: lesson = {lesson} needs one", "give an image")


@rule("lesson", "trace", "show_start", "attention")
def lesson_is_a_sheet_of_its_own(lesson: str, trace: bool, show_start: bool, attention: bool) -> Iterator[Problem]:
    """A lesson is not combined with other sheets and records."""
    for name, is_on in ("trace", trace), ("show_start", show_start), ("attention", attention):
        if lesson != "none" and is_on:
            yield Problem(name, f"cannot be combined with lesson = {lesson}, which makes its own sheet", f"leave {name} out")


@rule("prompt", "between", "illusion", "view", "image_part")
def one_prompt_for_each_part(
    prompt: tuple[str, ...], between: float | None, illusion: str, view: tuple[str, ...], image_part: str | None
) -> Iterator[Problem]:
    """An image made from several prompts has one for each of its views, parts or ends."""
    if between is not None and len(prompt) != 2:
        yield Problem("prompt", f"{len(prompt)} given, but between needs two", "give two prompts")
    if illusion == "none":
        return
    if between is not None:
        yield Problem(
            "illusion", "cannot be combined with between: both make one image of the prompts", "leave one of the two out"
        )
    needed = len(PARTS_OF_AN_IMAGE.get(illusion, view)) - (image_part is not None)
    if illusion not in PARTS_OF_AN_IMAGE and needed < 2:
        yield Problem("view", f"illusion = {illusion} needs one view per prompt", "give two or more, such as identity flip")
    elif len(prompt) != needed:
        what = f"{len(prompt)} given, but illusion = {illusion} needs {needed}"
        yield Problem("prompt", what, "give one for each part or view")


@rule("illusion", "low_res_image", "upscalers")
def looking_glass_has_one_stage(illusion: str, low_res_image: str | None, upscalers: tuple[str, ...]) -> Iterator[Problem]:
    """looking_glass, which has one image per view, is not combined with an image to enlarge."""
    for name, is_given in ("low_res_image", low_res_image is not None), ("upscalers", bool(upscalers)):
        if illusion == "looking_glass" and is_given:
            yield Problem(name, "cannot be combined with illusion = looking_glass", "use illusion = anagram, or leave it out")


@rule("illusion", "image_part", "image")
def illusion_has_the_part_of_an_image(illusion: str, part: str | None, image: str | None) -> Iterator[Problem]:
    """An input image of an illusion replaces one of its two parts."""
    parts = PARTS_OF_AN_IMAGE.get(illusion, ())
    if part is not None and (part not in parts or len(parts) > 2):
        remedy = "use low or high with hybrid, or grey or colour with colour"
        yield Problem("image_part", f"illusion = {illusion} has no part {part} to take from an image", remedy)
    if illusion != "none" and image is not None and part is None:
        yield Problem("image", f"illusion = {illusion} starts from noise", "leave it out, or give the image_part to take from it")


@rule("image_part", "mask_image", "strength")
def image_part_is_kept(image_part: str | None, mask_image: str | None, strength: float | None) -> Iterator[Problem]:
    """image_part is not combined with a mask or a strength."""
    if image_part is not None and mask_image is not None:
        yield Problem(
            "mask_image", "cannot be combined with image_part: both choose what is kept of the image", "leave one of the two out"
        )
    if image_part is not None and strength is not None:
        yield Problem("strength", "has no effect with image_part: generation starts from noise", "leave it out")


@rule("attention", "illusion", "between")
def attention_has_one_prompt(attention: bool, illusion: str, between: float | None) -> Iterator[Problem]:
    """attention is not combined with an illusion or with between."""
    for name, value, none in ("illusion", illusion, "none"), ("between", between, None):
        if attention and value != none:
            yield Problem("attention", f"cannot be recorded with {name} = {value}", "leave one of the two out")


INFERENCE = (
    text_is_no_path("prompt"), text_is_no_path("negative_prompt"), seeds_exist, second_pass_starts_from_noise,
    records_show_one_pass, sampler_takes_its_options, timesteps_are_a_list, merged_weights_have_one_scale, one_model_is_merged,
    chain_is_a_row_of_whole_images, stages_enlarge_one_image, prompt_is_given, lesson_is_about_an_image,
    lesson_is_a_sheet_of_its_own, one_prompt_for_each_part, illusion_has_the_part_of_an_image, image_part_is_kept,
    looking_glass_has_one_stage,
    attention_has_one_prompt,
)  # fmt: skip
