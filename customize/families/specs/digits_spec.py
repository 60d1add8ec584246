"""Small class-conditional models of handwritten digits in pixel space, before torch."""

import re
from collections.abc import Sequence
from pathlib import Path

from customize.diffusion.predictions import FLOW_PREDICTION
from customize.errors import InputError, Problem
from customize.families.files.configurations import SCHEDULER, Check, flag, one_of, scheduler_faults, whole
from customize.families.files.folder_check import (
    INDEX,
    SCHEDULER_FILE,
    SET_RIGHT,
    configuration_problems,
    read_configuration,
    weight_files,
    weights_problems,
)
from customize.families.specs.family_spec import SETTING, FamilySpec, Source, Start
from customize.families.specs.network_names import NetworkNames
from customize.printable import printable
from customize.storage.json_files import read_object

SIDE = 28
"""Height and width of the images in pixels."""
FLOW_SCHEDULER = "FlowMatchEulerDiscreteScheduler"
SCHEDULERS = ("DDPMScheduler", FLOW_SCHEDULER)
NETWORK: dict[str, Check] = {
    "channels": lambda value: whole(8, 1024)(value) and value % 8 == 0,
    "num_classes": one_of(0, 10),
    "takes_time": flag,
    "in_channels": one_of(1),
}
"""The valid values in the configuration of the network."""
WORDS = "zero one two three four five six seven eight nine".split()
DIGIT = re.compile(rf"\b(?:[0-9]|{'|'.join(WORDS)})\b", re.IGNORECASE)


def digits_in(text: str) -> set[int]:
    """The digits that a text names, as in "7", "a seven" or "the digit 7"."""
    found = {word.casefold() for word in DIGIT.findall(text)}
    return {WORDS.index(word) if word in WORDS else int(word) for word in found}


class DigitsSpec(FamilySpec):
    """Folders with `unet` (`DigitUNet`) and `scheduler`, whose model_index.json names `DigitsPipeline`."""

    name, title = "digits", "a model of digits"
    load = "customize.families.digits.digit_model:load"
    networks = {"unet": NetworkNames(("unet.",), ("lora_unet_",))}
    pipeline = "DigitsPipeline"
    pipeline_files = (INDEX, "unet", "scheduler")

    def matches(self, path: Path) -> bool:
        return path.is_dir() and read_configuration(path / INDEX, []).get("_class_name") == self.pipeline

    def check(self, source: Source) -> Source:
        folder = source.folder
        assert folder, "a model of digits is a folder"
        problems, _ = configuration_problems(folder / "unet/config.json", NETWORK)
        problems += weights_problems(folder / "unet", source.variant)[0]
        found, config = configuration_problems(folder / SCHEDULER_FILE, {**SCHEDULER, "_class_name": one_of(*SCHEDULERS)})
        problems += found or [Problem(printable(folder / SCHEDULER_FILE), fault, SET_RIGHT) for fault in scheduler_faults(config)]
        if problems:
            raise InputError(problems)
        return source

    def files(self, source: Source) -> Sequence[Path]:
        if not (folder := source.folder):
            return []
        return [
            folder / INDEX,
            folder / SCHEDULER_FILE,
            folder / "unet/config.json",
            *weight_files(folder / "unet", source.variant),
        ]

    def resolution(self, source: Source) -> int:
        return SIDE

    def prediction_type(self, source: Source) -> str | None:
        config = read_object(source.folder / SCHEDULER_FILE) if source.folder else (source.untrained or {}).get("scheduler", {})
        return FLOW_PREDICTION if config.get("_class_name") == FLOW_SCHEDULER else config.get("prediction_type", "epsilon")

    def guidance_scale(self, source: Source, start: Start = "noise") -> float:
        return 5.0

    def prompt_problem(self, text: str) -> Problem | None:
        """A problem for a text that is not empty and does not name one digit."""
        digits = digits_in(text)
        if len(digits) == 1 or not text.strip():
            return None
        what = f"names {'several digits' if digits else 'no digit'}; this model draws one digit"
        return Problem(printable(f"prompt {text!r}"), what, "give one of 0 to 9, or zero to nine")

    def not_trainable(self, source: Source) -> Problem:
        what = f"{printable(source.name)} is {self.title}: it reads a class, and no text that could be learned"
        return Problem(SETTING, what, "train such a model from scratch with customize train-digits")


DIGITS = DigitsSpec()
