"""`customize teach FOLDER WHAT`: looks at photos, plans a run, says what it will do, and trains."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from customize.cli import main as cli
from customize.cli.flags import aliases, diffusers_flags
from customize.cli.flags.arguments import arguments, known
from customize.cli.front import questions, teach_arguments
from customize.cli.front.teach_arguments import Options
from customize.errors import InputError, Problem, ResourceError
from customize.next_command import options as options_of
from customize.next_command import quoted
from customize.printable import printable
from customize.settings.suggestions import nearest
from customize.settings.training import TrainingSettings
from customize.storage.atomic import write_text
from customize.storage.resources import resources
from customize.teach import Plan, Request, bases, plan, run_name
from customize.teach.calling_prompt import Calling
from customize.teach.planning import MODELS, command_of
from customize.teach.recipe import Decision, article
from customize.training import preflight
from customize.units import about, count

INSTEAD = {"max_train_steps": "num_train_epochs", "validation_steps": "validation_epochs"}
"""Decisions that give way to another setting of the user."""


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    if not argv or {"--help", "-h"} & set(argv):
        print(teach_arguments.USAGE, end="")
        return 0 if argv else 2
    request, options = teach_arguments.read(argv)
    command = command_of(request)
    if (file := earlier(request, command)) and not options.dry_run:
        say(f"{file} is of an earlier call of this command: it goes on")
        return train(file, request)
    strangers = unknown_flags(request)
    if not strangers and request.base is None and questions.can_ask() and bases.chosen() is None:
        request = replace(request, base=questions.choose_base())
    if file := run_name.passed_over(request, command):
        say(f"note      {file} is of this command, but was changed or written elsewhere: this is a run of its own, and")
        say(f"          customize {request.trained_by} {options_of(str(file))} goes on with that one")
    made = planned(request, strangers)
    settings, made = with_further(made, options)
    _, source, examples = preflight.check(settings)
    tell(made, options)
    if options.dry_run or (questions.can_ask() and not options.yes and not made.base.is_download):
        made, settings = measured(made, settings, source, examples)
    say(*made.lines)
    if options.dry_run:
        say("dry_run: nothing was written")
        return 0
    if not agreed(made, options):
        say("nothing was done")
        return 2
    file = run_name.toml_of(Path(made.values["output_dir"]))
    with resources("close other programs", "make room, and repeat the command"):
        write_text(file, made.toml())
    say(f"written to {file}, each setting with its reason", "")
    return train(file, request)


def planned(request: Request, strangers: list[Problem]) -> Plan:
    """The plan. Raises one InputError with its problems and those of unknown flags."""
    try:
        made = plan(request)
    except InputError as error:
        raise InputError([*strangers, *error.problems]) from None
    if strangers:
        raise InputError(strangers)
    return made


def unknown_flags(request: Request) -> list[Problem]:
    """The problems of flags that are neither of this command nor settings of the training command."""
    model = MODELS[request.trained_by]
    names, own = known(model), [*teach_arguments.SWITCHES, *teach_arguments.VALUES]
    _, given, _ = arguments(model, request.further)
    strangers = [name for name in given if name not in names and name.removeprefix("no_") not in names]
    meant = {name: nearest(name, own, 0.7) or nearest(name, names, 0.7) for name in strangers}
    remedies = {name: f"did you mean --{near}?" if near else "customize teach --help lists all" for name, near in meant.items()}
    return [Problem(f"--{name}", "is not a setting", remedies[name]) for name in strangers]


def earlier(request: Request, command: str) -> Path | None:
    """The settings that an earlier call of the same command wrote, if nobody changed them."""
    try:
        file = run_name.toml_of(run_name.place(request, command))
    except InputError:  # reported with everything else
        return None
    return file if run_name.command_in(file) == command else None


def with_further(made: Plan, options: Options) -> tuple[TrainingSettings, Plan]:
    """The settings of a plan, and the plan, with the settings that the user adds. Raises InputError with every problem found."""
    model = MODELS[made.command]
    _, given, _ = arguments(model, made.request.further)
    asked, _, _ = diffusers_flags.translate(model, aliases.ours(model, given).values)
    names = {*asked}
    values = {name: value for name, value in made.values.items() if name not in names}
    wanted, _ = model.examine(values | asked)
    values = {name: value for name, value in values.items() if wanted.has_effect(name) and INSTEAD.get(name) not in names}
    words = [f"--{name}={text(each)}" for name, value in values.items() for each in as_list(value)]
    settings, notes = cli.read(model, [*words, *made.request.further], preflight.check)
    say(*(f"note: {note}" for note in notes))
    for name in names & settings.values().keys():
        value = settings.values()[name]
        values[name] = list(value) if isinstance(value, tuple) else value
    kept = [each for each in made.decisions if each.name in values and each.name not in names]
    own = [Decision(name, values[name], "as you say") for name in sorted(names & values.keys())]
    called = Calling.of_settings(values)
    word = called.words[0] if called and called.words else made.word
    return settings, replace(made, values=values, decisions=(*kept, *own), word=word)


def as_list(value: object) -> list[object]:
    """A value, or the values of a list."""
    return value if isinstance(value, list) else [value]


def text(value: object) -> str:
    """A value as the command line has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def tell(made: Plan, options: Options) -> None:
    """Say which files are left out, what is odd about the others, and with --explain why every setting is what it is."""
    for each in made.photos.left_out:
        say(f"left out  {each.name}: {each.reason}" + (f"\n          -> {each.remedy}" if each.remedy else ""))
    say(*(f"note      {note}" for note in made.photos.notes))
    if options.explain:
        say(*(f"because   {reason}" for reason in made.reasons))


def measured(made: Plan, settings, source, examples) -> tuple[Plan, TrainingSettings]:
    """The plan with the time of a run, measured by two steps that are discarded. A run that does not fit is tried again with
    gradient checkpointing. Raises ResourceError if it does not fit then, either."""
    from customize import events
    from customize.training import dry_run

    say("measuring two steps ...")
    folder = Path(made.values["output_dir"])
    try:
        with events.sent_to():
            found = dry_run.make(settings, folder, source, examples)
        if found and found.short:
            raise ResourceError("\n".join(found.short))
    except ResourceError:
        if settings.gradient_checkpointing or made.base.name == "demo":
            raise
        saves = Decision("gradient_checkpointing", True, "two steps without it, taken as a trial, did not fit")
        others = tuple(each for each in made.decisions if each.name != saves.name)
        made = replace(made, values={**made.values, saves.name: True}, decisions=(*others, saves))
        return measured(made, settings.model_copy(update={saves.name: True}), source, examples)
    assert found
    time = f"{about(found.steps * found.seconds)} for all steps, measured by two of them; pictures come on top"
    return replace(made, time=time), settings


def agreed(made: Plan, options: Options) -> bool:
    """Whether the user agrees to what must be said before. Raises InputError where that needs --yes."""
    if options.yes:
        return True
    needed = [f"{count(len(made.photos.left_out), 'file')} would be left out"] * bool(made.photos.left_out)
    needed += [f"{made.base.name} would be downloaded ({made.base.why})"] * made.base.is_download
    if not questions.can_ask():
        if needed:
            raise InputError(Problem("--yes", f"is needed: {'; '.join(needed)}", "add --yes if that is what you want"))
        return True
    return questions.yes("; ".join([*needed, "start?"]))


def train(file: Path, request: Request) -> int:
    """Train by the same command as a user would, and say how to use the result or to go on."""
    status = cli.main(MODELS[request.trained_by], preflight.run, [str(file)], preflight.check)
    folder = file.with_suffix("")
    if status == 0:
        example = "a house" if request.kind == "style" else f"{article(request.noun)} {request.noun} on the beach"
        say(f"{'use':<10}customize use {quoted(str(folder))} {quoted(example)}, which puts the word in by itself")
    elif status == 2:  # the folder has a run that cannot go on, or goes on elsewhere
        new = replace(request, output_dir=str(run_name.another(folder)))
        say(f"another run, of the photos as they are now: {command_of(new)}")
    elif status > 128:
        say(f"the same command goes on: {command_of(request)}")
    return status


def say(*lines: str) -> None:
    """Print lines, each without control characters."""
    for line in lines:
        print("\n".join(map(printable, line.split("\n"))), flush=True)
