"""What becomes of the settings of another trainer: each is taken, needless here, or cannot be taken, with what to do instead.

Names are translated by the tables of `cli/flags`; a reader (`kohya.py`, ...) only undoes what its program means differently.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from customize.cli.flags import aliases, diffusers_flags
from customize.cli.flags.arguments import known
from customize.errors import InputError, Problem
from customize.settings.common import Settings
from customize.settings.field import table, written
from customize.settings.rules.rule import implied

Verdict = Literal["taken", "default", "here", "lost"]


@dataclass(frozen=True)
class Line:
    """What becomes of one setting. default: it was not given, but the other program's default differs from ours."""

    name: str
    verdict: Verdict
    words: str


@dataclass
class Reading:
    """A configuration of another program.

    model: the settings of the method that it is for; values: by the names of `cli/flags` or our own; defaults: likewise, what
    that program does where nothing is given; written: name -> as the file has it, where the reader changed the value; concepts:
    our tables of several concepts, each with its name in the file; lines: of settings that the reader could not take; strange:
    names that nothing is known about.
    """

    program: str
    model: type[Settings]
    values: dict[str, Any]
    defaults: dict[str, Any] = field(default_factory=dict)
    written: dict[str, str] = field(default_factory=dict)
    concepts: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)

    def lose(self, name: str, what: str, remedy: str) -> None:
        """Note a setting that cannot be taken."""
        self.lines.append(Line(name, "lost", f"{what} -> {remedy}"))


@dataclass
class Translation:
    """Our settings, and what became of theirs."""

    values: dict[str, Any] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)


def translate(reading: Reading, given: Mapping[str, Any]) -> tuple[Settings, Translation]:
    """Our settings. given: those of the command line, which win over the file. Raises InputError for what is still missing."""
    found = Translation(lines=[*reading.lines], strange=[*reading.strange])
    for name, value in reading.values.items():
        add(found, reading.model, name, value, "taken", reading.written.get(name))
    for name, value in reading.defaults.items():
        add(found, reading.model, name, value, "default")
    if found.values.get("masked_loss") and "adapter" in table(reading.model):  # nothing holds what is outside there
        add(found, reading.model, "masked_prior_preservation_weight", 0.0, "default")
    concepts(found, reading, given)
    found.values |= given
    settings, problems = reading.model.examine(completed(reading.model, found.values))
    while refused := [each for each in problems if each.where in found.values and each.where not in given]:
        for problem in refused:
            if problem.where in found.values:
                value = found.values.pop(problem.where)
                found.lines = [line for line in found.lines if not line.words.startswith(f"{problem.where} = ")]
                found.lines.append(Line(f"{problem.where} = {written(value)}", "lost", f"{problem.what} -> {problem.remedy}"))
        settings, problems = reading.model.examine(completed(reading.model, found.values))
    if problems:
        raise InputError([with_flag(reading.model, each) for each in problems])
    chosen = completed(reading.model, found.values)
    found.values = {name: value for name, value in settings.values().items() if name in chosen}
    return settings, found


def concepts(found: Translation, reading: Reading, given: Mapping[str, Any]) -> None:
    """The tables of several concepts; the first one alone where the command line gives the folder or the prompt of one."""
    of_one = sorted({"instance_prompt", "instance_data_dir"} & given.keys())
    for place, (name, own) in enumerate(reading.concepts):
        if of_one and place:
            found.lines.append(Line(name, "lost", f"--{of_one[0]} is given -> leave it out to teach every concept"))
            continue
        words = ", ".join(f"{setting} = {written(value)}" for setting, value in own.items())
        found.lines.append(Line(name, "taken", words if of_one else f"[[concept]] {words}"))
        found.values |= own if of_one else {"concept": [*found.values.get("concept", ()), own]}


def completed(model: type[Settings], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with the switches that they need."""
    return {**values, **implied(table(model), values)[0]}


def with_flag(model: type[Settings], problem: Problem) -> Problem:
    """The problem of a setting that the file lacks, with the flag that gives it."""
    if not problem.what.startswith("is missing") or problem.where not in table(model):
        return problem
    remedy = f"add --{problem.where} VALUE to this command ({table(model)[problem.where].description})"
    return Problem(problem.where, problem.what, remedy)


def add(found: Translation, model: type[Settings], name: str, value: Any, verdict: Verdict, said: str | None = None) -> None:
    """Translate one setting. said: as the file has it."""
    if name not in known(model):
        found.strange.append(name)
        return
    ours = aliases.ours(model, {name: value})
    translated, notes, problems = diffusers_flags.translate(model, ours.values)
    said = said or (f"{name} = {written(value)}" if value is not True else name)
    for setting, meant in translated.items():
        if setting not in table(model):
            found.strange.append(name)
        elif setting == "adapter" and setting in found.values and len(translated) > 1:
            continue  # a rank means a LoRA only where nothing else is said
        elif setting in found.values and verdict == "taken" and found.values[setting] != meant:
            found.lines.append(
                Line(said, "lost", f"{setting} = {written(found.values[setting])} is given, too -> keep one of them")
            )
        elif setting not in found.values:
            found.values[setting] = meant
            found.lines.append(Line(said, verdict, f"{setting} = {written(meant)}"))
    for problem in (*ours.problems, *problems):
        found.lines.append(Line(said, "lost", f"{problem.what} -> {problem.remedy}"))
    if not translated and not ours.problems and not problems and value not in (False, None, (), []):
        words = (*ours.notes, *notes)
        found.lines.append(
            Line(said, "here", words[0].partition("has no effect: ")[2] or words[0] if words else "it is the default")
        )
