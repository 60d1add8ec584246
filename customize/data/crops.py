"""Crops of training images: their position in the resized image, and their pixels.

Shapes: `h w` height and width of the bucket, `V` variants; pixels are np.uint8 [V, h, w, 3] in [0, 255].
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from customize.data.buckets import Fit
from customize.data.example import Example
from customize.data.images.colour_change import ColourChange
from customize.data.images.image_file import crop, resize_to, resized_size

if TYPE_CHECKING:
    from customize.families.conditioning import Crop


@dataclass(frozen=True)
class Variant:
    """A crop of the resized image, flipped or not. resized: (width, height) of that image; left, top, width, height: in its
    pixels. angle: in degrees, by which the crop is turned around its middle; colours: how its colours are changed."""

    resized: tuple[int, int]
    left: int
    top: int
    width: int
    height: int
    flip: bool
    angle: float = 0.0
    colours: ColourChange | None = None


def variants(
    example: Example, fit: Fit, center_crop: bool, crop_variants: int, random_flip: bool, seed: int
) -> tuple[Variant, ...]:
    """The crops of the size of the bucket to train on: the central one, or `crop_variants` along the side that is too long.

    With `random_flip`, each is also flipped. The k-th of n crops has a random position in the k-th n-th of the range, a
    function of (seed, the example's name, k, n). No two are equal; a short range has fewer (a square image has one crop).
    """
    across, down = (whole - part for whole, part in zip(fit.resized, fit.bucket, strict=True))
    positions = max(across, down) + 1
    count = min(crop_variants, positions)
    starts = [_place(seed, example.name, index, count, positions) for index in range(count)]
    if center_crop:
        starts = [(positions - 1) // 2]
    corners = [(place, 0) if across else (0, place) for place in starts]
    flips = (False, True) if random_flip else (False,)
    return tuple(Variant(fit.resized, left, top, *fit.bucket, flip) for left, top in corners for flip in flips)


def other_crop(example: Example, resolution: int, seed: int) -> Variant:
    """A square crop that is not trained on, of the image with its short side resized to a larger resolution."""
    larger = resolution * 9 // 8
    width, height = resized_size(example.size, larger)
    left = _place(seed, f"left/{example.name}", 0, 1, width - resolution + 1)
    top = _place(seed, f"top/{example.name}", 0, 1, height - resolution + 1)
    return Variant((width, height), left, top, resolution, resolution, False)


def crop_of(example: Example, variant: Variant) -> "Crop":
    """The crop that a variant shows; a mirrored variant is a crop of the mirrored image."""
    from customize.families.conditioning import Crop

    left = variant.resized[0] - variant.left - variant.width if variant.flip else variant.left
    return Crop(example.size[::-1], (variant.top, left), (variant.height, variant.width))


def pixels(example: Example, variant: Variant, interpolation: str = "lanczos") -> np.ndarray:
    """np.uint8 [h, w, 3]: one variant of the image. Raises ResourceError."""
    return all_pixels(example, (variant,), interpolation)[0]


def all_pixels(example: Example, cuts: Sequence[Variant], interpolation: str = "lanczos") -> np.ndarray:
    """np.uint8 [V, h, w, 3]: `pixels` of several variants of one size, reading the image once."""
    return cut_out(example.open(), cuts, interpolation)


def cut_out(image: Image.Image, cuts: Sequence[Variant], interpolation: str) -> np.ndarray:
    """The variants of an opened image, or of its mask: np.uint8 [V, h, w, 3], or [V, h, w] in mode L."""
    resized, found = image, []
    for cut in cuts:
        if resized.size != cut.resized:
            resized = resize_to(image, cut.resized, interpolation)
        piece = turned(resized, cut) if cut.angle else resized
        left, top = (0, 0) if cut.angle else (cut.left, cut.top)
        pixels = crop(piece, left, top, cut.width, cut.height, cut.flip)
        is_coloured = cut.colours and image.mode == "RGB"
        found.append(np.asarray(cut.colours.of(Image.fromarray(pixels))) if is_coloured else pixels)
    return np.stack(found)


def turned(resized: Image.Image, cut: Variant) -> Image.Image:
    """The turned crop of a resized image, at the same scale, by bicubic interpolation. All of it lies within the image."""
    across, down = math.cos(math.radians(cut.angle)), math.sin(math.radians(cut.angle))
    x, y = cut.left + cut.width / 2, cut.top + cut.height / 2
    from_x = across, down, x - across * cut.width / 2 - down * cut.height / 2
    from_y = -down, across, y + down * cut.width / 2 - across * cut.height / 2
    size, how = (cut.width, cut.height), Image.Transform.AFFINE
    return resized.transform(size, how, (*from_x, *from_y), Image.Resampling.BICUBIC)


def _place(seed: int, name: str, index: int, count: int, positions: int) -> int:
    """The position number `index` of `count` in range(positions), drawn from its own part of the range."""
    key = f"{seed}/crop/{index}/{name}".encode("utf-8", "surrogatepass")
    start, end = positions * index // count, positions * (index + 1) // count
    return start + int.from_bytes(blake2b(key, digest_size=8).digest(), "little") % (end - start)
