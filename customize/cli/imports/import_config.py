"""`customize import-config`: writes a configuration of another trainer as one of ours, and says what becomes of each setting."""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from customize.cli import main as cli
from customize.cli import problem_report
from customize.cli.flags import aliases
from customize.cli.imports import ai_toolkit, kohya, onetrainer
from customize.cli.imports.documents import KINDS, SCRIPTS, document
from customize.cli.imports.translation import Line, Reading, Translation, translate
from customize.errors import InputError, Problem
from customize.next_command import command_line
from customize.printable import first_few, printable
from customize.settings.common import Settings
from customize.storage.untrusted_files import refusing

USAGE = """usage: customize import-config FILE [OUR.toml] [--setting value ...]

Writes the configuration of another trainer as OUR.toml (default: the name of FILE in the current folder), and says what becomes
of each setting. FILE: of kohya's sd-scripts a config_file or dataset_config (TOML), or a script with the command line; of
OneTrainer its JSON; of ai-toolkit its YAML. Settings on the command line win over the file, and give what it lacks, such as
--instance_prompt "a photo of sks dog". Exit status: 0 written, 2 not written.
"""
TITLES = {"taken": "taken", "default": "its defaults, which are not ours", "here": "already so here", "lost": "not taken"}


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    if {"--help", "-h"} & set(argv) or not argv:
        print(USAGE, end="", file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    try:
        names = [word for word in argv[:2] if not word.startswith("-")]
        if argv[0].startswith("-"):
            raise InputError(Problem("customize import-config", "has no file to read", "give the other trainer's file first"))
        source = Path(os.path.expanduser(names[0]))
        target = Path(os.path.expanduser(names[1]) if names[1:] else re.sub(r"[^\w.-]", "_", source.stem) + ".toml")
        check_target(target, source)
        with refusing(source, "give the file as the other trainer wrote it", "cannot be read as settings"):
            found = read(source)
        given = further(found.model, argv[len(names) :])
        settings, translation = translate(found, given)
        text = "\n".join([*head(found, source, settings, target), "", settings.to_toml(translation.values)])
        with open(target, "x", encoding="utf-8") as file:
            file.write(text)
    except InputError as error:
        say(problem_report.headline("customize import-config", error.problems), *problem_report.lines(error.problems))
        return 2
    for line in (*report(found, translation), "", f"written: {target}", f"next: customize check {target}"):
        print(printable(line))
    return 0


def read(source: Path) -> Reading:
    """The configuration in a file. Raises InputError for one that no reader knows."""
    suffix = source.suffix.lower()
    if suffix in SCRIPTS:
        found = kohya.in_script(source)
        known = "a command that starts train_network.py, train_db.py, train_textual_inversion.py or another script of sd-scripts"
    elif suffix in KINDS:
        whole = document(source)
        found = kohya.of_document(whole) or onetrainer.of_document(whole, source) or ai_toolkit.of_document(whole)
        known = "settings of sd-scripts, OneTrainer or ai-toolkit"
    else:
        found, known = None, f"a file that ends in one of {' '.join(KINDS)}"
    if found is None:
        remedy = "give the file that the other trainer was started with"
        raise InputError(Problem(printable(str(source)), f"is not {known}", remedy))
    return found


def check_target(target: Path, source: Path) -> None:
    """Raise InputError where our configuration cannot be written."""
    if os.path.lexists(target):
        remedy = f"give another name: customize import-config {source} OUR.toml"
        raise InputError(Problem(printable(str(target)), "exists already", printable(remedy)))
    if target.suffix.lower() != ".toml" or not target.absolute().parent.is_dir():
        raise InputError(Problem(printable(str(target)), "is not a .toml file in an existing folder", "give one"))


def further(model: type[Settings], argv: Sequence[str]) -> dict[str, Any]:
    """The settings of the command line, by our names. Raises InputError."""
    words, _ = cli.plain(model, argv)
    config, flags, problems = cli.arguments(model, words)
    if config:
        problems = [*problems, Problem(config, "is a second file", "give one configuration to read, and one to write")]
    found = aliases.ours(model, flags, "--")
    if problems := [*problems, *found.problems]:
        raise InputError(problems)
    return found.values


def head(found: Reading, source: Path, settings: Settings, target: Path) -> Iterator[str]:
    """The first lines of our configuration."""
    yield f"# {command_line(settings.command, target.name)}"
    yield f"# Imported from {printable(source.name)} of {found.program}."


def report(found: Reading, translation: Translation) -> Iterator[str]:
    """What became of each setting, a line each."""
    yield f"read as a configuration of {found.program}, for {found.model.command}"
    for verdict, title in TITLES.items():
        lines = [line for line in translation.lines if line.verdict == verdict]
        if lines:
            yield f"{title}:"
            yield from (f"  {printable(words)}" for words in map(in_words, lines))
    if translation.strange:
        yield f"without a counterpart here ({len(translation.strange)}): {first_few(translation.strange, 30)}"


def in_words(line: Line) -> str:
    """A line of the report."""
    return f"{line.name:<40} {line.words if line.words != line.name else 'as it is'}"


def say(*lines: str) -> None:
    """Print lines on standard error."""
    for line in lines:
        print(printable(line), file=sys.stderr)
