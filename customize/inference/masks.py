"""Masks as people draw them, read as one thing: mode L, 255 where the image is made anew, 0 where it stays, soft between.

h w height and width in pixels.
"""

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from customize.data.images.image_file import open_image, with_alpha
from customize.errors import InputError, Problem
from customize.printable import printable
from customize.settings.inference import InferenceSettings

SETTING = "mask_image"
HALF = 128
FLAT, DARK = 16, 48
"""Channels that differ by less are equal; where none is as bright as this, it is black."""
SAME_PIXELS = 8
"""The mean difference, of 255, up to which a mask shows the image itself."""
SHAPES = 0.02
"""How much the proportions of mask and image may differ: rounding of a scaled image, no more."""
JPEG_NOISE = 32
MOST_OF_IT = 0.75


Mask = tuple[str, bool, float]
"""A mask's path, whether it is inverted, and the radius of its blur."""


def mask_of(settings: InferenceSettings) -> Mask | None:
    """The mask that the settings name, if they name one."""
    return (settings.mask_image, settings.mask_invert, settings.mask_blur) if settings.mask_image else None


def open_mask(path: str, invert: bool, blur: float, image: Image.Image | None) -> tuple[Image.Image, list[str]]:
    """The mask in mode L, of the size of its image, and notes on how it was taken.

    invert: black is made anew. blur: radius of a Gaussian blur, in pixels of the image. Raises InputError for a mask of
    another shape than the image, and where nothing is made anew.
    """
    drawn = open_image(path, convert=as_drawn)
    shown = printable(path)
    mask, notes = levels(drawn, image)
    notes = [f"{shown} {note}" for note in notes]
    if image and mask.size != image.size:
        sizes = f"{mask.width} x {mask.height} pixels", f"{image.width} x {image.height}"
        if abs(mask.width * image.height / (mask.height * image.width) - 1) > SHAPES:
            what = f"{shown} has {sizes[0]}, the picture {sizes[1]}"
            raise InputError(Problem(SETTING, what, "draw the mask over the very picture"))
        notes.append(f"{shown} has {sizes[0]}; it is scaled to the image's {sizes[1]}")
        mask = scaled(mask, image.size)
    mask = ImageOps.invert(mask) if invert else mask
    low, high = mask.getextrema()
    if high < HALF:
        colour, other = ("black", "without") if invert else ("white", "with")
        remedy = f"paint {colour} what shall be made anew, or run {other} --mask_invert"
        raise InputError(Problem(SETTING, f"nothing is {colour} in {shown}", remedy))
    share = float(np.asarray(mask).mean()) / 255
    if low == 255:
        notes.append(f"{shown} is {'black' if invert else 'white'} all over: all of the image is made anew")
    elif share > MOST_OF_IT:
        notes.append(f"{share:.0%} of the image is made anew by {shown}; --mask_invert makes the rest of it anew instead")
    if not blur:
        return mask, notes
    blurred = mask.filter(ImageFilter.GaussianBlur(blur))
    if blurred.getextrema()[1] < HALF:
        what = f"{blur:g} pixels blur {shown} away: nowhere is half of the image made anew"
        raise InputError(Problem("mask_blur", what, "take a smaller one, or a larger mask"))
    return blurred, notes


def as_drawn(image: Image.Image) -> Image.Image:
    """A decoded image with its transparency; without JPEG's noise around black and white, which would be made anew a little."""
    if image.format not in ("JPEG", "MPO"):
        return with_alpha(image)
    return image.convert("L").point(lambda value: 0 if value < JPEG_NOISE else 255 if value > 255 - JPEG_NOISE else value)


def levels(drawn: Image.Image, image: Image.Image | None = None) -> tuple[Image.Image, list[str]]:
    """What a drawing of any mode says as a mask of mode L, and notes where its transparency had to be interpreted.

    Without transparency, brightness counts. White and greys on transparency are composed over black. One colour on
    transparency is the shape that was painted. Black with holes, and an image with holes, are made anew where they are
    transparent. Raises InputError for a drawing that is transparent all over.
    """
    if not drawn.has_transparency_data:
        return drawn.convert("L"), []
    drawn = drawn.convert("RGBA")
    alpha, grey = drawn.getchannel("A"), drawn.convert("RGB").convert("L")
    low, high = alpha.getextrema()
    if low == 255:
        return grey, []
    if high < HALF:
        raise InputError(Problem(SETTING, "it is transparent all over", "paint white what shall be made anew"))
    pixels = np.asarray(drawn).astype(int)
    visible = pixels[pixels[..., 3] >= HALF][:, :3]
    is_grey, is_black = np.ptp(visible, axis=1).max() < FLAT, visible.max() < DARK
    if is_grey and not is_black and not shows(pixels, image):
        return Image.fromarray((np.asarray(grey).astype(int) * pixels[..., 3] / 255).round().astype(np.uint8)), []
    low, high = np.percentile(visible, (1, 99), axis=0)
    if not is_grey and (high - low).max() < FLAT:
        return alpha, ["has one colour on transparency: the image is made anew where it is painted"]
    kind = "black" if is_black else "an image"
    return ImageOps.invert(alpha), [f"is {kind} with transparent parts: these are made anew; --mask_invert keeps them instead"]


def shows(pixels: np.ndarray, image: Image.Image | None) -> bool:
    """Whether the visible part of a drawing [h, w, 4] is the image itself."""
    if image is None:
        return False
    own = np.asarray(image.convert("RGB").resize(pixels.shape[1::-1], Image.Resampling.BOX)).astype(int)
    return float(np.abs(own - pixels[..., :3])[pixels[..., 3] >= HALF].mean()) < SAME_PIXELS


def scaled(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The mask, cut and scaled to `size` (width, height); one of pure black and white stays so, as in diffusers."""
    if mask.size == size:
        return mask
    fitted = ImageOps.fit(mask, size, Image.Resampling.LANCZOS)
    histogram = mask.histogram()
    return fitted if sum(histogram[1:255]) else fitted.point(lambda value: 255 if value >= HALF else 0)
