"""Detects a configuration that belongs to another command."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from customize.cli.flags.arguments import known
from customize.cli.flags.settings_by_command import MODELS
from customize.errors import Problem
from customize.missing_path import is_run
from customize.next_command import command_line
from customize.settings.common import Settings
from customize.settings.field import table
from customize.settings.inference import InferenceSettings


def other_command(model: type[Settings], config: str, values: Mapping[str, Any]) -> Problem | None:
    """The problem of a configuration that another command, but not this one, accepts as a whole; otherwise None."""
    foreign = [name for name in values if name not in table(model)]
    strange = [name for name in foreign if name not in known(model)]
    owners = [other for other in MODELS if other is not model and not any(name not in known(other) for name in values)]
    wholly = [other for other in owners if not any(name not in table(other) for name in values)]
    enough = len(foreign) > 1 or (foreign and len(values) > 2)
    if not enough or not (wholly or (strange and owners)):
        return None
    owner = max(owners, key=lambda other: sum(name in table(other) for name in values))
    remedy = f"run `{command_line(owner.command, config)}`"
    if model is InferenceSettings and is_run(Path(config).absolute().parent):
        own = command_line(model.command, weights=str(Path(config).parent), prompt="a prompt")
        remedy = f"to generate with what it learned, run `{own}`"
    return Problem(config, f"is a configuration of {owner.command}, not of {model.command}", remedy)
