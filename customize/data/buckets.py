"""Aspect-ratio buckets: the few sizes, about equal in area, to which images of every shape are resized and cropped. No torch.

A size is (width, height) in pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from customize.data.example import Example
from customize.settings.rules.bucket_rules import AUTO, LATENT, parsed

Size = tuple[int, int]

USUAL_STEP = 64
MUCH = 0.4
"""Share of the pixels of an image above which a note says that they are cut off."""


@dataclass(frozen=True)
class Fit:
    """How an image fills its bucket. bucket: the size of the crop; resized: that of the image, scaled to cover the bucket."""

    bucket: Size
    resized: Size

    @property
    def cut(self) -> float:
        """The share of the image's pixels outside a crop, in [0, 1)."""
        return 1 - math.prod(self.bucket) / math.prod(self.resized)

    def enlarges(self, size: Size) -> bool:
        """Whether an image of this size becomes larger."""
        return self.resized[0] > size[0] or self.resized[1] > size[1]


@dataclass(frozen=True)
class Buckets:
    """The sizes of the buckets. no_upscale: None, or the step of the buckets of images that would have to be enlarged."""

    sizes: tuple[Size, ...]
    no_upscale: int | None = None

    @classmethod
    def of(cls, settings, resolution: int) -> "Buckets":
        """Those of a run: squares alone, the sizes that the settings list, or those computed from the resolution."""
        given = settings.aspect_ratio_buckets
        if given is None:
            return squares(resolution)
        if given != AUTO:
            return cls(parsed(given))
        step = settings.bucket_reso_steps or usual_step(resolution)
        smallest, largest = settings.min_bucket_reso or resolution // 2, settings.max_bucket_reso or 2 * resolution
        sizes = sizes_of(resolution, max(step, smallest - smallest % step), largest + -largest % step, step)
        return cls(sizes, step if settings.bucket_no_upscale else None)

    def fit(self, size: Size) -> Fit:
        """The bucket in which the least of an image is cut off, the largest one of equal ones.

        With `no_upscale`, an image that is too small for it is in the bucket of its own size, rounded down to steps.
        """
        found = min((cover(size, bucket) for bucket in self.sizes), key=lambda fit: (fit.cut, -math.prod(fit.bucket), fit.bucket))
        if (step := self.no_upscale) and found.enlarges(size):
            width, height = (side // step * step or max(LATENT, side // LATENT * LATENT) for side in size)
            if width * height <= max(map(math.prod, self.sizes)):
                return cover(size, (width, height))
        return found


def squares(resolution: int) -> Buckets:
    """Squares alone."""
    return Buckets(((resolution, resolution),))


def cover(size: Size, bucket: Size) -> Fit:
    """An image scaled by the smallest factor with which it covers the bucket, in whole pixels."""
    (width, height), (across, down) = size, bucket
    if width * down <= height * across:
        return Fit(bucket, (across, max(down, round(height * across / width))))
    return Fit(bucket, (max(across, round(width * down / height)), down))


def usual_step(resolution: int) -> int:
    """An eighth of the resolution in whole latents, at most 64 pixels, which it is from 512 pixels on."""
    return min(USUAL_STEP, max(LATENT, resolution // 8 // LATENT * LATENT))


def sizes_of(resolution: int, smallest: int, largest: int, step: int) -> tuple[Size, ...]:
    """The square, and for each side from `smallest` to `largest` in steps the longest other side with which the area is at most
    that of the square: the buckets of kohya's sd-scripts. At 1024 pixels these are sizes that SDXL was trained on (Podell et al.
    2023, "SDXL", appendix I), which are at least half and at most twice as long as the square."""
    found = {(resolution, resolution)}
    for side in range(smallest, largest + 1, step):
        other = min(largest, resolution**2 // side // step * step)
        if other >= smallest:
            found |= {(side, other), (other, side)}
    return tuple(sorted(found))


def fits(settings, examples: Sequence[Example], resolution: int) -> list[Fit]:
    """How each image of a run fills its bucket."""
    buckets = Buckets.of(settings, resolution)
    of_size = {size: buckets.fit(size) for size in {example.size for example in examples}}
    return [of_size[example.size] for example in examples]


def grouped(fits: Sequence[Fit], repeats: Sequence[int]) -> list[list[int]]:
    """The images of each bucket by index, the buckets in order of their size. repeats: how often an image is used compared with
    the others; it is listed as often, divided by what all have in common."""
    common = math.gcd(*repeats)
    found: dict[Size, list[int]] = {}
    for index, (fit, number) in enumerate(zip(fits, repeats, strict=True)):
        found.setdefault(fit.bucket, []).extend([index] * (number // common))
    return [found[bucket] for bucket in sorted(found)]


def uses(settings, examples: Sequence[Example], resolution: int) -> list[int]:
    """How many samples of each bucket an epoch has, before the setting `repeats`."""
    found: dict[Size, int] = {}
    for example, fit in zip(examples, fits(settings, examples, resolution), strict=True):
        found[fit.bucket] = found.get(fit.bucket, 0) + example.repeats
    return list(found.values())


def largest(settings, examples: Sequence[Example], resolution: int) -> list[Example]:
    """Those of the buckets of the largest area, which need the most memory."""
    areas = [math.prod(fit.bucket) for fit in fits(settings, examples, resolution)]
    return [example for example, area in zip(examples, areas, strict=True) if area == max(areas)]
