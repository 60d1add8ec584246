"""Validated examples (image, captions, role) from folders or a dataset.

Every image is decoded and every caption read here, before a model is loaded; one `InputError` has all problems.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path

from customize.data.captions.caption_rule import Caption, CaptionRule
from customize.data.captions.caption_tables import DEFAULT_COLUMN
from customize.data.captions.caption_templates import captions_for, rule_of
from customize.data.example import Example, Role, of_concept, of_folder
from customize.data.findings import Findings
from customize.data.folder import folder_captions, is_tree_of_images, list_folder, meant_instead, walk_subfolders
from customize.data.hub_dataset import Row, image_rows, load_dataset, row_captions
from customize.data.images.checked_images import CheckedImages, Facts
from customize.data.images.colour import CONVERTED
from customize.data.kohya_folder import read_subsets
from customize.data.mask_files import with_known_masks, with_masks
from customize.data.peculiarities import note_peculiarities
from customize.errors import InputError, Problem
from customize.printable import first_few, printable
from customize.settings.training import TrainingSettings

DEFAULT_IMAGE_COLUMN = "image"
USUAL_RESOLUTION = 512


@dataclass(frozen=True)
class Examples:
    """The training images, the existing class images, notes about them for the user, images of the subject that are not trained
    on, and what is known of files with these bytes."""

    instances: tuple[Example, ...]
    classes: tuple[Example, ...]
    notes: tuple[str, ...]
    held_out: tuple[Example, ...] = ()
    checked: CheckedImages = field(default_factory=CheckedImages)


def load_examples(settings: TrainingSettings, resolution: int = USUAL_RESOLUTION) -> Examples:
    """The examples of a training run. Raises one InputError with every problem of every folder, image and caption."""
    examples, problems = examine_examples(settings, resolution)
    if problems:
        raise InputError(problems)
    return examples


def examine_examples(settings: TrainingSettings, resolution: int = USUAL_RESOLUTION) -> tuple[Examples, list[Problem]]:
    """The valid examples of a training run, and every problem of every folder, image and caption.

    resolution: of the run; images that are blurred at it are noted.
    """
    found, parts, checking = Findings(), settings.parts, CheckedImages.of(settings.latents_cache_dir, resolution)
    of_parts = [_training_images(part, checking, found) for part in parts]
    repeats = settings.repeats_of_concepts or (1,) * len(parts)
    instances = [
        replace(of_concept(each, place, len(parts)), repeats=each.repeats * repeats[place])
        for place, (own, _) in enumerate(of_parts) for each in own
    ]  # fmt: skip
    if not found.problems:
        _check_placeholders_used(tuple(settings.placeholders), instances, found)
    classes, held_out = [], []
    for place, (part, (_, left_out)) in enumerate(zip(parts, of_parts, strict=True)):
        classes += [of_concept(each, place, len(parts)) for each in _class_images(part, checking.of_class(), found)]
        others = (*left_out, *_validation_images(part, instances, checking, found))
        held_out += [of_concept(each, place, len(parts)) for each in others]
    note_peculiarities(instances, resolution, found)
    notes = (*found.notes, *found.remarks)
    return Examples(tuple(instances), tuple(classes), notes, tuple(held_out), checking), found.problems


def _training_images(settings: TrainingSettings, checking: CheckedImages, found: Findings) -> tuple[list[Example], list[Example]]:
    """The examples of a concept to train on, with their masks, and those that are held out."""
    own = settings.own_examples(found)
    instances = _instances(settings, checking, found) if own is None else own
    instances = with_masks(settings, instances, found) if settings.masked_loss else instances
    return _leave_out(instances, settings, found)


def _instances(settings: TrainingSettings, checking: CheckedImages, found: Findings) -> list[Example]:
    """The examples of the dataset and the folders that the settings name."""
    folders, setting = settings.image_folders, settings.image_folder_setting
    instances: list[Example] = []
    if settings.dataset_name:
        instances = _from_dataset(settings, settings.dataset_name, rule_of(settings, 0, 1, found), checking, found)
    for index, folder in enumerate(folders):
        rule = rule_of(settings, index, len(folders), found)
        listed = _from_subsets(Path(folder), setting, settings.caption_column, rule, checking, found, settings.leave_out)
        instances += [replace(example, name=of_folder(example.name, index, len(folders))) for example in listed]
    return instances


def missing_class_images(settings: TrainingSettings, examples: Examples) -> int:
    """The number of class images that are missing. Concepts of one class may have one folder."""
    missing: dict[str | None, int] = {}
    for place, part in enumerate(settings.parts):
        own = sum(example.concept == place for example in examples.classes)
        missing[part.class_folder] = max(missing.get(part.class_folder, 0), part.class_images - own)
    return sum(missing.values())


def load_class_examples(
    folder: str | Path, class_prompt: str, captions: str = "prompt", column: str = DEFAULT_COLUMN,
    checking: CheckedImages | None = None,
) -> tuple[Example, ...]:  # fmt: skip
    """The images of a folder for prior preservation; () if it has none. Raises InputError for invalid ones. captions, column: as
    the settings class_image_captions and caption_column."""
    found, rule = Findings(), class_rule(class_prompt, captions)
    examples = _from_subsets(Path(folder), "class_data_dir", column, rule, checking or CheckedImages(), found)
    found.raise_problems()
    return tuple(examples)


def class_rule(class_prompt: str, captions: str) -> CaptionRule:
    """How class images get their captions. captions: the setting class_image_captions."""
    return CaptionRule(captions, (class_prompt,), "write one, or use --class_image_captions auto")


def load_photos(folder: str | Path, setting: str) -> tuple[Example, ...]:
    """The images of a folder that a setting names, without captions. Raises InputError, also for a folder without images."""
    found = Findings()
    examples = _from_folder(Path(folder), setting, "", CaptionRule("prompt", ("",)), CheckedImages(USUAL_RESOLUTION), found)
    found.raise_problems()
    return tuple(examples)


def _from_subsets(
    folder: Path, setting: str, column: str, rule: CaptionRule, checking: CheckedImages, found: Findings,
    leave_out: Collection[str] = (),
) -> list[Example]:  # fmt: skip
    """As `_from_folder`, also for a folder in kohya's layout."""
    return read_subsets(
        folder, rule, lambda each, own: _from_folder(each, setting, column, own, checking, found, leave_out), found
    )


def _from_folder(
    folder: Path, setting: str, column: str, rule: CaptionRule, checking: CheckedImages, found: Findings,
    leave_out: Collection[str] = (),
) -> list[Example]:  # fmt: skip
    """The valid images of a folder, sorted bytewise by name, without those to leave out; the others are problems.

    Images in subfolders are included if a table of captions lists them.
    """
    earlier = len(found.problems)
    listing = list_folder(folder, setting, found, leave_out)
    if listing is None:
        return []
    captions = folder_captions(folder, listing, column if rule.reads else None, found).of
    names = sorted({*listing.images, *captions} - {*leave_out}, key=os.fsencode)
    if checking.resolution and not names and len(found.problems) == earlier:
        found.problem(f"{setting} {folder}", *meant_instead(folder, listing))
    return _examples({name: folder / name for name in names}, captions, rule, checking, str(folder), found)


def _from_tree(folder: Path, column: str, rule: CaptionRule, checking: CheckedImages, found: Findings) -> list[Example]:
    """The valid images of a dataset that is a folder with subfolders (`train`, classes), each with captions like a folder."""
    subfolders = ["", *walk_subfolders(folder)]
    if "train" in subfolders:  # the split to train on
        others = sorted({subfolder.split("/")[0] for subfolder in subfolders} - {"", "train"})
        subfolders = [subfolder for subfolder in subfolders if subfolder == "" or subfolder.split("/")[0] == "train"]
        if others:
            found.remark(folder, f"only the images of train are used, not those of {first_few(others)}")
    names: set[str] = set()
    captions: dict[str, tuple[Caption, ...]] = {}
    for subfolder in subfolders:
        listing = list_folder(folder / subfolder, "dataset_name", found)
        if listing is None:
            continue
        mine = folder_captions(folder / subfolder, listing, column if rule.reads else None, found, with_subfolders=True)
        prefix = f"{subfolder}/" if subfolder else ""
        names |= {prefix + name for name in listing.images}
        for name, texts in mine.of.items():
            if captions.get(prefix + name, texts) != texts:
                what = "has captions in more than one place: beside it, and in a table in a parent folder"
                found.problem(folder / prefix / name, what, "keep one")
            captions[prefix + name] = texts
    names |= captions.keys()
    if not names and not found.problems:
        found.problem(f"dataset_name {folder}", "contains no images", "give a folder with images, or a dataset of `datasets`")
    sources = {name: folder / name for name in sorted(names, key=os.fsencode)}
    return _examples(sources, captions, rule, checking, str(folder), found)


def _from_dataset(
    settings: TrainingSettings, name: str, rule: CaptionRule, checking: CheckedImages, found: Findings
) -> list[Example]:
    """The valid rows of a dataset, in order; the others are problems."""
    if settings.image_column == DEFAULT_IMAGE_COLUMN and is_tree_of_images(Path(name)):
        return _from_tree(Path(name), settings.caption_column, rule, checking, found)
    data = load_dataset(name, settings.dataset_config_name, found)
    if data is None:
        return []
    sources = {f"row {row.index}": row for row in image_rows(data, name, settings.image_column, found)}
    captions: dict[str, tuple[Caption, ...]] = {}
    if rule.reads:
        required = rule.use == "files" or settings.caption_column != DEFAULT_COLUMN
        for index, texts in row_captions(data, name, settings.caption_column, required, found).items():
            captions[f"row {index}"] = tuple(Caption(text, f"row {index}") for text in texts)
        if required and not captions:  # already reported, once for all rows
            captions = dict.fromkeys(sources, ())
    return _examples(sources, captions, rule, checking, name, found)


def _examples(
    sources: Mapping[str, Path | Row],
    captions: Mapping[str, tuple[Caption, ...]],
    rule: CaptionRule,
    checking: CheckedImages,
    where: str,
    found: Findings,
) -> list[Example]:
    """Decode each image: an example for each valid one, a problem for each of the others.

    checking: at which resolution instance images are measured; class images are not.
    """
    colours: dict[str, Sequence[str]] = {}
    checked: dict[str, Facts] = {}
    for name, facts in checking.check(sources):
        if isinstance(facts, InputError):
            found.problems.extend(facts.problems)
        else:
            checked[name], colours[name] = facts, facts.remarks
    _report_colours(colours, found)
    role: Role = "instance" if checking.resolution else "class"
    chosen = captions_for(rule, list(checked), captions, where, found, of_subject=role == "instance")
    return [
        Example(name, chosen[name], role, sources[name], facts.size, facts.digest, facts.features)
        for name, facts in checked.items()
    ]


def _report_colours(remarks: Mapping[str, Sequence[str]], found: Findings) -> None:
    """A line for each remark about an image, with the names of the images: a note unless the colours were only converted."""
    by_remark: dict[str, list[str]] = {}
    for name, lines in remarks.items():
        for remark in lines:
            by_remark.setdefault(printable(remark), []).append(name)
    for remark, names in sorted(by_remark.items()):
        target = found.remarks if remark.startswith(CONVERTED) else found.notes
        target.append(f"{remark} ({len(names)}): {first_few(names)}")


def _class_images(settings, checking: CheckedImages, found: Findings) -> list[Example]:
    """The existing class images, at most as many as the settings request."""
    folder, number = settings.class_folder, settings.class_images
    if folder is None or not os.path.lexists(folder):
        return []
    rule = class_rule(settings.prompts.get("class_prompt", ""), settings.class_image_captions)
    examples = _from_subsets(Path(folder), "class_data_dir", settings.caption_column, rule, checking, found)
    if len(examples) > number:
        found.note(folder, f"only the first {number} of {len(examples)} class images are used")
    return examples[:number]


def _leave_out(instances: Sequence[Example], settings: TrainingSettings, found: Findings) -> tuple[list[Example], list[Example]]:
    """The examples to train on, and the `num_held_out` others. Which these are depends on the seed and on the images alone."""
    number = settings.num_held_out
    if instances and number >= len(instances):
        what = f"{number} of {len(instances)} images leave none to train on"
        found.problem("num_held_out", what, f"give at most {len(instances) - 1}, or validation_data_dir")
    order = sorted(instances, key=lambda example: blake2b(f"{settings.seed}/{example.digest}".encode()).digest())
    chosen = {example.name for example in order[:number]}
    if chosen:
        found.notes.append(f"held out, not trained on: {first_few(sorted(chosen))}")
    kept = [example for example in instances if example.name not in chosen]
    return kept, [example for example in instances if example.name in chosen]


def _validation_images(
    settings: TrainingSettings, instances: Sequence[Example], checking: CheckedImages, found: Findings
) -> list[Example]:
    """The images of `validation_data_dir`, which must not be among those that are trained on."""
    if settings.validation_data_dir is None:
        return []
    folder, setting = Path(settings.validation_data_dir), "validation_data_dir"
    held_out = _from_folder(folder, setting, settings.caption_column, rule_of(settings, 0, 1, found), checking, found)
    trained = {example.digest for example in instances}
    if both := [example.name for example in held_out if example.digest in trained]:
        what = f"has images that are trained on, too: {first_few(both)}"
        found.problem(f"{setting} {folder}", what, "give images that are not among the training images")
    return with_known_masks(settings, held_out, found) if settings.masked_loss else held_out


def _check_placeholders_used(tokens: Sequence[str], instances: Sequence[Example], found: Findings) -> None:
    captions = [caption for example in instances for caption in example.captions]
    for token in tokens:
        if not any(token in caption for caption in captions):
            remedy = "write it in the captions of the images that show it, or leave it out"
            found.problem(f"placeholder_token {token}", "is in no caption, so it cannot be learned", remedy)
