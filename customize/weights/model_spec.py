"""Metadata of learned weights in the keys of other programs: `modelspec.*` and kohya's `ss_*`, written and read.

The first is Stability AI's Model Metadata Standard 1.0.1 (github.com/Stability-AI/ModelSpec).
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from customize.errors import InputError
from customize.printable import printable
from customize.storage import manifest
from customize.storage.safetensors_header import PENDING

if TYPE_CHECKING:
    from customize.families.base import Family

BASES = {
    "sd_v1": "Stable Diffusion 1.x", "sd_1.5": "Stable Diffusion 1.x", "stable-diffusion-v1": "Stable Diffusion 1.x",
    "sd_v2": "Stable Diffusion 2.x", "stable-diffusion-v2": "Stable Diffusion 2.x", "sdxl": "SDXL",
    "stable-diffusion-xl": "SDXL", "sd3": "Stable Diffusion 3", "stable-diffusion-3": "Stable Diffusion 3", "flux": "FLUX",
}  # fmt: skip
"""Base models by the start of their names in files of other programs."""
LONGEST = 80
MOST_TAGS = 500
IMAGES = "images"
"""Stands for the folder of training images, which is not named."""
HASH = "modelspec.hash_sha256"
HASHES = {HASH: f"0x{PENDING}", "sshs_model_hash": PENDING}
"""The hash of a file's tensors: the form of each entry."""
EMBEDDING = "textual-inversion"
FEW = 5


@dataclass(frozen=True)
class Images:
    """What the metadata of an adapter says of its training images: their number, and how often each tag is in their captions."""

    number: int = 0
    tags: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, captions: Iterable[Sequence[str]]) -> "Images":
        """captions: of each image; their parts between commas are its tags, as kohya's scripts count them."""
        images = [list(each) for each in captions]
        tags = Counter(tag.strip() for own in images for caption in own for tag in caption.split(",") if tag.strip())
        return cls(len(images), dict(tags.most_common(MOST_TAGS)))


def entries(metadata: Mapping[str, str], family: "Family | None", kind: str, images: Images = Images()) -> dict[str, str]:
    """The metadata of a result for other programs; docs/inference.md lists which program reads which entry.

    metadata: of `model_card.metadata`; kind: an adapter, such as "lora", or "textual-inversion", or "" for a complete model;
    images: that an adapter was trained on.
    """
    facts = json.loads(metadata.get("customize", "{}"))
    words = ", ".join(map(str, facts.get("trigger_words", [])))
    base, method, steps = facts.get("base_model", ""), str(facts.get("method", "")).replace("_", " "), facts.get("steps")
    made = f"Learned on {base} by {method}, {steps} steps." if steps else f"Merged from what was learned on {base}."
    own = {
        "sai_model_spec": "1.0.1",
        "title": words or kind or "model",
        "description": made,
        "implementation": "diffusers" if kind else "sgm",
        "date": datetime.now(UTC).date().isoformat(),
    }
    own |= {"trigger_phrase": words} if words else {}
    of_base = dict(family.model_spec) if family else {}
    if kind and "modelspec.architecture" in of_base:
        of_base["modelspec.architecture"] += f"/{kind}"
    if side := facts.get("settings", {}).get("resolution") or (family and known_resolution(family)):
        own["resolution"] = f"{side}x{side}"
    found = {f"modelspec.{name}": value for name, value in own.items()} | of_base | {HASH: HASHES[HASH]}
    return found if kind in ("", EMBEDDING) else found | of_kohya(family, base, words, side, images)


def of_kohya(family: "Family | None", base: str, words: str, side: int | None, images: Images) -> dict[str, str]:
    """The entries of kohya's scripts that A1111, Forge, SD.Next, Civitai and managers of LoRAs read."""
    found = {**HASHES, "ss_sd_model_name": base}
    if number := images.number:
        found |= {
            "ss_num_train_images": str(number),
            "ss_dataset_dirs": json.dumps({IMAGES: {"n_repeats": 1, "img_count": number}}),
            "ss_datasets": json.dumps([{"subsets": [{"class_tokens": words, "img_count": number, "num_repeats": 1}]}]),
            "ss_tag_frequency": json.dumps({IMAGES: images.tags}),
        }
    found |= {"ss_resolution": f"({side}, {side})"} if side else {}
    if family and family.source.is_file():
        found["ss_new_sd_model_hash"] = file_hash(family.source)
    return found


def known_resolution(family: "Family") -> int | None:
    """The resolution of a base model, if its files specify it."""
    try:
        return family.resolution
    except InputError:
        return None


@cache
def file_hash(file: Path) -> str:
    """The SHA-256 of a base model in a single file, whose first ten digits A1111 shows. Read once in a process."""
    return manifest.sha256(file)


def read(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The metadata of a file of another program, as printable texts: base, title, trigger and tags, if present."""
    found: dict[str, Any] = {}
    version = metadata.get("modelspec.architecture") or metadata.get("ss_base_model_version") or ""
    if version:
        start = max((start for start in BASES if version.casefold().startswith(start)), key=len, default=None)
        found["base"] = BASES[start] if start else short(version)
    name = metadata.get("ss_sd_model_name", "")
    if name and name.casefold() != "none":
        found["base"] = f"{found.get('base', 'a model')} ({short(name)})"
    for key, ours in (("modelspec.title", "title"), ("modelspec.trigger_phrase", "trigger")):
        if metadata.get(key, "").strip():
            found[ours] = short(metadata[key])
    return found | ({"tags": tags} if (tags := most_frequent(metadata.get("ss_tag_frequency", ""))) else {})


def most_frequent(text: str) -> tuple[str, ...]:
    """The most frequent tags of the captions, as kohya's scripts count them: {folder: {tag: count}}."""
    try:
        folders = json.loads(text) if len(text) < 10_000_000 else {}
    except (ValueError, RecursionError):
        return ()
    counts: Counter[str] = Counter()
    for tags in folders.values() if isinstance(folders, dict) else ():
        for tag, count in tags.items() if isinstance(tags, dict) else ():
            counts[tag] += count if type(count) is int else 0
    return tuple(short(tag.strip()) for tag, _ in counts.most_common(FEW) if tag.strip())


def short(text: str) -> str:
    """A stranger's text, printable and cut to part of a line."""
    return printable(text.strip(), LONGEST)
