"""Translates other programs' names of our settings: see `customize.cli.flags.aliases_table`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from customize.cli.flags.aliases_table import BY_VALUE, CONFIG, FLAGS, SAME, SCHEDULE_NAMES, SCHEDULES_APART, VALUES
from customize.cli.flags.diffusers_flags import Flag, translate
from customize.cli.flags.settings_by_command import MODELS
from customize.errors import Problem
from customize.settings.common import Settings
from customize.settings.field import Setting, table, written
from customize.settings.suggestions import NO_SETTING, unknown

__all__ = ["CONFIG", "elsewhere", "explained", "flags", "is_switch", "lines", "ours", "same"]


@dataclass
class Ours:
    """The given values under our names. origins: setting -> the name that was typed for it."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


@cache
def same(model: type[Settings]) -> Mapping[str, str]:
    """Other programs' name -> our setting, for the settings that the model has. A switch of the same name comes first."""
    lines = table(model)
    taken = {*lines, *(name for name, flag in FLAGS if model in flag.commands)}
    return {name: ours for ours, names in SAME.items() if ours in lines for name in names.split() if name not in taken}


def explained(problem: Problem, model: type[Settings]) -> Problem:
    """The problem of an unknown name, with a remedy if another program uses that name; other problems unchanged."""
    name, others = problem.where, same(model)
    if problem.what != NO_SETTING:
        return problem
    if name in others:
        return Problem(name, NO_SETTING, f"did you mean {others[name]}?")
    if found := elsewhere(name, model):
        other, theirs = found
        return Problem(name, f"{NO_SETTING} of {model.command}", f"leave it out: in {other.command} it is {theirs}")
    return unknown(name, {**others, **dict.fromkeys(table(model), "")})


@cache
def flags(model: type[Settings]) -> Mapping[str, Flag]:
    """The switches of other programs that the command of `model` accepts."""
    taken = {**table(model), **same(model)}
    by_value = {name: Flag(commands, str) for name, (commands, _, _) in BY_VALUE.items()}
    return {name: flag for name, flag in (*FLAGS, *by_value.items()) if model in flag.commands and name not in taken}


def lines(model: type[Settings]) -> dict[str, Setting | Flag]:
    """Each name with the setting or flag that tells `arguments` how many values follow."""
    return {**flags(model), **{name: table(model)[ours] for name, ours in same(model).items()}}


def ours(model: type[Settings], given: Mapping[str, Any], sign: str = "") -> Ours:
    """The values under the names of our settings. sign: the prefix of a name in notes, such as --."""
    found = Ours()
    given = _with_schedule(model, given, found)
    names, switches = same(model), flags(model)
    renamed = []
    for name, value in given.items():
        if name in BY_VALUE and name in switches:
            _by_value(name, value, found)
        elif name in switches:
            continue
        elif (setting := names.get(name, name)) in found.values:
            what = f"and {sign}{found.origins[setting]} both set {setting}"
            found.problems.append(Problem(name, what, "keep one of the two"))
        else:
            found.values[setting], found.origins[setting] = _worded(setting, value), name
            renamed += [f"{sign}{name} as {setting}"] * (name in names)
    switched = {name: value for name, value in given.items() if name in switches and name not in BY_VALUE}
    if any(names.get(name) in ("rank", "lora_alpha", "lora_dropout") for name in given) and "adapter" not in given:
        found.values.setdefault("adapter", "lora")
    more, notes, problems = translate(model, switched, switches)
    for setting, value in more.items():
        if found.values.setdefault(setting, value) != value:
            what = f"is given as both {written(found.values[setting])} and {written(value)}"
            found.problems.append(Problem(setting, what, "keep one of the two"))
    for name in switched:
        if (means := switches[name].means) and means[0] in more:
            renamed.append(f"{sign}{name} as {means[0]} = {written(means[1])}")
    found.problems += problems
    found.notes += ([f"read {', '.join(renamed)}"] if renamed else []) + notes
    return found


def _with_schedule(model: type[Settings], given: Mapping[str, Any], found: Ours) -> Mapping[str, Any]:
    """Join the sampler and its noise schedule, which ComfyUI and A1111 give separately: DPM++ 2M, Karras."""
    names = [name for name in given if same(model).get(name) == "scheduler"]
    apart = next((name for name in ("scheduler", *SCHEDULE_NAMES) if str(given.get(name)).casefold() in SCHEDULES_APART), None)
    if "scheduler" not in table(model) or not apart or (not names and apart == "scheduler"):
        return given
    sampler = names[0] if names else "scheduler"
    if sampler not in given:
        return given
    name = f"{given[sampler]} {SCHEDULES_APART[str(given[apart]).casefold()]}".strip()
    found.notes.append(f"read {sampler} and {apart} as scheduler = {name}")
    return {key: value for key, value in given.items() if key not in (sampler, apart)} | {"scheduler": name}


def _by_value(name: str, value: Any, found: Ours) -> None:
    """Add a name whose meaning depends on its value."""
    _, meanings, (what, remedy) = BY_VALUE[name]
    meaning = meanings.get(written(value).casefold())
    if meaning is None:
        found.problems.append(Problem(name, f'"{value}" is not supported: {what}', remedy))
    else:
        found.values |= {setting: meant for setting, meant in meaning.items() if setting not in found.values}
        says = ", ".join(f"{setting} = {written(meant)}" for setting, meant in meaning.items())
        found.notes.append(f"read {name} {value} as {says}" if says else f"{name} {value} has no effect: it is the default")


def is_switch(name: str) -> bool:
    """Whether a name needs no value."""
    return name in BY_VALUE and "true" in BY_VALUE[name][1]


def _worded(setting: str, value: Any) -> Any:
    """A value, translated if another program has a different word for it."""
    return VALUES.get(setting, {}).get(value.casefold(), value) if isinstance(value, str) else value


def elsewhere(name: str, model: type[Settings]) -> tuple[type[Settings], str] | None:
    """Another command that has this setting of other programs, and our name for it."""
    return next(((other, same(other)[name]) for other in MODELS if other is not model and name in same(other)), None)
