"""The command line of commands that take the settings of every training method: CONFIG.toml and flags say which one is meant."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from customize import methods
from customize.cli import main as cli
from customize.cli.flags.arguments import arguments, plain
from customize.errors import InputError, Problem
from customize.settings import derived
from customize.settings.files import shipped_configs, toml_file
from customize.settings.training import TrainingSettings

Parsed = tuple[str | None, dict[str, Any], dict[str, Any]]
"""CONFIG.toml, the values in it, and those of the flags."""


def parsed(model: type[TrainingSettings], argv: Sequence[str]) -> Parsed:
    """The parts of a command line. Its problems are left to `read`."""
    config, flags, _ = arguments(model, plain(model, argv)[0])
    in_file: dict[str, Any] = {}
    with suppress(InputError):
        if config is not None:
            included = None if os.path.lexists(config) else shipped_configs.config_path(config)
            in_file, _ = toml_file.read(str(included or config))
    return config, in_file, flags


def method_of(argv: Sequence[str]) -> type[TrainingSettings]:
    """The settings class of the method that a command line implies."""
    _, in_file, flags = parsed(TrainingSettings, argv)
    return methods.settings_for({**in_file, **flags})


def read(argv: Sequence[str], check: Callable[[Any], Any]) -> tuple[Any, list[str]]:
    """The settings that a command line gives, and notes. Raises InputError with all problems.

    check: checks the files that the settings name; called only where the settings have problems.
    """
    if (processes := derived.processes()) > 1:
        what = f"started {processes} processes; this command runs in one"
        raise InputError(Problem("accelerate launch", what, "start it without accelerate launch"))
    return cli.read(method_of(argv), argv, check)
