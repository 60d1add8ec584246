"""Masks of the subject: a file beside the image (`cat-mask.png` for `cat.jpg`), or in a folder of masks, or transparency.

White, or what is opaque where a file has transparency, is the subject; grey is a part of it. torch is not imported.

h w height and width of the upright image.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from customize.data.example import Example, Mask, digest_of
from customize.data.findings import Findings
from customize.data.folder import MASK, list_folder
from customize.data.images.image_file import EXTENSIONS, open_image, with_alpha
from customize.errors import InputError, ResourceError
from customize.printable import first_few, printable

HALF = 128
"""The least value of 255 that counts as white, or as opaque."""
NONE_SELECTED = "is a mask in which nothing is white", "paint the subject white and the rest black"


def with_masks(settings, examples: Sequence[Example], found: Findings) -> list[Example]:
    """The examples, each with its mask if it has one: of `mask_data_dir`, beside it, or with `alpha_mask` its transparency. Files
    that are no masks of these images are problems, and so is it if no image has a mask."""
    folder = Path(settings.mask_data_dir) if settings.mask_data_dir else None
    files = masks_in(folder, "mask_data_dir", found) if folder else {}
    earlier = len(found.problems)
    masked = [with_mask(example, files, settings.alpha_mask, found) for example in examples]
    known = {stem_of(example) for example in examples} | measured_stems(settings) if files else set()
    if of_no_image := sorted(files.keys() - known):
        names = first_few([files[stem].name for stem in of_no_image])
        found.problem(f"mask_data_dir {folder}", f"has masks of no image: {names}", "name each like its image, or remove it")
    for example in examples:
        if (stem := stem_of(example)).endswith(MASK):
            what = f"is a mask by its name, but there is no image {stem.removesuffix(MASK)}"
            found.problem(example.name, what, "rename it, or add the image")
    whole = [example.name for example in masked if example.mask is None]
    if whole and len(whole) == len(masked) and len(found.problems) == earlier:
        remedy = "add NAME-mask.png beside NAME.jpg (`customize mask FOLDER` draws them), or give mask_data_dir or alpha_mask"
        found.problem("masked_loss", "no image has a mask", remedy)
    elif whole:
        found.notes.append(f"without a mask, so learned as a whole: {first_few(whole)}")
    return masked


def measured_stems(settings) -> set[str]:
    """The names, without extension, of the images that are only measured, and may have masks in the same folder."""
    folder = settings.validation_data_dir
    listing = list_folder(Path(folder), "validation_data_dir", Findings()) if folder else None
    return {Path(name).stem for name in listing.images} if listing else set()


def with_known_masks(settings, examples: Sequence[Example], found: Findings) -> list[Example]:
    """Images that are only measured, each with its mask if it has one; none needs one."""
    files = masks_in(Path(settings.mask_data_dir), "mask_data_dir", Findings()) if settings.mask_data_dir else {}
    return [with_mask(example, files, settings.alpha_mask, found) for example in examples]


def with_mask(example: Example, files: Mapping[str, Path], alpha_mask: bool, found: Findings) -> Example:
    """The example with its mask. files: from the folder of masks, see `masks_in`."""
    path = files.get(stem_of(example)) or beside(example)
    try:
        if path is not None:
            drawn = checked(path, example, found)
        else:
            drawn = transparency(example) if alpha_mask else None
    except InputError as error:
        found.problems.extend(error.problems)
        drawn = None
    if drawn is None:
        return example
    if drawn.getextrema()[1] < HALF:
        what, remedy = NONE_SELECTED if path else ("is transparent everywhere", "give the image a mask, or remove it")
        found.problem(path or example.name, what, remedy)
    return replace(example, mask=Mask(path or example.source, digest_of(drawn)))


def stem_of(example: Example) -> str:
    """The name of an image without folder and extension, by which its mask is found."""
    return os.path.splitext(example.name.rpartition("/")[2])[0]


def masks_in(folder: Path, setting: str, found: Findings) -> dict[str, Path]:
    """The images of a folder by the name, without extension, of the image that they are masks of."""
    listing = list_folder(folder, setting, found)
    names = [*listing.images, *listing.masks] if listing else []
    return {Path(name).stem.removesuffix(MASK): folder / name for name in names}


def beside(example: Example) -> Path | None:
    """The file of the mask beside an image, if there is one."""
    if not isinstance(example.source, Path):
        return None
    source = example.source
    near = (source.with_name(f"{source.stem}{MASK}{extension}") for extension in sorted(EXTENSIONS))
    return next((path for path in near if os.path.isfile(path)), None)  # Path.is_file fails for a name that is too long


def checked(path: Path, example: Example, found: Findings) -> Image.Image | None:
    """The mask in a file, mode L; None and a problem if it is not one of the example. Raises InputError if it cannot be read."""
    if isinstance(example.source, Path) and os.path.realpath(path) == os.path.realpath(example.source):
        found.problem(
            path, "is the image itself, not its mask", "give a folder of masks; beside the images they are found anyway"
        )
        return None
    drawn = open_image(path, convert=with_alpha)
    if drawn.size != example.size:
        shown = printable(example.name)
        sizes = f"has {drawn.width} x {drawn.height} pixels, the image {shown} {example.size[0]} x {example.size[1]}"
        found.problem(path, sizes, "draw the mask on a copy of the image")
        return None
    return selected(drawn)


def transparency(example: Example) -> Image.Image | None:
    """What is opaque in an image, mode L; None if it has no transparency. Raises InputError if it cannot be read."""
    if isinstance(example.source, Image.Image):
        image = example.source
    else:
        source = example.source if isinstance(example.source, Path) else example.source.read()
        image = open_image(source, example.name, convert=with_alpha)
    return image.getchannel("A") if is_cut_out(image) else None


def selected(drawn: Image.Image) -> Image.Image:
    """The subject in a drawing, mode L: 255 where it is."""
    return drawn.getchannel("A") if is_cut_out(drawn) else drawn.convert("L")


def is_cut_out(image: Image.Image) -> bool:
    """Whether some of an image is transparent."""
    return image.mode == "RGBA" and image.getchannel("A").getextrema()[0] < HALF


def open_mask(example: Example) -> Image.Image:
    """The mask of an example that has one: mode L, [h, w], 255 where the subject is. Raises ResourceError if it changed since it
    was checked."""
    assert example.mask is not None
    source, what = example.mask.source, ""
    try:
        image = open_image(source if isinstance(source, Path | Image.Image) else source.read(), str(source), convert=with_alpha)
        drawn = selected(image)
        if drawn.size == example.size and digest_of(drawn) == example.mask.digest:
            return drawn
        what = f"{printable(str(source))}: is a different mask now"
    except InputError as error:
        what = "; ".join(f"{problem.where}: {problem.what}" for problem in error.problems)
    remedy = "start again, and do not change masks while they are in use"
    raise ResourceError(f"a mask has changed since it was checked\n    {what}\n    -> {remedy}")
