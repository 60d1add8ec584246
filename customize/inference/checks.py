"""What the settings of infer.py must be to each other; see `customize.checks`."""

from collections.abc import Iterator
from typing import Any

from customize.errors import InputError, Problem
from customize.inference.samplers import configuration, find
from customize.scales import changes, path_and_scale

PARTS_OF_A_PICTURE = {
    "hybrid": ("low", "high"), "triple": ("low", "middle", "high"), "colour": ("grey", "colour"), "motion": ("moving", "rest"),
}  # fmt: skip


def _prompts_of_a_picture(settings: Any) -> Iterator[Problem]:
    """One picture of several prompts needs as many as it has views, parts or ends."""
    given, illusion = len(settings.prompt), settings.illusion
    if settings.between is not None and given != 2:
        yield Problem("prompt", f"{given} given, where between leads from one to another", "give two prompts")
    if illusion == "none":
        return
    if settings.between is not None:
        yield Problem("illusion", "and between both make one picture of the prompts", "keep one of the two")
    wanted = len(PARTS_OF_A_PICTURE.get(illusion, settings.view)) - (settings.image_part is not None)
    if illusion not in PARTS_OF_A_PICTURE and wanted < 2:
        yield Problem("view", f"illusion = {illusion} needs one for each prompt", "give two or more, such as identity flip")
    elif given != wanted:
        yield Problem("prompt", f"{given} given, where illusion = {illusion} takes {wanted}", "give one for each part or view")


def _image_in_an_illusion(settings: Any) -> Iterator[Problem]:
    """Of an illusion with a picture, one of two parts is the picture's."""
    illusion, part = settings.illusion, settings.image_part
    parts = PARTS_OF_A_PICTURE.get(illusion, ())
    if part is not None and (part not in parts or len(parts) > 2):
        remedy = "take low or high of a hybrid, or grey or colour of colour"
        yield Problem("image_part", f"illusion = {illusion} has no part {part} for a picture", remedy)
    if illusion != "none" and settings.image is not None and part is None:
        yield Problem("image", f"illusion = {illusion} starts from noise", "leave it out, or say which image_part it shall be")
    if part is not None and settings.mask_image is not None:
        yield Problem("mask_image", "and image_part both say what stays of the picture", "keep one of the two")
    if part is not None and settings.strength is not None:
        yield Problem("strength", "has no effect with image_part, which starts from noise", "leave it out")


def _attention(settings: Any) -> Iterator[Problem]:
    """Where words look is known of a prompt that the network is asked about the picture as it is."""
    if not settings.attention:
        return
    for name, none in ("illusion", "none"), ("between", None):
        if getattr(settings, name) != none:
            yield Problem("attention", f"is not known with {name} = {getattr(settings, name)}", "leave one of the two out")


def _lesson(settings: Any) -> Iterator[Problem]:
    """A lesson is about a picture; all else that is drawn, and what is denoised, about a prompt."""
    if not settings.prompt and settings.merge is None and settings.lesson in ("none", "denoising"):
        what = "is missing" if settings.like is None else f"is missing: {settings.like} tells none"
        yield Problem("prompt", what, "give what to show")
    if settings.lesson != "none" and settings.image is None:
        yield Problem("image", f"is missing: lesson = {settings.lesson} is about it", "name a picture")
    for name in ("trace", "show_start", "attention") if settings.lesson != "none" else ():
        if getattr(settings, name):
            yield Problem(name, f"lesson = {settings.lesson} is a sheet of its own", f"leave {name} out")


def _chain(settings: Any) -> Iterator[Problem]:
    if settings.chain > 1 and settings.sweep:
        yield Problem("chain", "and sweep both make the columns of the sheet", "keep one of the two")
    if settings.chain > 1 and settings.mask_image is not None:
        yield Problem("chain", "is not made of masked pictures", "leave mask_image out")


def _merge(settings: Any) -> Iterator[Problem]:
    """Merged weights have one scale each."""
    if settings.merge is None:
        return
    changing = [weights for weights in settings.weights if changes(path_and_scale(weights)[1])]
    for weights in changing:
        yield Problem("weights", f"{weights} changes on the way, which merged weights cannot", "give one scale, as in PATH:0.8")
    if settings.sweep:
        yield Problem("sweep", "and merge: one model is written, with one scale of each weight", "leave one of the two out")


def _sampler(settings: Any) -> Iterator[Problem]:
    """A sampler that is named is known, and takes what else is asked of it."""
    if settings.scheduler is None:
        return
    names = ("use_karras_sigmas", "timestep_spacing", "rescale_betas_zero_snr", "eta")
    try:
        configuration(find(settings.scheduler), {name: getattr(settings, name) for name in names})
    except InputError as error:
        yield from error.problems


def _seeds(settings: Any) -> Iterator[Problem]:
    if settings.seed + settings.num_images > 2**64:
        what = f"{settings.seed} + {settings.num_images - 1} is no seed: the largest is {2**64 - 1}"
        yield Problem("num_images", what, "take a smaller seed, or fewer images")


def _hires(settings: Any) -> Iterator[Problem]:
    """A second pass goes on from an image of one prompt that was made of noise; what looks on sees one pass."""
    if settings.hires_scale is None:
        return
    for name, none in ("image", None), ("illusion", "none"), ("lesson", "none"):
        if getattr(settings, name) != none:
            yield Problem("hires_scale", f"and {name}: a second pass is made of images of noise", "leave one of the two out")
    for name in ("trace", "attention", "show_start"):
        if getattr(settings, name):
            yield Problem(name, "shows one pass, and hires_scale makes two", "leave one of the two out")


def _validation_sampler(settings: Any) -> Iterator[Problem]:
    if settings.validation_scheduler is not None:
        try:
            find(settings.validation_scheduler, "validation_scheduler")
        except InputError as error:
            yield from error.problems


CHECKS = (
    _seeds,
    _hires,
    _sampler,
    _validation_sampler,
    _merge,
    _chain,
    _lesson,
    _prompts_of_a_picture,
    _image_in_an_illusion,
    _attention,
)
