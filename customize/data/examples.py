"""A folder or a data set -> validated examples: picture, captions, role.

Every picture is decoded and every caption read here, and all that is wrong with any of them is one `InputError`,
before a model is loaded.
"""

import os
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Literal

from PIL import Image

from customize.data.caption_tables import DEFAULT_COLUMN
from customize.data.captions import Caption, CaptionRule, apply_rule
from customize.data.findings import Findings
from customize.data.folder import folder_captions, is_tree_of_images, list_folder, meant_instead, sub_folders
from customize.data.hub_dataset import Row, load_dataset, picture_rows, row_captions
from customize.data.images.colour import CONVERTED
from customize.data.images.image_file import open_image
from customize.data.images.similarity import SHARP, Likeness, measure, near_duplicates
from customize.errors import InputError, Problem, ResourceError
from customize.printable import first_few, printable
from customize.settings.training import TrainingSettings

Role = Literal["instance", "class"]
DEFAULT_IMAGE_COLUMN = "image"
USUAL_RESOLUTION = 512
WORKERS = min(4, os.cpu_count() or 1)
"""Threads that decode; each may hold a picture of 64 million pixels."""


@dataclass(frozen=True)
class Example:
    """One picture and what may be said about it."""

    name: str
    """Unique among the examples of its role, whatever folder they lie in."""
    captions: tuple[str, ...]
    """One of them is drawn per use."""
    role: Role
    source: Path | Row
    size: tuple[int, int]
    """(width, height) of the upright picture."""
    digest: str
    """Of the upright picture's pixels: the same digest, the same picture."""
    likeness: Likeness | None = None
    """Of pictures to learn from, not of class pictures."""

    def open(self) -> Image.Image:
        """The upright picture, mode RGB, read afresh. Raises ResourceError when it is not the one that was checked."""
        try:
            image = _open(self.source)
            what = "" if _digest(image) == self.digest else f"{printable(str(self.source))}: is another picture"
        except InputError as error:
            what = "; ".join(f"{problem.where}: {problem.what}" for problem in error.problems)
        if what:
            remedy = "start again, and leave the pictures alone while they are in use"
            raise ResourceError(f"a picture has changed since it was checked\n    {what}\n    -> {remedy}")
        return image


@dataclass(frozen=True)
class Examples:
    """The pictures to learn from, the class pictures that are there already, and what the user should know of them."""

    instances: tuple[Example, ...]
    classes: tuple[Example, ...]
    notes: tuple[str, ...]


def load_examples(settings: TrainingSettings, resolution: int = USUAL_RESOLUTION) -> Examples:
    """The examples of a training run. Raises one InputError with every problem of every folder, picture and caption."""
    examples, problems = examine_examples(settings, resolution)
    if problems:
        raise InputError(problems)
    return examples


def examine_examples(settings: TrainingSettings, resolution: int = USUAL_RESOLUTION) -> tuple[Examples, list[Problem]]:
    """The good examples of a training run, and every problem of every folder, picture and caption.

    resolution: that of the run; a picture that is blurred at it is noted.
    """
    found = Findings()
    folders, setting = settings.image_folders, settings.image_folder_setting
    instances: list[Example] = []
    if settings.dataset_name:
        instances = _from_dataset(settings, settings.dataset_name, settings.caption_rule(0, 1), resolution, found)
    for index, folder in enumerate(folders):
        rule = settings.caption_rule(index, len(folders))
        listed = _from_folder(Path(folder), setting, settings.caption_column, rule, resolution, found)
        prefix = f"{index + 1}/" if len(folders) > 1 else ""
        instances += [replace(example, name=prefix + example.name) for example in listed]
    if not found.problems:
        _check_placeholders_used(tuple(settings.placeholders), instances, found)
    classes = _class_pictures(settings, found)
    _note_what_stands_out(instances, resolution, found)
    return Examples(tuple(instances), tuple(classes), (*found.notes, *found.remarks)), found.problems


def load_class_examples(folder: str | Path, class_prompt: str) -> tuple[Example, ...]:
    """The pictures of a folder for prior preservation, () when it has none. Raises InputError for the bad ones."""
    found = Findings()
    rule = CaptionRule("prompt", (class_prompt,))
    examples = _from_folder(Path(folder), "class_data_dir", "", rule, None, found)
    found.raise_problems()
    return tuple(examples)


def small_pictures_note(examples: Sequence[Example], resolution: int) -> str | None:
    """A line on the pictures that must be enlarged for `resolution`; None when there are none."""
    names = [example.name for example in examples if min(example.size) < resolution]
    return f"smaller than {resolution} pixels, so enlarged: {first_few(names)}" if names else None


def _open(source: Path | Row, remarks: list[str] | None = None) -> Image.Image:
    return open_image(source if isinstance(source, Path) else source.read(), str(source), remarks=remarks)


def _digest(image: Image.Image) -> str:
    return blake2b(image.tobytes(), key=str(image.size).encode(), digest_size=16).hexdigest()


def _from_folder(
    folder: Path, setting: str, column: str, rule: CaptionRule, resolution: int | None, found: Findings
) -> list[Example]:
    """The good pictures of a folder, sorted by name bytewise; the others are problems. resolution: as for `_examples`.

    With them come the pictures of its sub-folders that a table of captions names.
    """
    earlier = len(found.problems)
    listing = list_folder(folder, setting, found)
    if listing is None:
        return []
    captions = folder_captions(folder, listing, column if rule.reads else None, found).of
    names = sorted({*listing.pictures, *captions}, key=os.fsencode)
    if resolution and not names and len(found.problems) == earlier:
        found.problem(f"{setting} {folder}", *meant_instead(folder, listing))
    return _examples({name: folder / name for name in names}, captions, rule, resolution, str(folder), found)


def _from_tree(folder: Path, column: str, rule: CaptionRule, resolution: int, found: Findings) -> list[Example]:
    """The good pictures of a data set that is a folder with sub-folders (`train`, classes), each captioned as a folder is."""
    ways = ["", *sub_folders(folder)]
    if "train" in ways:  # of datasets' splits the one to learn from
        others = sorted({way.split("/")[0] for way in ways} - {"", "train"})
        ways = [way for way in ways if way == "" or way.split("/")[0] == "train"]
        if others:
            found.remark(folder, f"only the images of train are used, not those of {first_few(others)}")
    names: set[str] = set()
    captions: dict[str, tuple[Caption, ...]] = {}
    for way in ways:
        listing = list_folder(folder / way, "dataset_name", found)
        if listing is None:
            continue
        mine = folder_captions(folder / way, listing, column if rule.reads else None, found, sub_folders_too=True)
        prefix = f"{way}/" if way else ""
        names |= {prefix + name for name in listing.pictures}
        for name, texts in mine.of.items():
            if captions.get(prefix + name, texts) != texts:
                what = "has captions in more than one place: beside it, and in a table of a folder above"
                found.problem(folder / prefix / name, what, "keep one")
            captions[prefix + name] = texts
    names |= captions.keys()
    if not names and not found.problems:
        found.problem(f"dataset_name {folder}", "holds no pictures", "name a folder with pictures, or a data set of `datasets`")
    sources = {name: folder / name for name in sorted(names, key=os.fsencode)}
    return _examples(sources, captions, rule, resolution, str(folder), found)


def _from_dataset(settings: TrainingSettings, name: str, rule: CaptionRule, resolution: int, found: Findings) -> list[Example]:
    """The good rows of a data set, in its order; the others are problems."""
    if settings.image_column == DEFAULT_IMAGE_COLUMN and is_tree_of_images(Path(name)):
        return _from_tree(Path(name), settings.caption_column, rule, resolution, found)
    data = load_dataset(name, settings.dataset_config_name, found)
    if data is None:
        return []
    sources = {f"row {row.index}": row for row in picture_rows(data, name, settings.image_column, found)}
    captions: dict[str, tuple[Caption, ...]] = {}
    if rule.reads:
        required = rule.use == "files" or settings.caption_column != DEFAULT_COLUMN
        for index, texts in row_captions(data, name, settings.caption_column, required, found).items():
            captions[f"row {index}"] = tuple(Caption(text, f"row {index}") for text in texts)
        if required and not captions:  # said already, once for all rows
            captions = dict.fromkeys(sources, ())
    return _examples(sources, captions, rule, resolution, name, found)


def _examples(
    sources: Mapping[str, Path | Row],
    captions: Mapping[str, tuple[Caption, ...]],
    rule: CaptionRule,
    resolution: int | None,
    where: str,
    found: Findings,
) -> list[Example]:
    """Decode each picture: an example of each good one, a problem for each of the others.

    resolution: at which instances are measured; None: class pictures, which are not.
    """

    colours: dict[str, list[str]] = {}

    def facts_of(name: str) -> tuple[tuple[int, int], str, Likeness | None] | InputError:
        colours[name] = []
        try:
            image = _open(sources[name], colours[name])
        except InputError as error:
            return error
        return image.size, _digest(image), measure(image, resolution) if resolution else None

    checked = {}
    with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor(WORKERS) as pool:  # filters are the whole process's
        for name, facts in zip(sources, pool.map(facts_of, sources), strict=True):
            if isinstance(facts, InputError):
                found.problems.extend(facts.problems)
            else:
                checked[name] = facts
    _tell_colours(colours, found)
    chosen = apply_rule(rule, list(checked), captions, where, found)
    role: Role = "instance" if resolution else "class"
    return [Example(name, chosen[name], role, sources[name], *facts) for name, facts in checked.items()]


def _tell_colours(remarks: Mapping[str, Sequence[str]], found: Findings) -> None:
    """A line for each thing to say about colours, with the names of the images: a note where they may be wrong."""
    by_remark: dict[str, list[str]] = {}
    for name, said in remarks.items():
        for remark in said:
            by_remark.setdefault(printable(remark), []).append(name)
    for remark, names in sorted(by_remark.items()):
        lines = found.remarks if remark.startswith(CONVERTED) else found.notes
        lines.append(f"{remark} ({len(names)}): {first_few(names)}")


def _class_pictures(settings: TrainingSettings, found: Findings) -> list[Example]:
    """The class pictures that are there already, at most as many as are asked for."""
    folder, number = settings.class_folder, settings.class_images
    if folder is None or not os.path.lexists(folder):
        return []
    rule = CaptionRule("prompt", (settings.prompts.get("class_prompt", ""),))
    examples = _from_folder(Path(folder), "class_data_dir", "", rule, None, found)
    if len(examples) > number:
        found.note(folder, f"the first {number} of {len(examples)} class pictures are used")
    return examples[:number]


def _check_placeholders_used(tokens: Sequence[str], instances: Sequence[Example], found: Findings) -> None:
    captions = [caption for example in instances for caption in example.captions]
    for token in tokens:
        if not any(token in caption for caption in captions):
            remedy = "write it in the captions of the pictures that show it, or leave it out"
            found.problem(f"placeholder_token {token}", "is in no caption, so that nothing teaches it", remedy)


def blurred(instances: Sequence[Example]) -> list[Example]:
    """Those without a sharp edge at the resolution at which they were measured."""
    return [example for example in instances if example.likeness and example.likeness.sharpness < SHARP]


def alike(instances: Sequence[Example]) -> list[tuple[Example, Example]]:
    """Pairs that are nearly the same picture, but not pixel by pixel; the most alike first."""
    measured = [example for example in instances if example.likeness]
    pairs = near_duplicates([example.likeness for example in measured if example.likeness])
    return [(measured[i], measured[j]) for i, j in pairs if measured[i].digest != measured[j].digest]


def _note_what_stands_out(instances: Sequence[Example], resolution: int, found: Findings) -> None:
    if len(instances) == 1:
        found.notes.append("there is only one picture; three to ten different ones teach more")
    by_digest: dict[str, list[str]] = {}
    for example in instances:
        by_digest.setdefault(example.digest, []).append(example.name)
    for names in by_digest.values():
        if len(names) > 1:
            found.notes.append(f"these pictures are the same, pixel by pixel: {first_few(names)}")
    if pairs := alike(instances):
        named = first_few([f"{one.name} and {other.name}" for one, other in pairs], 5)
        found.notes.append(f"these pictures are nearly the same: {named}")
    if soft := blurred(instances):
        found.notes.append(f"blurred, without a sharp edge at {resolution} pixels: {first_few([one.name for one in soft])}")
