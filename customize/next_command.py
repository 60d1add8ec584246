"""Command lines to print for the user to run next; they can be copied as they are."""

import re
import shlex
import sys
from pathlib import Path

SCRIPTS = ("train_textual_inversion.py", "train_dreambooth.py", "infer.py")


def command_line(script: str, *arguments: str, **settings: object) -> str:
    """`python infer.py ARGUMENTS --name value ...`, quoted; the script is in the folder of the running one.

    script: one of `SCRIPTS`, or `customize COMMAND`. Several values make a list; a value that starts with a dash is written as
    --name=value.
    """
    return " ".join(filter(None, [*program(script), options(*arguments, **settings)]))


def options(*arguments: str, **settings: object) -> str:
    """The words of a command line after the program."""
    words = [*map(quoted, arguments)]
    for name, value in settings.items():
        values = [str(each) for each in (value if isinstance(value, (list, tuple)) else [value])]
        if any(each.startswith("-") for each in values):
            words += [f"--{name}={quoted(each)}" for each in values]
        else:
            words += [f"--{name}", *map(quoted, values)]
    return " ".join(words)


def program(script: str) -> list[str]:
    """The words that run one of our scripts, in the way in which this process was started; other commands are unchanged."""
    if script not in SCRIPTS:
        return [script]
    running = Path(sys.argv[0] if sys.argv else "")
    if running.name in SCRIPTS:
        return ["python", quoted(str(running.parent / script))]
    if is_installed():
        return ["customize", script.removesuffix(".py")]
    return ["python", script]


def called(script: str) -> str:
    """The name of a command as the user called it: `infer.py`, or `customize infer`. Those without a script are unchanged."""
    if script not in SCRIPTS:
        return script
    return f"customize {script.removesuffix('.py')}" if is_installed() else script


def is_installed() -> bool:
    """Whether this process is the command `customize`, not one of the scripts."""
    running = Path(sys.argv[0] if sys.argv else "")
    if running.name == "__main__.py":
        return running.parent.name == "customize"
    return running.stem in ("customize", "customize-script")


def quoted(word: str) -> str:
    """A word quoted for the shell, in double quotes if possible, as one would type it."""
    if re.fullmatch(r"[\w@%+=:,./-]+", word, re.ASCII):
        return word
    return shlex.quote(word) if re.search(r'["$`\\!\n]', word) else f'"{word}"'
