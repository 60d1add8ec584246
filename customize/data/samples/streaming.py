"""Which images and captions a run encodes in its steps, because they are too many to encode before the first one."""

from collections.abc import Sequence
from dataclasses import dataclass

from customize.data.augmentation import training_crops
from customize.data.buckets import fits
from customize.data.example import Example
from customize.data.examples import Examples
from customize.data.samples.on_demand import BYTES, BYTES_BESIDE_FILES

MANY = 2000
"""Crops of images, or captions, of which more are encoded in the steps."""


@dataclass(frozen=True)
class Streamed:
    """Whether images and captions are encoded when a step first needs them. num_crops, num_captions: those that a run can draw,
    at most."""

    images: bool
    captions: bool
    num_crops: int
    num_captions: int

    @classmethod
    def of(cls, settings, examples: Examples, resolution: int, draws: int) -> "Streamed":
        """Those of a run. draws: its samples, without those of the class."""
        instances, classes = examples.instances, examples.classes
        missing = max(0, settings.class_images - len(classes)) * (1 + settings.random_flip)  # generated ones are squares
        of_class = num_crops(settings, classes, resolution) + missing
        crops = min(num_crops(settings, instances, resolution), draws) + min(of_class, draws)
        captions = len({caption for each in (*instances, *classes, *examples.held_out) for caption in each.captions})
        given = settings.vae_cache_ondemand
        return cls(crops > MANY if given is None else given, settings.varies_captions or captions > MANY, crops, captions)

    def held(self, bytes_of_crop: int, has_files: bool) -> int:
        """Bytes of encoded images that a run holds in main memory. has_files: whether a latents cache has them, too."""
        most = BYTES_BESIDE_FILES if has_files else BYTES
        return min(self.num_crops * bytes_of_crop, most) if self.images else self.num_crops * bytes_of_crop


def num_crops(settings, examples: Sequence[Example], resolution: int) -> int:
    """The number of crops of all images."""
    in_buckets = zip(examples, fits(settings, examples, resolution), strict=True)
    return sum(len(training_crops(settings, example, fit)) for example, fit in in_buckets)
