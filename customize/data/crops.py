"""Square crops of training images: their position in the resized image, and their pixels.

Shapes: `R` resolution, `V` variants; pixels are np.uint8 [V, R, R, 3] in [0, 255].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from PIL import Image

from customize.data.examples import Example
from customize.data.images.image_file import crop, resize, resized_size
from customize.families.conditioning import Crop


@dataclass(frozen=True)
class Variant:
    """A square crop of the resized image, flipped or not. left, top, side: pixels of the resized image."""

    left: int
    top: int
    side: int
    flip: bool


def variants(
    example: Example, resolution: int, center_crop: bool, crop_variants: int, random_flip: bool, seed: int
) -> tuple[Variant, ...]:
    """The square crops of side `resolution` to train on: the central one, or `crop_variants` along the long side.

    With `random_flip`, each is also flipped. The k-th of n crops has a random position in the k-th n-th of the range, a
    function of (seed, the example's name, k, n). No two are equal; a short range has fewer (a square image has one crop).
    """
    width, height = resized_size(example.size, resolution)
    positions = max(width, height) - resolution + 1
    count = min(crop_variants, positions)
    starts = [_place(seed, example.name, index, count, positions) for index in range(count)]
    if center_crop:
        starts = [(positions - 1) // 2]
    corners = [(place, 0) if width > height else (0, place) for place in starts]
    flips = (False, True) if random_flip else (False,)
    return tuple(Variant(left, top, resolution, flip) for left, top in corners for flip in flips)


def other_crop(example: Example, resolution: int, seed: int) -> tuple[Variant, int]:
    """A square crop that is not trained on, of the image with its short side resized to a larger resolution: that is returned."""
    larger = resolution * 9 // 8
    width, height = resized_size(example.size, larger)
    left = _place(seed, f"left/{example.name}", 0, 1, width - resolution + 1)
    top = _place(seed, f"top/{example.name}", 0, 1, height - resolution + 1)
    return Variant(left, top, resolution, False), larger


def crop_of(example: Example, variant: Variant, resolution: int) -> Crop:
    """The crop that a variant shows; a mirrored variant is a crop of the mirrored image."""
    width, _ = resized_size(example.size, resolution)
    left = width - variant.left - variant.side if variant.flip else variant.left
    return Crop(example.size[::-1], (variant.top, left), (variant.side, variant.side))


def pixels(example: Example, variant: Variant, resolution: int, interpolation: str = "lanczos") -> np.ndarray:
    """np.uint8 [R, R, 3]: one variant of the image, its short side resized to `resolution`. Raises ResourceError."""
    return all_pixels(example, (variant,), resolution, interpolation)[0]


def all_pixels(example: Example, cuts: Sequence[Variant], resolution: int, interpolation: str = "lanczos") -> np.ndarray:
    """np.uint8 [V, R, R, 3]: `pixels` of several variants, reading and resizing the image once."""
    return cut_out(example.open(), cuts, resolution, interpolation)


def cut_out(image: Image.Image, cuts: Sequence[Variant], resolution: int, interpolation: str) -> np.ndarray:
    """The variants of an opened image, or of its mask: np.uint8 [V, R, R, 3], or [V, R, R] in mode L."""
    resized = resize(image, resolution, interpolation)
    return np.stack([crop(resized, cut.left, cut.top, cut.side, cut.flip) for cut in cuts])


def _place(seed: int, name: str, index: int, count: int, positions: int) -> int:
    """The position number `index` of `count` in range(positions), drawn from its own part of the range."""
    key = f"{seed}/crop/{index}/{name}".encode("utf-8", "surrogatepass")
    start, end = positions * index // count, positions * (index + 1) // count
    return start + int.from_bytes(blake2b(key, digest_size=8).digest(), "little") % (end - start)
