"""From a request to the settings of a run: every decision with its reason. No torch."""

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from customize.errors import InputError, Problem
from customize.families import Source, locate
from customize.families.specs import spec_of
from customize.machine.hardware import Hardware, hardware
from customize.methods import DreamBoothSettings, TextualInversionSettings
from customize.next_command import options, quoted
from customize.printable import printable
from customize.settings.training import TrainingSettings
from customize.storage.untrusted_files import attempt
from customize.teach import bases, memory, rare_word, recipe, run_name
from customize.teach.asked import Request
from customize.teach.bases import Base
from customize.teach.photo_check import Photos, look
from customize.teach.recipe import Case, Decision
from customize.units import count

MODELS: dict[str, type[TrainingSettings]] = {
    "train_dreambooth": DreamBoothSettings, "train_textual_inversion": TextualInversionSettings,
}  # fmt: skip
NOT_MEASURED = "not measured yet"
WIDTH = 118
"""Of comments."""


@dataclass(frozen=True)
class Plan:
    """A run, and why it is this one.

    command: train_dreambooth or train_textual_inversion; values: its settings by name; decisions: each with its reason; word: by
    which prompts call what is learned; time: of the run in words, as far as it was measured.
    """

    request: Request
    command: str
    values: dict[str, Any]
    decisions: tuple[Decision, ...]
    photos: Photos
    base: Base
    machine: Hardware
    word: str
    time: str = NOT_MEASURED

    @property
    def lines(self) -> tuple[str, str, str]:
        """Three lines for people: what is learned, by which means, and how long that takes."""
        request, values, number = self.request, self.values, len(self.photos.usable)
        what = "in one style" if request.kind == "style" else f"of {recipe.article(request.noun)} {request.noun}"
        first = f'{count(number, "photo")} {what}, which prompts will call "{self.word}"'
        second = f"{self.machine.name}: {self.base.title}, {recipe.in_words(values)}"
        epochs = values.get("num_train_epochs")
        steps = count(epochs, "epoch") if epochs else count(values["max_train_steps"], "step")
        ends = f"at most {steps}, fewer once it has learned" if values.get("stop") == "auto" else steps
        third = f"{ends}; time: {self.time}"
        return printable(first), printable(second), printable(third)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Each decision with its reason, a line each."""
        return tuple(printable(f"{each.name} = {shown(each.value)}: {each.reason}") for each in self.decisions)

    def toml(self) -> str:
        """The settings as TOML, each under its reason, headed by the command that makes them."""
        model = MODELS[self.command]
        text = model(**self.values).to_toml({name: as_declared(value) for name, value in self.values.items()})
        why = {each.name: each.reason for each in self.decisions}
        lines = [f"# The settings of a run, for people and programs: customize {self.command} THIS_FILE trains it, too.", ""]
        for block in text.strip().split("\n\n"):
            head, *settings = block.split("\n")
            lines += [head, *(each for line in settings for each in explained(line, why)), ""] if settings else []
        return run_name.signed(command_of(self.request), "\n".join(lines))


def plan(request: Request, machine: Hardware | None = None) -> Plan:
    """Looks at the photos, finds the base model, and decides. Raises InputError with every problem found."""
    found = list(request.problems())
    photos = attempt(lambda: look(request.folder, request.leave_out), found)
    machine = machine or hardware()
    base = attempt(lambda: base_of(request, machine), found) if not any(each.where == "--base" for each in found) else None
    source = attempt(lambda: source_of(base), found) if base else None
    folder = attempt(lambda: run_name.place(request, command_of(request)), found)
    if source and not found:
        found += rare_word.problems(request, source)
    if found or not (photos and base and source and folder):
        raise InputError(found)
    word, why = (request.word, "as you say") if request.word else rare_word.choose(request, source, photos.captions)
    short = memory.problem(base.kind, machine) if (base.size or bases.SMALL + 1) > bases.SMALL else None
    notes = [f"{base.title} {short.what}: it may not fit"] if short and base.name != "demo" else []
    photos = replace(photos, notes=(*photos.notes, *rare_word.notes(request, source), *notes))
    decisions = recipe.decisions(Case(request, photos, base, machine, word, why), str(folder))
    command = request.trained_by
    values = {each.name: each.value for each in decisions}
    _, problems = MODELS[command].examine(values)
    if problems:
        raise InputError(problems)
    return Plan(request, command, values, tuple(decisions), photos, base, machine, word)


def base_of(request: Request, machine: Hardware) -> Base:
    """The base model that the request names, or the best one on this machine. Raises InputError."""
    if request.base is None:
        configured = next(bases.configured(machine), None)
        if base := configured or bases.chosen(machine):
            return usable(base, bases.VARIABLE if configured else "--base")
        raise InputError(no_base(machine))
    return usable(bases.named(request.base, machine), "--base")


def usable(base: Base, where: str) -> Base:
    """The base model. where: what names it. Raises InputError if it cannot be used."""
    if not base.offered:
        raise InputError(Problem(where, f"{base.title} cannot be used", base.why))
    return base


def no_base(machine: Hardware) -> Problem:
    """The problem of a machine without a base model: what there is to choose from."""
    offers = [f"--base {base.name} ({base.why})" for base in bases.found(machine) if base.offered]
    return Problem("--base", "is not given, and no base model is on this machine", f"add {', or '.join(offers)}")


def source_of(base: Base) -> Source:
    """The located base model. Raises InputError."""
    source = locate(base.name, variant=base.variant)
    if problem := spec_of(source).not_trainable(source):
        raise InputError(problem)
    return source


def command_of(request: Request) -> str:
    """The command line that makes a request."""
    words = (
        {"style": "--style", "person": "--person", "object": ""}[request.kind],
        f"--{request.effort}" * (request.effort != "balanced"),
    )
    named = {"as": request.word, "base": request.base, "leave_out": request.leave_out or None, "output_dir": request.output_dir}
    given = options(**{name: value for name, value in named.items() if value is not None})
    further = " ".join(map(quoted, request.further))
    return " ".join(filter(None, ("customize teach", options(request.folder, request.what), *words, given, further)))


def as_declared(value: Any) -> Any:
    """A value as settings hold it."""
    return tuple(value) if isinstance(value, list) else value


def explained(line: str, why: dict[str, str]) -> Iterator[str]:
    """A line of TOML under the reason of its setting."""
    reason = why.get(re.match(r"\w*", line)[0])  # type: ignore[index]
    yield from textwrap.wrap(printable(reason), WIDTH, initial_indent="# ", subsequent_indent="# ") if reason else ()
    yield line


def shown(value: Any) -> str:
    """A value for people."""
    return (
        ", ".join(map(str, value)) if isinstance(value, list) else str(value).lower() if isinstance(value, bool) else str(value)
    )
