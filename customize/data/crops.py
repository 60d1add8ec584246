"""Crops of training images: their position in the resized image, and their pixels.

Shapes: `h w` height and width of the bucket, `V` variants; pixels are np.uint8 [V, h, w, 3] in [0, 255].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from PIL import Image

from customize.data.buckets import Fit
from customize.data.examples import Example
from customize.data.images.image_file import crop, resize_to, resized_size
from customize.families.conditioning import Crop


@dataclass(frozen=True)
class Variant:
    """A crop of the resized image, flipped or not. resized: (width, height) of that image; left, top, width, height: in its
    pixels."""

    resized: tuple[int, int]
    left: int
    top: int
    width: int
    height: int
    flip: bool


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


def variants_of(settings, example: Example, fit: Fit) -> tuple[Variant, ...]:
    """The crops of an image that a run trains on."""
    return variants(example, fit, settings.center_crop, settings.crop_variants, settings.random_flip, settings.seed)


def other_crop(example: Example, resolution: int, seed: int) -> Variant:
    """A square crop that is not trained on, of the image with its short side resized to a larger resolution."""
    larger = resolution * 9 // 8
    width, height = resized_size(example.size, larger)
    left = _place(seed, f"left/{example.name}", 0, 1, width - resolution + 1)
    top = _place(seed, f"top/{example.name}", 0, 1, height - resolution + 1)
    return Variant((width, height), left, top, resolution, resolution, False)


def crop_of(example: Example, variant: Variant) -> Crop:
    """The crop that a variant shows; a mirrored variant is a crop of the mirrored image."""
    left = variant.resized[0] - variant.left - variant.width if variant.flip else variant.left
    return Crop(example.size[::-1], (variant.top, left), (variant.height, variant.width))


def pixels(example: Example, variant: Variant, interpolation: str = "lanczos") -> np.ndarray:
    """np.uint8 [h, w, 3]: one variant of the image. Raises ResourceError."""
    return all_pixels(example, (variant,), interpolation)[0]


def all_pixels(example: Example, cuts: Sequence[Variant], interpolation: str = "lanczos") -> np.ndarray:
    """np.uint8 [V, h, w, 3]: `pixels` of several variants of one resized image, which is read and resized once."""
    return cut_out(example.open(), cuts, interpolation)


def cut_out(image: Image.Image, cuts: Sequence[Variant], interpolation: str) -> np.ndarray:
    """The variants of an opened image, or of its mask: np.uint8 [V, h, w, 3], or [V, h, w] in mode L."""
    resized = resize_to(image, cuts[0].resized, interpolation)
    return np.stack([crop(resized, cut.left, cut.top, cut.width, cut.height, cut.flip) for cut in cuts])


def _place(seed: int, name: str, index: int, count: int, positions: int) -> int:
    """The position number `index` of `count` in range(positions), drawn from its own part of the range."""
    key = f"{seed}/crop/{index}/{name}".encode("utf-8", "surrogatepass")
    start, end = positions * index // count, positions * (index + 1) // count
    return start + int.from_bytes(blake2b(key, digest_size=8).digest(), "little") % (end - start)
