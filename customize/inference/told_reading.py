"""What the readers of pictures fill: the settings and files that were found, and notes of what cannot be used."""

import re
from dataclasses import dataclass, field
from typing import Any

from customize.config import InferenceSettings
from customize.findings import printable
from customize.inference.records import SAMPLERS

CLASSES = {name.casefold(): scheduler for scheduler, name in SAMPLERS.items()} | {
    "ddpm": "DDPMScheduler", "deis": "DEISMultistepScheduler", "pndm": "PNDMScheduler", "dpm++2m": "DPMSolverMultistepScheduler",
    "dpm 2": "KDPM2DiscreteScheduler", "dpm 2 a": "KDPM2AncestralDiscreteScheduler", "kdpm2": "KDPM2DiscreteScheduler",
    "kdpm2 a": "KDPM2AncestralDiscreteScheduler", "uni pc": "UniPCMultistepScheduler", "uni pc bh2": "UniPCMultistepScheduler",
}  # fmt: skip
CLASSES |= {scheduler.casefold(): scheduler for scheduler in CLASSES.values()}
"""Samplers by name, in lower case and with blanks for _, DPM++ for dpmpp, a for ancestral; and the classes of diffusers."""
NEAREST = {
    "dpm++ 2m sde": "DPMSolverMultistepScheduler", "dpm++ sde": "DPMSolverSinglestepScheduler",
    "dpm++ 2s a": "DPMSolverSinglestepScheduler",
}  # fmt: skip
"""Samplers that are not to be had here, and those of the same family that add no noise."""
WITH_KARRAS = {
    "DEISMultistepScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "EulerDiscreteScheduler",
    "HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler", "LMSDiscreteScheduler",
    "UniPCMultistepScheduler",
}  # fmt: skip
OWN_SPACING = ("", "automatic", "default", "normal", "uniform")
SPACINGS = ("karras", "exponential", "polyexponential")
"""What may end the name of a sampler: how it spaces noise levels."""


class Unreadable(Exception):
    """What is wrong with the picture, a text each."""


@dataclass(frozen=True)
class ToldFile:
    """Learned weights as a picture names them: by path (ours) or name; scale (text: a schedule) and hash where it tells them."""

    name: str
    scale: float | str | None = None
    hash: str | None = None


@dataclass
class Reading:
    """What has been found so far."""

    settings: dict[str, Any] = field(default_factory=dict)
    weights: list[ToldFile] = field(default_factory=list)
    base_model: str | None = None
    place_in_batch: tuple[int, int] = (0, 1)
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.notes.append(printable(text))

    def unread(self, name: str, value: object, why: str = "") -> None:
        self.note(f"{short(name)}: {short(value)} (not read{why and ': '}{why})")

    def offer(self, setting: str, value: Any, name: str) -> None:
        """Keeps a value that infer.py takes; of another, a note by the name that it has in the picture."""
        if "prompt" in setting:  # text encoders read line breaks as blanks
            value = re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", value).strip()
        settings, problems = InferenceSettings.examine({"prompt": "x", setting: value})
        if problems:
            self.note(f"{name}: {problems[0].what} (not read)")
        else:
            self.settings[setting] = getattr(settings, setting)

    def file(self, said: str, name: str, scale: float | None, hash: str | None) -> None:
        """Keeps learned weights of which another program knows where they are."""
        self.weights.append(ToldFile(name, scale, hash))
        given = "" if scale is None else f":{short(scale)}"
        self.note(f"{short(said)} (not read: a name, not a path; give the file as --weights PATH{given})")

    def model(self, name: str, hash: str = "") -> None:
        """Keeps the name of the base model."""
        self.base_model = name or None
        known = f" (hash {short(hash)})" if hash else ""
        self.note(f"base model: {short(name)}{known}, a name, not a path; say --pretrained_model_name_or_path")

    def sampler(self, said: str, spacing: str) -> None:
        """Keeps a sampler and how it spaces noise levels, by the names that A1111 and ComfyUI have for them."""
        words = said.casefold().replace("_", " ").replace("dpmpp", "dpm++").removesuffix(" gpu").split()
        if words and words[-1] in SPACINGS:
            spacing = words.pop()
        name = " ".join("a" if word == "ancestral" else word for word in words)
        scheduler = CLASSES.get(name) or NEAREST.get(name)
        if not scheduler:
            return self.unread("Sampler", f"{said} {spacing}".strip(), "there is no such sampler here")
        if name in NEAREST:
            self.note(f"Sampler: {short(said)} is not to be had here; {scheduler} is like it, but adds no noise")
        self.settings["scheduler"] = scheduler
        if spacing.casefold() in OWN_SPACING:
            self.settings["use_karras_sigmas"] = False
        elif spacing.casefold() == "karras" and scheduler in WITH_KARRAS:
            self.settings["use_karras_sigmas"] = True
        else:
            self.unread("Schedule type", spacing, f"{scheduler} has no such noise levels here")


def short(value: object) -> str:
    """A value from a picture, printable and on part of a line."""
    text = printable(str(value)[:100]) if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."
