"""Where the subject is in an image: by the user's own mask, by a segmenter, or by the base model's attention to the class word.

Each mask says where it comes from and how sure it is; where no source is sure, there is none rather than a wrong one. torch is
imported only where networks are evaluated. N images, h w height and width of a mask, P patches of a scorer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from customize.evaluation.masks.segmenter import Segmenter
    from customize.evaluation.masks.shape import Shape
    from customize.evaluation.scorers.base_model import BaseModelScorer

Origin = Literal["file", "alpha", "segmenter", "attention", "none"]
LARGEST = 1024
"""The long side in pixels of a mask; masks of larger images are scaled to it."""
SUREST, LEAST_SURE = 1.0, 0.83
"""The confidence of a mask that the user gave, and that below which a computed one is not used (docs/evaluation.md)."""
AREA = 0.02, 0.9
"""Least and largest share of an image that a computed mask covers."""


@dataclass(frozen=True, eq=False)
class SubjectMask:
    """The part of one image that shows the subject.

    pixels: bool [h, w], the whole upright image, scaled so that its long side is at most `LARGEST`; None if there is no mask.
    origin: where it comes from. confidence: 0 to 1, see `shape.Shape`. reason: why there is none.
    """

    pixels: np.ndarray | None
    origin: Origin
    confidence: float
    reason: str = ""

    @classmethod
    def none(cls, reason: str, confidence: float = 0.0) -> "SubjectMask":
        """No mask."""
        return cls(None, "none", confidence, reason)

    def at(self, size: tuple[int, int]) -> Image.Image | None:
        """The mask in mode L, 0 or 255, at a size (width, height)."""
        if self.pixels is None:
            return None
        return Image.fromarray(self.pixels).convert("L").resize(size, Image.Resampling.NEAREST)


def subject_masks(
    images: Sequence[Image.Image],
    class_word: str,
    base: "BaseModelScorer",
    given: Sequence[SubjectMask | None] = (),
    segmenter: "Segmenter | None" = None,
) -> list[SubjectMask]:
    """A mask for each image, from the first source that has one: the given masks, the segmenter, the base model.

    class_word: a noun that the base model knows, such as "dog"; base: the caller switches adapters and learned words off.
    Evaluates the denoiser six times for each image without an earlier source.
    """
    from customize.evaluation.masks.word_maps import word_maps

    found: list[SubjectMask | None] = list(given) or [None] * len(images)
    sources = [(segmenter.maps, "segmenter")] if segmenter else []
    for maps_of, origin in (*sources, (lambda some, word: word_maps(base, some, word), "attention")):
        missing = [place for place, mask in enumerate(found) if mask is None or mask.pixels is None]
        if missing and class_word.strip():
            some = [images[place] for place in missing]
            for place, mask in zip(missing, computed(some, maps_of(some, class_word), origin), strict=True):
                found[place] = mask
    return [mask or SubjectMask.none("there is no class word") for mask in found]


def computed(images: Sequence[Image.Image], maps: Sequence[np.ndarray], origin: Origin) -> list[SubjectMask]:
    """The masks of images from K maps of each [K, ., .] that are larger where the subject is: of the K, which are of the same K
    sources for all images, the one is taken whose shapes are the surest."""
    from customize.evaluation.masks.shape import shapes_of

    shapes = [shapes_of(image, each) for image, each in zip(images, maps, strict=True)]
    best = int(np.argmax(np.mean([[shape.confidence for shape in row] for row in shapes], 0)))
    return [accepted(image, row[best], origin) for image, row in zip(images, shapes, strict=True)]


def accepted(image: Image.Image, shape: "Shape", origin: Origin) -> SubjectMask:
    """The shape as a mask, if it is sure enough."""
    share = float(shape.pixels.mean())
    if shape.confidence < LEAST_SURE:
        return SubjectMask.none("it is not clear where the subject ends", shape.confidence)
    if not AREA[0] <= share <= AREA[1]:
        return SubjectMask.none(f"what was found covers {share:.0%} of the image", shape.confidence)
    return SubjectMask(scaled(shape.pixels, image.size), origin, shape.confidence)


def scaled(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask at the size (width, height) of its image, or smaller: see `LARGEST`."""
    factor = min(1.0, LARGEST / max(size))
    target = max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
    smooth = Image.fromarray(np.uint8(255) * pixels).resize(target, Image.Resampling.BILINEAR)
    return np.asarray(smooth) >= 128


def patches(masks: Sequence[SubjectMask], count: int) -> np.ndarray:
    """The share of each patch of a scorer that shows the subject: float32 [N, P] in [0, 1], for a square grid of `count` patches
    over the central square of the image. 1 everywhere for an image without a mask, or whose mask is outside that square."""
    side = round(count**0.5)
    assert side * side == count, count
    rows = np.ones((len(masks), side, side), np.float32)
    for row, mask in zip(rows, masks, strict=True):
        if mask.pixels is None:
            continue
        height, width = mask.pixels.shape
        short = min(height, width)
        top, left = (height - short) // 2, (width - short) // 2
        square = mask.pixels[top : top + short, left : left + short].astype(np.float32)
        shares = np.asarray(Image.fromarray(square).resize((side, side), Image.Resampling.BOX))
        if shares.any():
            row[:] = shares
    return rows.reshape(len(masks), count)
