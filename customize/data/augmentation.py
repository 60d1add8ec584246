"""Augmented crops: scale, rotation and colours. Each is one of the `crop_variants` of its image, so that it is encoded once.

w h width and height of a crop in pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import NamedTuple

from customize.data.buckets import Fit
from customize.data.crops import Variant, variants
from customize.data.example import Example
from customize.data.images.colour_change import ColourChange


class Ranges(NamedTuple):
    """How far crops differ from the image: the settings of these names after `random_`, 0 for not at all."""

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    rotate: float = 0.0
    zoom: float = 0.0


def training_crops(settings, example: Example, fit: Fit) -> tuple[Variant, ...]:
    """The crops of an image of which a run trains on those that show its subject."""
    number, center_crop, seed = settings.crop_variants, settings.center_crop, settings.seed
    cuts = variants(example, fit, center_crop, number, settings.random_flip, seed)
    return augmented(example.name, cuts, Ranges(*settings.augmentation), number, center_crop, seed)


def augmented(
    name: str, cuts: Sequence[Variant], ranges: Ranges, number: int, center_crop: bool, seed: int
) -> tuple[Variant, ...]:
    """`number` crops of an image, each also flipped if some of `cuts` are: the first one as it is, the others augmented. What is
    done to the k-th crop is a function of (seed, name, k). cuts: those of the image, which are used again if they are fewer."""
    if not any(ranges):
        return tuple(cuts)
    upright, flips = [cut for cut in cuts if not cut.flip], sorted({cut.flip for cut in cuts})
    changes = (
        changed(upright[index % len(upright)], ranges, center_crop, f"{seed}/{index}/{name}") for index in range(1, number)
    )
    return tuple(replace(cut, flip=flip) for cut in (upright[0], *changes) for flip in flips)


def changed(cut: Variant, ranges: Ranges, center_crop: bool, key: str) -> Variant:
    """The crop with another scale, angle and colours. key: what they are a function of."""
    around = {name: 1 + reach * drawn(key, name, -1) for name, reach in ranges._asdict().items() if name in AROUND_ONE}
    cut = replace(cut, colours=ColourChange(**around, hue=ranges.hue * drawn(key, "hue", -1)))
    if not (ranges.rotate or ranges.zoom):
        return cut
    angle, zoom = ranges.rotate * drawn(key, "rotate", -1), 1 + ranges.zoom * drawn(key, "zoom")
    margins = around_a_turned(cut.width, cut.height, angle)
    scale = zoom * max(1 + 2 * margin / side for margin, side in zip(margins, (cut.width, cut.height), strict=True))
    resized = math.ceil(cut.resized[0] * scale), math.ceil(cut.resized[1] * scale)
    corner = [
        margin + int((0.5 if center_crop else drawn(key, axis)) * (whole - side - 2 * margin + 1))
        for axis, margin, whole, side in zip("xy", margins, resized, (cut.width, cut.height), strict=True)
    ]
    return replace(cut, resized=resized, left=corner[0], top=corner[1], angle=angle)


AROUND_ONE = ("brightness", "contrast", "saturation")


def around_a_turned(width: int, height: int, angle: float) -> tuple[int, int]:
    """How far (left and right, above and below) a rectangle that is turned around its middle reaches beyond its upright place, in
    whole pixels. angle: in degrees."""
    across, down = abs(math.cos(math.radians(angle))), abs(math.sin(math.radians(angle)))
    reach = width * across + height * down, width * down + height * across
    return max(0, math.ceil((reach[0] - width) / 2)), max(0, math.ceil((reach[1] - height) / 2))


def drawn(key: str, what: str, low: float = 0.0) -> float:
    """A number in [low, 1) that is a function of its arguments."""
    digest = blake2b(f"{key}/{what}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return low + (1 - low) * int.from_bytes(digest, "little") / 2**64
