"""Loads a base model's scheduler from its folder."""

import inspect
from pathlib import Path
from typing import Any

import diffusers

from customize.diffusion.predictions import DISCRETE_PREDICTIONS
from customize.errors import InputError, Problem
from customize.families.files.configurations import SCHEDULER
from customize.families.files.folder_check import AGAIN, SCHEDULER_FILE
from customize.printable import printable
from customize.storage.json_files import read_object
from customize.storage.untrusted_files import refusing


def load_scheduler(folder: Path):
    """Builds the scheduler that the folder's configuration names. Raises InputError if that is impossible."""
    config = checked_config(read_object(folder / SCHEDULER_FILE))
    name = str(config.get("_class_name", ""))
    scheduler_class = getattr(diffusers, name, None)
    if not (isinstance(scheduler_class, type) and issubclass(scheduler_class, diffusers.SchedulerMixin)):
        what = printable(f"unknown scheduler {name[:80]!r}")
        raise InputError(Problem(f"{folder}/scheduler", what, "use the name of a scheduler of diffusers"))
    known = inspect.signature(scheduler_class).parameters
    with refusing(f"{folder}/scheduler", AGAIN, "cannot be built"):
        scheduler = scheduler_class.from_config({key: value for key, value in config.items() if key in known})
    has_betas = {"beta_start", "beta_end", "prediction_type"} <= known.keys()
    if not has_betas or scheduler.config.prediction_type not in DISCRETE_PREDICTIONS:
        types = ", ".join(DISCRETE_PREDICTIONS)
        what = f"{name} is not a scheduler of Stable Diffusion 1.x, 2.x or XL, which has betas and predicts {types}"
        raise InputError(
            Problem(f"{folder}/scheduler", what, "check that it is the right model, or copy the scheduler folder of such a model")
        )
    return scheduler


def checked_config(config: dict[str, Any]) -> dict[str, Any]:
    """The entries of a scheduler's configuration that `configurations.faults` has checked, and other plain values."""
    return {name: value for name, value in config.items() if name in SCHEDULER or is_plain(value)}


def is_plain(value: Any) -> bool:
    """Whether a value is None, a boolean, a short string, or a finite number below 1e30."""
    if isinstance(value, float | int):
        return value == value and abs(value) < 1e30
    return value is None or (isinstance(value, str) and len(value) <= 100)
