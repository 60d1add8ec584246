"""Metadata of learned weights in the keys of other programs: `modelspec.*` and kohya's `ss_*`, written and read.

The first is Stability AI's Model Metadata Standard 1.0.1 (github.com/Stability-AI/ModelSpec).
"""

import json
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from customize.printable import printable

if TYPE_CHECKING:
    from customize.families.base import Family

BASES = {
    "sd_v1": "Stable Diffusion 1.x", "sd_1.5": "Stable Diffusion 1.x", "stable-diffusion-v1": "Stable Diffusion 1.x",
    "sd_v2": "Stable Diffusion 2.x", "stable-diffusion-v2": "Stable Diffusion 2.x", "sdxl": "SDXL",
    "stable-diffusion-xl": "SDXL", "sd3": "Stable Diffusion 3", "stable-diffusion-3": "Stable Diffusion 3", "flux": "FLUX",
}  # fmt: skip
"""Base models by the start of their names in files of other programs."""
LONGEST = 80
FEW = 5


def entries(metadata: Mapping[str, str], family: "Family | None", kind: str) -> dict[str, str]:
    """The metadata of a result for other programs.

    metadata: of `model_card.metadata`; kind: an adapter, such as "lora", or "textual-inversion", or "" for a
    complete model.
    """
    facts = json.loads(metadata.get("customize", "{}"))
    words = ", ".join(map(str, facts.get("trigger_words", [])))
    own = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.title": words or kind or "model",
        "modelspec.implementation": "diffusers",
    }
    own |= {"modelspec.trigger_phrase": words} if words else {}
    base = dict(family.model_spec) if family else {}
    if kind and "modelspec.architecture" in base:
        base["modelspec.architecture"] += f"/{kind}"
    return own | base


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
