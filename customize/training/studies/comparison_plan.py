"""The runs of a comparison: the settings of one run, carried over to other methods, learning rates and seeds. Without torch."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from customize import adapters
from customize.errors import Problem
from customize.methods import DreamBoothSettings, TextualInversionSettings
from customize.printable import first_few
from customize.settings import derived
from customize.settings.concept import noun_of
from customize.settings.field import table
from customize.settings.training import TrainingSettings
from customize.settings.training_parts.validation_prompts import sample_prompts

WORDS, FULL, PIVOTAL = "textual_inversion", "dreambooth", "pivotal"
OF_ONE_RUN = (
    "output_dir", "overwrite_output_dir", "resume_from_checkpoint", "change_learning_rate", "dry_run", "push_to_hub",
    "hub_model_id", "seed",
)  # fmt: skip
"""Settings that each run of a comparison has its own value of."""
SUBJECT = (
    "placeholder_token", "initializer_token", "num_vectors", "learnable_property", "instance_prompt", "instance_data_dir",
    "train_data_dir", "captions",
)  # fmt: skip
"""Settings that name the subject and its images, which are translated from one method to another."""
RARE = "sks"
"""The trigger word of a subject that was named by a new word."""


def method_names() -> tuple[str, ...]:
    """The methods that can be compared: new words, full training, each adapter, and an adapter with new words."""
    return (WORDS, FULL, *(name for name in adapters.names() if name != adapters.NONE), PIVOTAL)


def method_of(settings: TrainingSettings) -> str:
    """The name of the method of these settings."""
    own = dict(settings)
    if "adapter" not in own:
        return WORDS
    return PIVOTAL if own["placeholder_token"] else FULL if own["adapter"] == adapters.NONE else own["adapter"]


@dataclass(frozen=True)
class PlannedRun:
    """One run. values: the settings that are given for it, with which its ordinary command starts it."""

    method: str
    settings: TrainingSettings
    values: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(str(self.settings.output_dir))

    @property
    def label(self) -> str:
        """Method and learning rate, the same for all seeds."""
        return f"{self.method} {self.settings.learning_rate:g}"


@dataclass
class Comparison:
    """What is compared. given: the settings of `base` that the user gave; rates: learning rates by method, "" for all others;
    seeds: how many runs of each method and rate; folder: for all of them."""

    base: TrainingSettings
    given: Collection[str]
    methods: Sequence[str]
    rates: Mapping[str, Sequence[float]]
    seeds: int
    folder: Path

    def runs(self) -> tuple[list[PlannedRun], list[str], list[Problem]]:
        """The runs, notes on what was left out or made up, and problems."""
        found, notes, problems = [], [], []
        if number := len(self.base.parts) - 1:
            what = f"a comparison is about one concept, and these settings teach {number + 1}"
            return [], [], [Problem("concept", what, "give the folder and the prompt of one of them")]
        for method in dict.fromkeys(self.methods):
            values, left_out, faults = self.fitting(method)
            problems += [Problem(f"{method}: {each.where}", each.what, each.remedy) for each in faults]
            if left_out:
                notes.append(f"{method} is compared without {first_few(left_out)}, which do not fit it")
            if made := [name for name in NAMED if name in values and values[name] != dict(self.base).get(name)]:
                texts = {name: values[name] if isinstance(values[name], str) else " ".join(values[name]) for name in made}
                notes.append(f"{method} is given {', '.join(f'{name} = {text}' for name, text in texts.items())}")
            rates = [] if faults else self.rates_of(method, values)
            found += [self.run(method, values, rate, seed) for rate in rates for seed in range(self.seeds)]
        return found, notes, problems

    def fitting(self, method: str) -> tuple[dict[str, Any], list[str], list[Problem]]:
        """The settings given for the runs of a method, the names of those of the base that do not fit it, and problems of the
        others."""
        values, left_out = self.carried(method)
        is_other = method != method_of(self.base)
        values |= subject_for(method, self.base) if is_other else {}
        model = model_of(method)
        while (faults := model.examine(values)[1]) and (names := {each.where for each in faults} & (values.keys() - FIXED)):
            left_out += sorted(names)
            values = {name: value for name, value in values.items() if name not in names}
        if is_other and not faults and values.get("validation_prompt"):
            values["validation_prompt"] = prompts_for(model(**values), self.base)
        return values, left_out, faults

    def carried(self, method: str) -> tuple[dict[str, Any], list[str]]:
        """The given settings that the method has, apart from those of the subject where it has others, and the names of those
        that it does not have."""
        own, model = method == method_of(self.base), model_of(method)
        apart = {*OF_ONE_RUN, *(() if own else ("learning_rate", "adapter", *SUBJECT))}
        values = {name: value for name, value in dict(self.base).items() if name in self.given and name not in apart}
        values = {name: value for name, value in values.items() if self.base.has_effect(name)}
        return (
            {name: value for name, value in values.items() if name in table(model)},
            [name for name in values if name not in table(model)],
        )

    def rates_of(self, method: str, values: Mapping[str, Any]) -> list[float]:
        """The learning rates of a method: its own, else those of all, else the one that its settings have."""
        return [*(self.rates.get(method) or self.rates.get("") or [model_of(method)(**values).learning_rate])]

    def run(self, method: str, values: Mapping[str, Any], rate: float, seed: int) -> PlannedRun:
        """One run. seed: how many seeds it is after that of the base."""
        folder = self.folder / f"{method}-{rate:g}-seed{self.base.seed + seed}"
        own = {
            "learning_rate": rate,
            "seed": self.base.seed + seed,
            "output_dir": str(folder),
            "resume_from_checkpoint": "latest",
        }
        values = {**values, **own}
        return PlannedRun(method, model_of(method)(**values), values)


NAMED = ("placeholder_token", "initializer_token", "instance_prompt")
"""Settings of the subject that are told where they are made up."""
FIXED = {*SUBJECT, "pretrained_model_name_or_path", "adapter", "dataset_name"}
"""Settings that are not left out where they do not fit."""


def model_of(method: str) -> type[TrainingSettings]:
    """The settings of a method."""
    return TextualInversionSettings if method == WORDS else DreamBoothSettings


def subject_for(method: str, base: TrainingSettings) -> dict[str, Any]:
    """The subject and images of `base` in the settings of another method.

    A new word becomes `RARE` before the noun that it starts from; the rare word of a prompt becomes a new word that starts from
    the noun beside it. Captions in files have the word of the base's method, so other methods describe the images themselves.
    """
    concept, folders = base.concepts[0], base.image_folders
    given = dict(base)
    tokens = given.get("placeholder_token") or (f"<{concept.trigger.strip('<>').replace(' ', '-')}>",)
    starts = given.get("initializer_token") or (concept.class_word or "painting",)
    words = {"placeholder_token": tokens, "initializer_token": starts, "num_vectors": given.get("num_vectors", (1,))}
    words |= {"learnable_property": "style"} if concept.kind == "style" else {}
    if method == WORDS:
        return {**words, "train_data_dir": folders, "captions": "templates"}
    adapter = adapters.NONE if method == FULL else "lora" if method == PIVOTAL else method
    found: dict[str, Any] = {"adapter": adapter}
    found |= {"instance_data_dir": folders[0]} if folders else {}
    if method == PIVOTAL:
        return {**found, **words, "captions": "prompt"}
    if given.get("placeholder_token"):
        prompt = f"a picture in the style of {RARE}" if concept.kind == "style" else f"a photo of {RARE} {starts[0]}"
        return {**found, "instance_prompt": prompt, "captions": "prompt"}
    return {**found, "instance_prompt": given["instance_prompt"], "captions": given["captions"]}


def prompts_for(settings: TrainingSettings, base: TrainingSettings) -> tuple[str, ...]:
    """The prompts of the sample images of `base`, which call the concept as these settings do."""
    own, new = base.concepts[0], settings.concepts[0]
    calls = {own.prompt: new.prompt, noun_of(own.prompt): noun_of(new.prompt), own.trigger: new.trigger}
    any_call = re.compile("|".join(map(re.escape, calls)))
    return tuple(any_call.sub(lambda found: calls[found[0]], text) for text in sample_prompts(base))


def differences(planned: PlannedRun, values: Mapping[str, Any]) -> list[str]:
    """The names of the settings in which a run that is in the folder differs from the planned one. values: of its config.toml."""
    lines = table(type(planned.settings))
    earlier, _ = type(planned.settings).examine(values)
    compared = [name for name, line in lines.items() if line.section != "output" or name in derived.RATES]
    own, other = dict(planned.settings), dict(earlier)
    return [name for name in compared if own[name] != other[name]]
