"""Which crops of an image show what its mask selects. torch is not imported."""

from collections.abc import Iterator, Sequence

import numpy as np

from customize.data.augmentation import training_crops
from customize.data.buckets import Fit, fits
from customize.data.crops import Variant, cut_out
from customize.data.example import Example
from customize.data.mask_files import open_mask
from customize.errors import Problem
from customize.printable import printable

LEAST_SEEN = 0.5
"""Crops that show less than this part of what the best crop of the image shows of its mask are not trained on."""


def seen(example: Example, cuts: Sequence[Variant]) -> np.ndarray:
    """The share of each crop that the mask of the image selects, float64. Raises ResourceError."""
    return cut_out(open_mask(example), cuts, "box").mean((1, 2), dtype=np.float64) / 255


def shown_crops(settings, example: Example, fit: Fit) -> tuple[Variant, ...]:
    """The crops of an image that a run trains on."""
    return showing_the_subject(example, training_crops(settings, example, fit))


def showing_the_subject(example: Example, cuts: Sequence[Variant]) -> tuple[Variant, ...]:
    """Those of the crops that show what the mask of the image selects; all of an image without a mask."""
    if example.mask is None:
        return tuple(cuts)
    shares = seen(example, cuts)
    return tuple(cut for cut, share in zip(cuts, shares, strict=True) if share >= LEAST_SEEN * shares.max())


def hidden_subjects(settings, examples: Sequence[Example], resolution: int) -> Iterator[Problem]:
    """The problem of each image none of whose crops shows what its mask selects."""
    for example, fit in zip(examples, fits(settings, examples, resolution), strict=True):
        if example.mask and not seen(example, training_crops(settings, example, fit)).any():
            remedy = "leave center_crop out, or crop the image and its mask yourself"
            yield Problem(printable(example.name), "is cropped so that nothing is left of what its mask selects", remedy)
