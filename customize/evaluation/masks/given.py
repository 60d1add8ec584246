"""Masks that the user gives: a file beside the image (`cat-mask.png` for `cat.jpg`), or in a folder of masks, or transparency.

White, or what is opaque where a file has transparency, is the subject. torch is not imported.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from customize.data.examples import Example
from customize.data.findings import Findings
from customize.data.folder import MASK, list_folder
from customize.data.images.image_file import EXTENSIONS, open_image, with_alpha
from customize.errors import InputError
from customize.evaluation.masks import SUREST, SubjectMask, scaled
from customize.printable import printable

HALF = 128
"""The least value of 255 that counts as white, or as opaque."""
MOST_OPAQUE = 0.95
"""An image with a larger share of opaque pixels has rounded corners or a soft edge, not a subject cut out."""


def given_masks(examples: Sequence[Example], folder: Path | None, found: Findings) -> list[SubjectMask | None]:
    """The mask of each example; None where none is given. Files that do not fit their image are problems.

    folder: of masks named like the images, `cat.png` or `cat-mask.png` for `cat.jpg`; beside the images only the second is one.
    """
    files = masks_in(folder, found) if folder else {}
    masks = [one_mask(example, files, found) for example in examples]
    if folder and files and not any(mask and mask.origin == "file" for mask in masks) and not found.problems:
        found.problem(folder, "has no mask for any of the images", "name each mask like its image")
    return masks


def masks_in(folder: Path, found: Findings) -> dict[str, Path]:
    """The images of a folder by the name, without extension, of the image that they are masks of."""
    listing = list_folder(folder, "masks", found)
    names = [*listing.images, *listing.masks] if listing else []
    return {Path(name).stem.removesuffix(MASK): folder / name for name in names}


def one_mask(example: Example, files: Mapping[str, Path], found: Findings) -> SubjectMask | None:
    """The mask of one example. files: from the folder of masks, see `masks_in`."""
    path = files.get(Path(example.name).stem) or beside(example)
    try:
        return from_file(path, example, found) if path else from_alpha(example)
    except InputError as error:
        found.problems.extend(error.problems)
        return None


def beside(example: Example) -> Path | None:
    """The file of the mask beside an image, if there is one."""
    if not isinstance(example.source, Path):
        return None
    source = example.source
    near = (source.with_name(f"{source.stem}{MASK}{extension}") for extension in sorted(EXTENSIONS))
    return next((path for path in near if path.is_file()), None)


def from_file(path: Path, example: Example, found: Findings) -> SubjectMask | None:
    """The mask in a file, in which white is the subject, or what is opaque if it has transparency."""
    drawn = open_image(path, convert=with_alpha)
    shown = printable(example.name)
    if drawn.size != example.size:
        sizes = f"has {drawn.width} x {drawn.height} pixels, the image {shown} {example.size[0]} x {example.size[1]}"
        found.problem(path, sizes, "draw the mask on a copy of the image")
        return None
    pixels = selected(drawn)
    if not pixels.any():
        found.problem(path, "is a mask in which nothing is white", "paint the subject white and the rest black")
        return None
    return SubjectMask(scaled(pixels, drawn.size), "file", SUREST)


def from_alpha(example: Example) -> SubjectMask | None:
    """The mask of an image that has its subject cut out."""
    source = example.source if isinstance(example.source, Path) else example.source.read()
    image = open_image(source, example.name, convert=with_alpha)
    if image.mode != "RGBA":
        return None
    pixels = np.asarray(image.getchannel("A")) >= HALF
    if not 0 < pixels.mean() < MOST_OPAQUE:
        return None
    return SubjectMask(scaled(pixels, image.size), "alpha", SUREST)


def selected(drawn: Image.Image) -> np.ndarray:
    """The subject in a drawing, bool [h, w]."""
    if drawn.mode == "RGBA" and drawn.getchannel("A").getextrema()[0] < HALF:
        return np.asarray(drawn.getchannel("A")) >= HALF
    return np.asarray(drawn.convert("L")) >= HALF
