"""Several folders of images in a stranger's configuration, as concepts of one run where each has a prompt of its own."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from customize.cli.imports.translation import Reading
from customize.families.trigger_words import words_of
from customize.methods import DreamBoothSettings
from customize.methods.concept_settings import OWN, in_common
from customize.missing_path import num_images
from customize.settings.field import written

ONE_FOLDER = "put the images into one folder, with a caption beside each"


@dataclass
class Folder:
    """A folder of images. name: as the file has it; own: by our names, what a `[[concept]]` table takes; others: further settings
    of the folder, by their names in the file."""

    name: str
    own: dict[str, Any]
    others: Mapping[str, Any] = field(default_factory=dict)


def teach(found: Reading, folders: Sequence[Folder]) -> bool:
    """Adds the folders to the reading as concepts, and lists those that cannot be; False where at most one is left, which is for
    the settings of the run. Other trainers show each image equally often, unless it is repeated."""
    together: list[Folder] = []
    for folder in folders:
        if why := cannot_be_taught(found, folder, together):
            found.lose(folder.name, *why)
        else:
            together.append(folder)
    if not together[1:]:
        return False
    for folder in together:
        given = {"repeats": 1} | {name: value for name, value in folder.own.items() if value is not None}
        found.concepts.append((folder.name, {name: given[name] for name in OWN if name in given}))
    for folder in together[1:]:
        for name, value in folder.others.items():
            if value != together[0].others.get(name, value):
                what = "it is a setting of the run, which has that of the first folder"
                found.lose(f"{name} = {written(value)} of {folder.name}", what, "give one value for all")
    return True


def cannot_be_taught(found: Reading, folder: Folder, others: Sequence[Folder]) -> tuple[str, str] | None:
    """Why a folder cannot be taught beside others, and what to do."""
    if not others:
        return None
    if found.model is not DreamBoothSettings:
        return "one folder of images is taken for a new word", ONE_FOLDER
    if not all(each.own.get("instance_prompt") for each in (*others, folder)):
        return "folders are concepts of a run only where each has a prompt of its own", ONE_FOLDER
    for other in others:
        if words := in_common(other.own, folder.own, ()):
            return f"{' and '.join(words)} calls {other.name}, too, and concepts have words of their own", ONE_FOLDER
    return None


def of_class(folder: str, words: str, found: Reading) -> None:
    """A folder of regularisation images as class images: of the run, or of the concepts whose prompts have its words."""
    name = f"regularization images in {folder}"
    if not words:
        remedy = f'give --class_data_dir {folder} --class_prompt "a photo of dog" --prior_preservation images'
        return found.lose(name, "class images need a class prompt here", remedy)
    own: dict[str, Any] = {
        "class_data_dir": folder,
        "class_prompt": words,
        "prior_preservation": "images",
        "class_image_captions": "auto",
    }
    own |= {"num_class_images": max(1, num_images(Path(folder)))} if os.path.isdir(folder) else {}
    if not found.concepts and "class_data_dir" in found.values:
        return found.lose(name, "one folder of class images is taken for a subject", "put the images into one folder")
    if not found.concepts:
        found.values |= own
        return None
    tables = [table for _, table in found.concepts if {*words_of(words)} <= {*words_of(table["instance_prompt"])}]
    for table in tables:
        table.update(own)
    return None if tables else found.lose(name, f"no concept has the words {words}", "name them in the table of a concept")
