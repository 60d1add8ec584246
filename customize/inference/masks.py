"""Masks as people draw them, converted to mode L: 255 where the image is regenerated, 0 where it is kept, values between are
soft edges.

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
"""Channels that differ by less than FLAT count as equal; a colour whose channels are all below DARK counts as black."""
SAME_PIXELS = 8
"""Largest mean difference, of 255, at which a drawing counts as a copy of the image."""
SHAPES = 0.02
"""Largest relative difference between the aspect ratios of mask and image; allows for rounding."""
JPEG_NOISE = 32
MOST_OF_IT = 0.75


Mask = tuple[str, bool, float]
"""A mask's path, whether it is inverted, and the radius of its blur."""


def mask_of(settings: InferenceSettings) -> Mask | None:
    """The mask of the settings, or None."""
    return (settings.mask_image, settings.mask_invert, settings.mask_blur) if settings.mask_image else None


def open_mask(path: str, invert: bool, blur: float, image: Image.Image | None) -> tuple[Image.Image, list[str]]:
    """Returns the mask in mode L at the size of its image, and notes on how it was interpreted.

    invert: regenerate the black part. blur: radius of a Gaussian blur, in pixels of the image. Raises InputError if the
    aspect ratios of mask and image differ, or if the mask selects nothing.
    """
    drawn = open_image(path, convert=as_drawn)
    shown = printable(path)
    mask, notes = levels(drawn, image)
    notes = [f"{shown} {note}" for note in notes]
    if image and mask.size != image.size:
        sizes = f"{mask.width} x {mask.height} pixels", f"{image.width} x {image.height}"
        if abs(mask.width * image.height / (mask.height * image.width) - 1) > SHAPES:
            what = f"{shown} has {sizes[0]}, the image {sizes[1]}"
            raise InputError(Problem(SETTING, what, "draw the mask on a copy of the image"))
        notes.append(f"{shown} has {sizes[0]}; it is scaled to the image's {sizes[1]}")
        mask = scaled(mask, image.size)
    mask = ImageOps.invert(mask) if invert else mask
    low, high = mask.getextrema()
    if high < HALF:
        colour, other = ("black", "without") if invert else ("white", "with")
        remedy = f"paint the part to regenerate {colour}, or run {other} --mask_invert"
        raise InputError(Problem(SETTING, f"nothing is {colour} in {shown}", remedy))
    share = float(np.asarray(mask).mean()) / 255
    if low == 255:
        notes.append(f"{shown} is completely {'black' if invert else 'white'}: the whole image is regenerated")
    elif share > MOST_OF_IT:
        notes.append(f"{shown} regenerates {share:.0%} of the image; --mask_invert regenerates the rest instead")
    if not blur:
        return mask, notes
    blurred = mask.filter(ImageFilter.GaussianBlur(blur))
    if blurred.getextrema()[1] < HALF:
        what = f"a blur of {blur:g} pixels leaves no part of {shown} above one half"
        raise InputError(Problem("mask_blur", what, "use a smaller blur or a larger mask"))
    return blurred, notes


def as_drawn(image: Image.Image) -> Image.Image:
    """A decoded image with its transparency. In a JPEG, values near black and white are set to black and white (JPEG noise)."""
    if image.format not in ("JPEG", "MPO"):
        return with_alpha(image)
    return image.convert("L").point(lambda value: 0 if value < JPEG_NOISE else 255 if value > 255 - JPEG_NOISE else value)


def levels(drawn: Image.Image, image: Image.Image | None = None) -> tuple[Image.Image, list[str]]:
    """Converts a drawing of any mode to a mask of mode L; returns it with notes on how its transparency was interpreted.

    Without transparency, brightness is used. White and greys on transparency are composed over black. For a single colour on
    transparency, the painted shape is the mask. Black with holes, and an image with holes, are regenerated where they are
    transparent. Raises InputError if the drawing is completely transparent.
    """
    if not drawn.has_transparency_data:
        return drawn.convert("L"), []
    drawn = drawn.convert("RGBA")
    alpha, grey = drawn.getchannel("A"), drawn.convert("RGB").convert("L")
    low, high = alpha.getextrema()
    if low == 255:
        return grey, []
    if high < HALF:
        raise InputError(Problem(SETTING, "the mask is completely transparent", "paint the part to regenerate white"))
    pixels = np.asarray(drawn).astype(int)
    visible = pixels[pixels[..., 3] >= HALF][:, :3]
    is_grey, is_black = np.ptp(visible, axis=1).max() < FLAT, visible.max() < DARK
    if is_grey and not is_black and not shows(pixels, image):
        return Image.fromarray((np.asarray(grey).astype(int) * pixels[..., 3] / 255).round().astype(np.uint8)), []
    low, high = np.percentile(visible, (1, 99), axis=0)
    if not is_grey and (high - low).max() < FLAT:
        return alpha, ["has one colour on transparency: the painted part of the image is regenerated"]
    kind = "black" if is_black else "an image"
    return ImageOps.invert(alpha), [f"is {kind} with transparent parts: these are regenerated; --mask_invert keeps them instead"]


def shows(pixels: np.ndarray, image: Image.Image | None) -> bool:
    """Whether the visible part of a drawing [h, w, 4] is a copy of the image."""
    if image is None:
        return False
    own = np.asarray(image.convert("RGB").resize(pixels.shape[1::-1], Image.Resampling.BOX)).astype(int)
    return float(np.abs(own - pixels[..., :3])[pixels[..., 3] >= HALF].mean()) < SAME_PIXELS


def scaled(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The mask, cropped and scaled to `size` (width, height). A pure black and white mask stays binary, as in diffusers."""
    if mask.size == size:
        return mask
    fitted = ImageOps.fit(mask, size, Image.Resampling.LANCZOS)
    histogram = mask.histogram()
    return fitted if sum(histogram[1:255]) else fitted.point(lambda value: 255 if value >= HALF else 0)
