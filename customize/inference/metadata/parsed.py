"""The result of parsing an image's metadata: settings and files, and notes on values that cannot be used."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from customize.printable import printable
from customize.settings.field import table
from customize.settings.inference import InferenceSettings
from customize.settings.sampler_names import compact, nearest, parts, sampler, spacings, unsupported

PLAIN_SPACINGS = ("", "Automatic", "Normal", "Simple", "SGM Uniform", "DDIM Uniform")
"""Schedule types that stand for the sampler's own spacing of noise levels."""


class Unreadable(Exception):
    """The image has no metadata that can be read. args: one message per problem."""


@dataclass(frozen=True)
class NamedWeights:
    """Learned weights named in metadata: by path (ours) or name, with scale (a schedule as text) and hash if they are given."""

    name: str
    scale: float | str | None = None
    hash: str | None = None


@dataclass
class ParsedInfo:
    """Values found so far in the metadata of `image`. places: paths on this machine by their names in our metadata, see
    `sharing`."""

    image: Path
    settings: dict[str, Any] = field(default_factory=dict)
    weights: list[NamedWeights] = field(default_factory=list)
    base_model: str | None = None
    place_in_batch: tuple[int, int] = (0, 1)
    notes: list[str] = field(default_factory=list)
    places: Mapping[str, str] = field(default_factory=dict)

    def note(self, text: str) -> None:
        self.notes.append(printable(text))

    def unread(self, name: str, value: object, why: str = "") -> None:
        self.note(f"{short(name)}: {short(value)} (not read{why and ': '}{why})")

    def offer(self, setting: str, value: Any, name: str) -> None:
        """Stores a value that is valid for the setting; for any other, adds a note. name: that of the value in the metadata."""
        if "prompt" in setting:  # text encoders read line breaks as spaces
            value = re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", str(value)).strip()
        if setting == "seed" and str(value).strip().startswith("-"):
            return self.note(f"{name}: {short(value)} means a random seed (not read)")
        needed = (table(InferenceSettings)[setting].only_with or ("",))[0]
        with_it = {needed: self.settings[needed]} if needed in self.settings else {}
        value = [value] if setting == "prompt" else value  # the text "none" alone would mean no prompt
        settings, problems = InferenceSettings.examine({"prompt": "x", **with_it, setting: value})
        if problems:
            self.note(f"{name}: {problems[0].what} (not read)")
        else:
            self.settings[setting] = getattr(settings, setting)

    def clip_skip(self, count: int, name: str) -> None:
        """Stores the number of final text encoder layers to skip."""
        if count:
            self.offer("clip_skip", count, name)

    def file(self, shown: str, name: str, scale: float | None, hash: str | None) -> None:
        """Stores learned weights that another program refers to by name."""
        self.weights.append(NamedWeights(name, scale, hash))
        given = "" if scale is None else f":{short(scale)}"
        self.note(f"{short(shown)} (not read: only a name; give the file as --weights PATH{given})")

    def model(self, name: str, hash: str = "") -> None:
        """Stores the name of the base model."""
        self.base_model = name or None
        known = f" (hash {short(hash)})" if hash else ""
        self.note(f"base model: {short(name)}{known}, only a name; give --pretrained_model_name_or_path")

    def sampler(self, written: str, spacing: str) -> None:
        """Stores a sampler and its spacing of noise levels, given by their names in other programs."""
        found = parts(written)
        if not found and (found := nearest(written)):
            self.note(f"Sampler: {short(written)} is not available; {found[0]} is the nearest")
        if not found:
            return self.unread("Sampler", f"{written} {spacing}".strip(), "no such sampler is available")
        name, spaced = found[0], found[1] or spacings().get(compact(spacing), "")
        chosen = sampler(name, spaced)
        if spacing and not spaced or unsupported(chosen):
            self.unread("Schedule type", spacing or spaced, f"{chosen.scheduler} does not support it")
            chosen = sampler(name)
        elif chosen.options.get("use_karras_sigmas"):
            self.settings["use_karras_sigmas"], chosen = True, sampler(name)
        elif chosen.options.keys() == {"timestep_spacing"}:
            self.settings["timestep_spacing"], chosen = chosen.options["timestep_spacing"], sampler(name)
        if "use_karras_sigmas" not in self.settings and spaced in PLAIN_SPACINGS:
            self.settings["use_karras_sigmas"] = False
        self.settings["scheduler"] = chosen.name if chosen.options or chosen.align_your_steps else chosen.scheduler


def short(value: object) -> str:
    """A value from metadata as printable text of at most 80 characters."""
    text = printable(str(value)[:100]) if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."
