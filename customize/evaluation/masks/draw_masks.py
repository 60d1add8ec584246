"""`customize mask`: a mask beside each image of a folder, for the user to look at and correct. No file is ever replaced."""

import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from customize import events
from customize.data.examples import Example, load_photos
from customize.data.folder import MASK
from customize.data.images.image_file import resize
from customize.data.mask_files import beside
from customize.errors import InputError, Problem
from customize.evaluation.masks import SubjectMask, subject_masks
from customize.evaluation.masks.segmenter_files import segmenter_folder
from customize.families import Source, load, locate
from customize.printable import first_few, printable
from customize.storage.atomic import write_image
from customize.storage.untrusted_files import attempt


def draw_masks(folder: Path, class_word: str, model: str, segmenter: str | None = None) -> list[Path]:
    """Writes NAME-mask.png for each image of the folder that has no mask and where it is clear what is the subject: white where a
    segmenter, or else the base model `model`, sees the class word. Returns the files. Raises InputError before anything loads.

    segmenter: the folder of a CLIPSeg, or its name in the hub's cache; None: the usual one, if it is there.
    """
    problems: list[Problem] = []
    examples = attempt(lambda: load_photos(folder, "FOLDER"), problems) or ()
    todo = [example for example in examples if not beside(example)]
    problems += same_names(todo)
    if not class_word.strip():
        problems.append(Problem("class_word", "is empty", "give a noun that the model knows, such as dog"))
    source = attempt(lambda: locate(model), problems)
    weights = attempt(lambda: segmenter_folder(segmenter), problems)
    if problems or source is None:
        raise InputError(problems)
    if kept := [example.name for example in examples if example not in todo]:
        events.note(f"these images have a mask, which stays as it is: {first_few(kept)}")
    if not todo:
        return []
    return written(todo, masks_of(todo, class_word.strip(), source, weights))


def same_names(examples: Sequence[Example]) -> list[Problem]:
    """The problem of images that only differ by their extension, and so would have one mask."""
    stems = [Path(example.name).stem for example in examples]
    both = sorted({stem for stem in stems if stems.count(stem) > 1})
    remedy = "rename one of each"
    return (
        [Problem("FOLDER", f"has several images of one name, which cannot each have a mask: {first_few(both)}", remedy)]
        if both
        else []
    )


def masks_of(examples: Sequence[Example], class_word: str, source: Source, weights: Path | None) -> list[SubjectMask]:
    """The masks that the segmenter in the folder `weights`, or else the base model, finds. Raises InputError for one without a
    UNet."""
    from safetensors import SafetensorError

    from customize.device import best_device
    from customize.evaluation.masks.segmenter import Segmenter
    from customize.evaluation.scorers.base_model import BaseModelScorer, supports
    from customize.families.base import Placement

    device = best_device()
    try:
        found = Segmenter(weights, device) if weights else None
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        what = f"{printable(str(weights))} cannot be loaded: {printable(error, 200)}"
        raise InputError(Problem("segmenter", what, "fetch it again")) from error
    family = load(source, Placement(device))
    if not supports(family):
        raise InputError(
            Problem("pretrained_model_name_or_path", f"{source.name} is no UNet", "use Stable Diffusion 1.x, 2.x or XL")
        )
    events.info(f'"{class_word}" is found by {"CLIPSeg, or else " if found else ""}{source.name}')
    scorer = BaseModelScorer(family, family.encode_prompts, device)
    images = [resize(example.open(), family.resolution) for example in examples]
    return subject_masks(images, class_word, scorer, segmenter=found)


def written(examples: Sequence[Example], masks: Sequence[SubjectMask]) -> list[Path]:
    """Writes the masks that there are beside their images, with soft edges; notes those that there are not."""
    paths = []
    for example, mask in zip(examples, masks, strict=True):
        assert isinstance(example.source, Path)
        path = example.source.with_name(f"{example.source.stem}{MASK}.png")
        if mask.pixels is None:
            events.note(f"{example.name}: no mask ({mask.reason}); draw {path.name} yourself, or it is learned as a whole")
        elif os.path.lexists(path):
            events.note(f"{path} exists and stays as it is")
        else:
            drawn = Image.fromarray(mask.pixels).convert("L").resize(example.size, Image.Resampling.BILINEAR)
            paths.append(write_image(path, drawn))
            events.info(f"{path}: {mask.pixels.mean():.0%} of the image, by {mask.origin}, confidence {mask.confidence:.2f}")
    return paths
