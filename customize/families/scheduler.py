"""A base model's own scheduler, from its folder."""

import json
from pathlib import Path

import diffusers

from customize.errors import InputError, Problem


def load_scheduler(folder: Path):
    """The scheduler of the class that the folder's own configuration names. Raises InputError for an unknown one."""
    config = json.loads((folder / "scheduler/scheduler_config.json").read_text(encoding="utf-8"))
    scheduler_class = getattr(diffusers, config.get("_class_name", ""), None)
    if scheduler_class is None:
        what = f"unknown scheduler {config.get('_class_name')!r}"
        raise InputError(Problem(f"{folder}/scheduler", what, "name one of diffusers' schedulers there"))
    return scheduler_class.from_config(config)
