"""The user's images as pictures are compared with them, and the masks of their subject. torch is imported only for masks."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from customize.data.example import Example
from customize.data.findings import Findings
from customize.data.images.image_file import resize
from customize.evaluation.masks import SubjectMask, subject_masks
from customize.evaluation.masks.given import given_masks
from customize.evaluation.masks.overlays import write_overlays
from customize.settings.concept import Concept

if TYPE_CHECKING:
    from customize.evaluation.scorers.base_model import BaseModelScorer

MOST_PHOTOS = 40
"""Images that pictures are compared with, at most."""


def of_concept(examples: Sequence[Example], concept: Concept) -> list[Example]:
    """Those with a caption that calls the concept, where a run teaches others too; all of them where no caption does."""
    trigger = concept.trigger.casefold()
    return [each for each in examples if any(trigger in text.casefold() for text in each.captions)] or list(examples)


def compared(
    examples: Sequence[Example], concept: Concept, resolution: int, scorer: "BaseModelScorer", folder: Path
) -> tuple[list[Image.Image], list[SubjectMask]]:
    """The user's images that pictures are compared with, their short side resized, and the masks of their subject: of all those
    that have one, if at least two have; else evenly spread over all images, without masks.

    scorer: of the base model, whose networks are those of the base; folder: of the run, for pictures of the masks.
    """
    from customize.evaluation.masks.segmenter import at_hand as segmenter
    from customize.evaluation.scorers.base_model import supports

    number = min(len(examples), MOST_PHOTOS)
    chosen = [examples[len(examples) * place // number] for place in range(number)]
    images = [resize(example.open(), resolution) for example in chosen]
    if concept.kind == "style" or not supports(scorer.family):
        return images, []
    masks = subject_masks(images, concept.class_word, scorer, given_masks(chosen, None, Findings()), segmenter(scorer.device))
    write_overlays(folder, [(example.name, image) for example, image in zip(chosen, images, strict=True)], masks)
    found = [place for place, mask in enumerate(masks) if mask.pixels is not None]
    return ([images[i] for i in found], [masks[i] for i in found]) if len(found) > 1 else (images, [])
