"""Masks that the user gives, for the evaluation: see `customize.data.mask_files`. torch is not imported."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from customize.data.examples import Example
from customize.data.findings import Findings
from customize.data.mask_files import HALF, NONE_SELECTED, beside, checked, masks_in, open_mask, stem_of, transparency
from customize.errors import InputError
from customize.evaluation.masks import SUREST, SubjectMask, scaled

MOST_OPAQUE = 0.95
"""An image with a larger share of opaque pixels has rounded corners or a soft edge, not a subject cut out."""


def given_masks(examples: Sequence[Example], folder: Path | None, found: Findings) -> list[SubjectMask | None]:
    """The mask of each example; None where none is given. Files that do not fit their image are problems.

    folder: of masks named like the images, `cat.png` or `cat-mask.png` for `cat.jpg`; beside the images only the second is one.
    """
    files = masks_in(folder, "masks", found) if folder else {}
    masks = [one_mask(example, files, found) for example in examples]
    if folder and files and not any(mask and mask.origin == "file" for mask in masks) and not found.problems:
        found.problem(folder, "has no mask for any of the images", "name each mask like its image")
    return masks


def one_mask(example: Example, files: Mapping[str, Path], found: Findings) -> SubjectMask | None:
    """The mask of one example: that which the loss has, else a file's. files: from the folder of masks, see `masks_in`."""
    path = files.get(stem_of(example)) or beside(example)
    try:
        if example.mask:
            pixels = np.asarray(open_mask(example)) >= HALF
            return SubjectMask(scaled(pixels, example.size), "alpha" if example.mask.source == example.source else "file", SUREST)
        return from_file(path, example, found) if path else from_alpha(example)
    except InputError as error:
        found.problems.extend(error.problems)
        return None


def from_file(path: Path, example: Example, found: Findings) -> SubjectMask | None:
    """The mask in a file, in which white is the subject, or what is opaque if it has transparency."""
    drawn = checked(path, example, found)
    if drawn is None:
        return None
    pixels = np.asarray(drawn) >= HALF
    if not pixels.any():
        found.problem(path, *NONE_SELECTED)
        return None
    return SubjectMask(scaled(pixels, drawn.size), "file", SUREST)


def from_alpha(example: Example) -> SubjectMask | None:
    """The mask of an image that has its subject cut out."""
    alpha = transparency(example)
    if alpha is None:
        return None
    pixels = np.asarray(alpha) >= HALF
    return SubjectMask(scaled(pixels, alpha.size), "alpha", SUREST) if 0 < pixels.mean() < MOST_OPAQUE else None
