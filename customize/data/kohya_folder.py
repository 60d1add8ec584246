"""kohya's folder layout: `10_sks dog/` holds images that an epoch uses ten times, under the prompt `sks dog`. No torch.

Each such subfolder of a training folder is a subset; those of a folder of class images are regularisation images (`1_dog/`).
Captions from files come before the prompt, as in kohya's sd-scripts. A folder with images of its own is not in the layout.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from customize import missing_path, units
from customize.data.captions.caption_rule import CaptionRule
from customize.data.example import Example
from customize.data.findings import Findings
from customize.families.trigger_words import any_calls, rare_words
from customize.printable import first_few, printable

NAME = re.compile(r"0*([1-9]\d{0,4})_\s*(\S.*)", re.DOTALL)


@dataclass(frozen=True)
class Subset:
    """A folder of images in the layout. repeats: how often an epoch uses each; prompt: what they show, by the folder's name."""

    folder: Path
    repeats: int
    prompt: str


def subsets(folder: Any) -> tuple[Subset, ...]:
    """The subsets in a folder, by name; () for one that is not in the layout, or cannot be listed."""
    if not isinstance(folder, str | Path) or missing_path.num_images(Path(folder)):
        return ()
    found = ((name, NAME.fullmatch(name)) for name in subfolders(Path(folder)))
    return tuple(Subset(Path(folder) / name, int(match[1]), match[2].strip()) for name, match in found if match)


def subfolders(folder: Path) -> list[str]:
    """The names of the subfolders that are not hidden, in order."""
    try:
        names = [entry.name for entry in os.scandir(folder) if not entry.name.startswith(".") and os.path.isdir(entry.path)]
    except (OSError, ValueError):
        return []
    return sorted(names, key=os.fsencode)


def read_subsets(
    folder: Path, rule: CaptionRule, read: Callable[[Path, CaptionRule], list[Example]], found: Findings
) -> list[Example]:
    """The images of a folder, or of its subsets, each of which is reported. read: the images of one folder, their captions by a
    rule."""
    if not (every := subsets(folder)):
        return read(folder, rule)
    examples: list[Example] = []
    for subset in every:
        own = rule_for(subset, rule, every)
        images = read(subset.folder, own)
        name = subset.folder.name
        found.remarks.append(printable(f"{name}: {in_words(subset, images, own)}"))
        examples += [replace(each, name=f"{name}/{each.name}", repeats=subset.repeats) for each in images]
    others = [name for name in subfolders(folder) if name not in {subset.folder.name for subset in every}]
    if others:
        what = "not used, since their names do not start with a number of repeats, as in 10_sks dog"
        found.note(folder, f"{what} ({len(others)}): {first_few(others)}")
    return examples


def rule_for(subset: Subset, rule: CaptionRule, every: Sequence[Subset]) -> CaptionRule:
    """How the images of a subset get their captions: by the name of the folder instead of a prompt that is such a name, or of
    templates where the name has a new word. A prompt that the user gives stays."""
    if rule.placeholders:
        is_named = any(token in subset.prompt for token in rule.placeholders)
        return replace(rule, fallback=(subset.prompt,)) if is_named else rule
    if rule.fallback not in [(each.prompt,) for each in every]:
        return rule
    if not rule.triggers or any_calls([subset.prompt], rule.triggers):
        return replace(rule, fallback=(subset.prompt,))
    own = rare_words(subset.prompt)
    return replace(rule, fallback=(subset.prompt,), triggers=own, trigger=" ".join(own) if rule.trigger else "")


def in_words(subset: Subset, images: Sequence[Example], rule: CaptionRule) -> str:
    """`12 images x 10, prompt "sks dog"`."""
    lacking = sum(each.captions == rule.fallback for each in images)
    prompt = f'prompt "{rule.fallback[0]}"' if len(rule.fallback) == 1 else "templates"
    captions = prompt if lacking == len(images) else f"captions from files{f', {prompt} for {lacking}' * bool(lacking)}"
    return f"{units.count(len(images), 'image')} x {subset.repeats}, {captions}"


def implied(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The settings (name, value) of DreamBooth that folders in the layout imply: the prompts of the first subsets, and all of the
    class images."""
    if every := subsets(expanded(values, "instance_data_dir")):
        yield "instance_prompt", every[0].prompt
    if every := subsets(expanded(values, "class_data_dir")):
        yield "prior_preservation", "images"
        if values.get("prior_preservation", "images") == "images":
            yield "class_prompt", every[0].prompt
            yield "class_image_captions", "auto"
            yield "num_class_images", sum(map(num_images, every))


def expanded(values: Mapping[str, Any], name: str) -> Any:
    """The folder that a setting names, if it is one."""
    return os.path.expanduser(value) if isinstance(value := values.get(name), str) else None


def num_images(subset: Subset) -> int:
    """The number of images of a subset, by extension, without masks."""
    from customize.data.folder import list_folder

    listing = list_folder(subset.folder, "class_data_dir", Findings())
    return len(listing.images) if listing else 0
