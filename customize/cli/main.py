"""From the command line to a run and its exit status.

This module does not import torch: the function that runs the job does, once the settings are valid.
"""

import errno
import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from customize import __version__, events, library_logs
from customize.cli import problem_report, streams
from customize.cli.flags import aliases, diffusers_flags, other_command, pasted_text, settings_from_files
from customize.cli.flags.arguments import arguments, plain
from customize.cli.flags.settings_by_command import MODELS
from customize.cli.terminal import Terminal
from customize.errors import InputError, Interrupted, NumericsError, Problem, ResourceError
from customize.jobs.progress import ProgressFile
from customize.next_command import called
from customize.printable import printable
from customize.settings.common import Settings
from customize.settings.field import Setting, table
from customize.settings.files import shipped_configs, toml_file
from customize.settings.frozen_model import SECTIONS, by_section
from customize.settings.rules.rule import implied as implied_by
from customize.storage import out_of_memory, ownership
from customize.storage.disk import BROKEN, DENIED, FULL, WriteError

Function = Callable[[Any], Any]
"""Called with the settings; imports what it needs when called."""

USAGE = "%(prog)s [CONFIG.toml] [--setting value ...]"
EPILOG = """
CONFIG.toml uses the same names (its tables only group them); flags override the file. Dashes and underscores are
equivalent, and so are --a=b and --a b. Flags of diffusers' training scripts are accepted too, as are the names that
kohya's sd-scripts, OneTrainer, AUTOMATIC1111, ComfyUI and others use for the same settings. Exit status: 0 success,
2 invalid input, 3 out of disk space or memory, 4 NaN or infinity, 128 + N stopped by signal N, 1 a bug."""


def main(model: type[Settings], run: Function, argv: Sequence[str] | None = None, check: Function | None = None) -> int:
    """Read the settings of `model` from the command line and call `run` with them; return the exit status.

    check: checks the files that the settings name (images, folders) and raises InputError. It is only called if
    settings are invalid, so that one report has all problems; `run` does its own checks.
    """
    argv = sys.argv[1:] if argv is None else argv
    for name in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        os.environ.setdefault(name, "error")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # on a CPU it warns about unused features

    def work() -> int:
        if {"--help", "-h", "-help", "/?", "-?"} & set(argv) or list(argv) == ["help"]:
            print(help_text(model), end="")
            return 0
        if "--version" in argv:
            print(f"customize {__version__}")
            return 0
        refuse_removed_folder()
        settings, notes = read(model, argv, check)
        for note in notes:
            _say(f"note: {note}")
        run(settings)
        return 0

    return outcome(called(model.command), work)


def outcome(command: str, work: Callable[[], int]) -> int:
    """The exit status of a command. work: runs it and returns its status; its exceptions are reported."""
    library_logs.quiet()
    with streams.forgiving():
        try:
            is_first = os.environ.get("LOCAL_RANK", "0") == "0"  # of the processes of `accelerate launch` on this machine
            with Terminal() as terminal, events.sent_to(*[terminal, ProgressFile()] * is_first):
                return work()
        except InputError as error:
            if out_of_memory.caused(error):  # a reader mistook it for a problem of the file
                return unforeseen(command, error)
            _say(problem_report.headline(command, error.problems), *problem_report.lines(error.problems))
            return 2
        except ResourceError as error:
            _say(*f"{command}: {error}".splitlines())
            return 3
        except NumericsError as error:
            _say(*f"{command}: {error}".splitlines())
            return 4
        except Interrupted as error:
            _say(*str(error).splitlines())
            return 128 + error.signal
        except KeyboardInterrupt:
            _say("stopped")
            return 130
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
                _say(f"{command}: {printable(error.filename, 80)} is longer than names can be", "    -> check the path")
                return 2
            return unforeseen(command, error)


def unforeseen(command: str, error: Exception) -> int:
    """The exit status of an unexpected exception: out of a resource, or a bug."""
    if out_of_memory.caused(error):
        _say(f"{command}: out of memory", f"    -> {out_of_memory.REMEDY}")
        return 3
    if isinstance(error, OSError) and error.errno in FULL | BROKEN | DENIED:
        remedy = "free some space, or name a path on another disk" if error.errno in FULL else "check its permissions"
        what = error.strerror if isinstance(error, WriteError) else f"{error.filename or 'a file'}: {error.strerror}"
        _say(f"{command}: {what}", f"    -> {remedy}, and try again")
        return 3
    _say(*"".join(traceback.format_exception(error)).splitlines())
    _say("This is a bug in customize. Please report it with the lines above.")
    return 1


def refuse_removed_folder() -> None:
    """Raise InputError if the current folder does not exist."""
    try:
        os.getcwd()
    except OSError as error:
        what = f"was removed or cannot be read ({error.strerror})"
        raise InputError(Problem("current folder", what, "change to another folder: cd")) from error


def read(model: type[Settings], argv: Sequence[str], check: Function | None = None) -> tuple[Settings, list[str]]:
    """The settings given by a command line, and notes for the user. Raises InputError with all problems."""
    argv, notes = plain(model, argv)
    config, flags, problems = arguments(model, argv)
    from_file: dict[str, Any] = {}
    places: dict[str, str] = {}
    unread = False
    ownership.PROTECTED.clear()
    if config is not None:
        if not os.path.lexists(config) and (included := shipped_configs.config_path(config)):
            notes.append(f"{config} is the included configuration {included}")
            config = str(included)
        ownership.PROTECTED.add(os.path.realpath(config))
        try:
            from_file, places = toml_file.read(config)
            if wrong := other_command.other_command(model, config, from_file):
                raise InputError(wrong)
        except InputError as error:
            problems += error.problems
            from_file, unread = {}, True
    problems += diffusers_flags.launch_problems(model)
    values = diffusers_flags.launched(model)
    for given, where in (from_file, places), (flags, {name: f"--{name}" for name in flags}):
        ours = aliases.ours(model, given, "--" if given is flags else "")
        translated, found_notes, found = diffusers_flags.translate(model, ours.values)
        places |= where | {name: where.get(theirs, theirs) for name, theirs in ours.origins.items()}
        for name, value in translated.items():
            values[name], more = (
                pasted_text.value(places.get(name, name), table(model)[name], value) if name in table(model) else (value, [])
            )
            if given is flags and isinstance(values[name], list) and [*map(str.casefold, map(str, values[name]))] == ["none"]:
                values[name] = "none"  # given alone, it unsets even a list in which it could be a value
            notes += more
        notes += ours.notes + found_notes
        problems += [Problem(where.get(each.where, each.where), each.what, each.remedy) for each in ours.problems]
        problems += [Problem(places.get(each.where, each.where), each.what, each.remedy) for each in found]
    notes += _epochs_over_steps(values, from_file, flags)
    implied, more = implied_by(table(model), values)
    values, of_files = settings_from_files.complete(model, values | implied)
    settings, found = model.examine(values, {each.where for each in of_files})
    found = of_files + [aliases.explained(each, model) for each in found]
    found = [each for each in found if not (unread and each.what.startswith("is missing"))]
    problems += [Problem(places.get(each.where, each.where), each.what, each.remedy) for each in found]
    if problems:
        raise InputError(problems + _further(check, settings, {each.where for each in found}))
    return settings, notes + more + settings.notes()


def _epochs_over_steps(values: dict[str, Any], from_file: Mapping[str, Any], flags: Mapping[str, Any]) -> list[str]:
    """Epochs given by a flag take precedence over steps given by the file."""
    typed_names = {aliases.same(model).get(name, name) for model in MODELS for name in flags}
    filed = {aliases.same(model).get(name, name) for model in MODELS for name in from_file}
    notes = []
    for steps, epochs in (("max_train_steps", "num_train_epochs"), ("validation_steps", "validation_epochs")):
        both = values.get(epochs) not in (None, "none") and values.get(steps) not in (None, "none")
        if both and epochs in typed_names and steps in filed and steps not in typed_names:
            notes.append(f"--{epochs} takes precedence over {steps} = {values[steps]} from the file")
            values[steps] = None
    return notes


def _further(check: Function | None, settings: Settings, known: set[str]) -> list[Problem]:
    """The problems that `check` finds in settings whose invalid values were replaced by stand-ins."""
    try:
        if check is not None:
            check(settings)
    except InputError as error:
        return [problem for problem in error.problems if problem.where not in known]
    except Exception:  # it may be caused by a missing setting, which is already reported
        return []
    return []


def help_text(model: type[Settings]) -> str:
    """`--help`: all settings by section, with default, range and choices."""
    import argparse

    parser = argparse.ArgumentParser(
        called(model.command), USAGE, model.__doc__, EPILOG, add_help=False, formatter_class=argparse.HelpFormatter
    )
    for section, lines in by_section(model).items():
        group = parser.add_argument_group(f"[{section}] {SECTIONS[section]}")
        for line in lines:
            words = f"{line.description} ({_facts(line)})".replace("%", "%%")
            if line.type is bool:
                group.add_argument(f"--{line.name}", action=argparse.BooleanOptionalAction, help=words)
            else:
                group.add_argument(f"--{line.name}", nargs="+" if line.many else None, help=words, metavar=_metavar(line))
    return parser.format_help()


def _facts(line: Setting) -> str:
    limits = line.range + (f" {line.unit}" if line.unit else "") if line.type in (int, float) else ""
    default = "required" if line.required else f"default {line.default_text or 'empty'}"
    return "; ".join(filter(None, (limits, default, _condition(line))))


def _condition(line: Setting) -> str:
    """The other setting that this one needs to have an effect."""
    if not line.only_with:
        return ""
    name, values = line.only_with
    choices = [str(value).lower() for value in values if value is not True]
    return f"with --{name}" + (f" {' or '.join(choices)}" if choices else "")


def _metavar(line: Setting) -> str:
    if line.choices:
        return "{" + ",".join(line.choices) + "}"
    return {int: "N", float: "X", str: "TEXT", dict: "TABLE"}[line.type]


def _say(*lines: str) -> None:
    """Print lines to stderr, each on one line and without control characters."""
    for line in lines:
        print(printable(line), file=sys.stderr)
