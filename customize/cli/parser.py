"""The parser of commands on files: flags with dashes or underscores; wrong arguments are a report like any other."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from customize.errors import InputError, Problem


class Parser(argparse.ArgumentParser):
    """Prints nothing and never exits. Raises InputError for wrong arguments."""

    def __init__(self, command: str, usage: str, about: str, epilog: str = ""):
        self.command = command
        layout = argparse.RawDescriptionHelpFormatter
        super().__init__(command, usage, about, epilog, add_help=False, allow_abbrev=False, formatter_class=layout)

    def error(self, message: str) -> NoReturn:
        raise InputError(Problem("arguments", message, f"{self.usage}; `{self.command} --help` shows all"))

    def read(self, argv: Sequence[str]) -> argparse.Namespace:
        """The arguments of a command line."""
        flags = {word: "--" + word[2:].replace("-", "_") for word in argv if word.startswith("--") and "=" not in word}
        return self.parse_args([flags.get(word, word) for word in argv])
