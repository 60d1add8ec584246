"""The masks of training images as pictures, for the report: `evaluation/masks/a.jpg.png` in a run folder for `a.jpg`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from customize.evaluation.masks import SubjectMask
from customize.evaluation.record import FOLDER
from customize.storage.atomic import write_image
from customize.storage.resources import optional_file

MASKS = "masks"
LARGEST = 512
"""Long side of a picture, in pixels."""
DARKENED = 0.35
LINE = (255, 64, 160)


def write_overlays(folder: Path, photos: Sequence[tuple[str, Image.Image]], masks: Sequence[SubjectMask]) -> list[Path]:
    """Writes a picture for each image that has a mask into the run `folder`; returns their paths. photos: the name, as
    `Example.name`, and the image. One that cannot be written is noted."""
    written = []
    for (name, image), mask in zip(photos, masks, strict=True):
        if mask.pixels is not None:
            with optional_file(f"the mask of {name} cannot be shown"):
                written.append(write_image(place_of(folder, name), overlay(image, mask)))
    return written


def place_of(folder: Path, name: str) -> Path:
    """The picture of the mask of a training image in the run `folder`: a file for each, also where only extensions or folders
    of the images differ."""
    return folder / FOLDER / MASKS / f"{name}.png"


def overlay(image: Image.Image, mask: SubjectMask) -> Image.Image:
    """The image, darkened and grey outside the mask, with the outline of the mask; at most `LARGEST` pixels wide and high."""
    small = image.convert("RGB")
    small.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    inside = mask.at(small.size)
    assert inside is not None
    width = 3 if min(small.size) >= 128 else 1
    border = np.asarray(inside.filter(ImageFilter.MaxFilter(2 * (width // 2) + 3))) != np.asarray(inside)
    dark = small.convert("L").point(lambda value: round(DARKENED * value)).convert("RGB")
    shown = Image.composite(small, dark, inside)
    shown.paste(LINE, mask=Image.fromarray(border))
    return shown
