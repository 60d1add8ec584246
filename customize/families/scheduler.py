"""A base model's own scheduler, from its folder."""

import inspect
from pathlib import Path

import diffusers

from customize.errors import InputError, Problem
from customize.families.source import AGAIN, PREDICTIONS
from customize.findings import printable, refusing
from customize.json_files import read_object


def load_scheduler(folder: Path):
    """The scheduler of the class that the folder's own configuration names. Raises InputError for one that cannot be had."""
    config = read_object(folder / "scheduler/scheduler_config.json")
    name = str(config.get("_class_name", ""))
    scheduler_class = getattr(diffusers, name, None)
    if not (isinstance(scheduler_class, type) and issubclass(scheduler_class, diffusers.SchedulerMixin)):
        what = printable(f"unknown scheduler {name[:80]!r}")
        raise InputError(Problem(f"{folder}/scheduler", what, "name one of diffusers' schedulers there"))
    with refusing(f"{folder}/scheduler", AGAIN, "cannot be made"):
        scheduler = scheduler_class.from_config(config)
    known = inspect.signature(scheduler_class).parameters
    if not {"beta_start", "beta_end", "prediction_type"} <= known.keys() or scheduler.config.prediction_type not in PREDICTIONS:
        what = f"{name} is not one of Stable Diffusion 1.x or 2.x: those have betas and predict {', '.join(PREDICTIONS)}"
        raise InputError(Problem(f"{folder}/scheduler", what, "is it the right model? or copy the folder of one that is"))
    return scheduler
