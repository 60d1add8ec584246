"""Loads a base model's scheduler from its folder."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers

from customize.diffusion.predictions import DISCRETE_PREDICTIONS
from customize.errors import InputError, Problem
from customize.families.files.configurations import SCHEDULER
from customize.families.files.folder_check import AGAIN
from customize.families.source import refuse_zero_snr
from customize.printable import printable
from customize.storage.json_files import read_object
from customize.storage.untrusted_files import refusing

ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
"""The scheduler of a model whose noise schedule ends in pure noise."""


def build_scheduler(folder: Path, part: str = "scheduler"):
    """Builds the scheduler that the configuration in the subfolder `part` names. Raises InputError if that is impossible."""
    return scheduler_of(read_object(folder / part / "scheduler_config.json"), folder / part)


def scheduler_of(config: Mapping[str, Any], where: Path | str = "untrained"):
    """Builds the scheduler of a configuration, which may be untrusted. where: for messages. Raises InputError."""
    config = checked_config(config)
    name = str(config.get("_class_name", ""))
    scheduler_class = getattr(diffusers, name, None)
    if not (isinstance(scheduler_class, type) and issubclass(scheduler_class, diffusers.SchedulerMixin)):
        what = printable(f"unknown scheduler {name[:80]!r}")
        raise InputError(Problem(str(where), what, "use the name of a scheduler of diffusers"))
    known = inspect.signature(scheduler_class).parameters
    with refusing(where, AGAIN, "cannot be built"):
        return scheduler_class.from_config({key: value for key, value in config.items() if key in known})


def load_scheduler(folder: Path, part: str = "scheduler"):
    """Builds the scheduler of a model with a discrete noise schedule, as `build_scheduler`. Raises InputError for any other."""
    scheduler = build_scheduler(folder, part)
    name, known = type(scheduler).__name__, inspect.signature(type(scheduler)).parameters
    has_betas = {"beta_start", "beta_end", "prediction_type"} <= known.keys()
    if not has_betas or scheduler.config.prediction_type not in DISCRETE_PREDICTIONS:
        types = ", ".join(DISCRETE_PREDICTIONS)
        models = "Stable Diffusion 1.x, 2.x or XL, or DeepFloyd IF"
        what = f"{name} is not a scheduler of {models}, which has betas and predicts {types}"
        raise InputError(
            Problem(f"{folder}/{part}", what, "check that it is the right model, or copy the scheduler folder of such a model")
        )
    return scheduler


def changed_scheduler(scheduler: Any, prediction_type: str | None, zero_snr: bool | None) -> Any:
    """The scheduler with another prediction type, and another end of the noise schedule; None: its own.

    zero_snr: whether the schedule ends in pure noise, from which on its steps begin there (Lin et al. 2023, "Common Diffusion
    Noise Schedules and Sample Steps are Flawed", sections 3.1 and 3.3). Raises InputError for that with epsilon, which says
    nothing of an image there (section 3.2).
    """
    changes: dict[str, Any] = {"prediction_type": prediction_type} if prediction_type else {}
    kind = type(scheduler)
    if zero_snr is not None:
        changes |= ZERO_SNR if zero_snr else {"rescale_betas_zero_snr": False}
        if zero_snr and "rescale_betas_zero_snr" not in scheduler.config:  # PNDM, the scheduler of 1.x, does not know it
            kind, changes = diffusers.DDIMScheduler, {**changes, "clip_sample": False}
        refuse_zero_snr(changes.get("prediction_type", scheduler.config.prediction_type) if zero_snr else None)
    return kind.from_config(scheduler.config, **changes) if changes else scheduler


def with_fixed_variance(scheduler: Any) -> Any:
    """The scheduler for a denoiser whose weights are changed: training changes what it predicts of the noise, and nothing trains
    the variance that it may predict beside. That of an unchanged denoiser, and one of fixed variance, is the scheduler itself."""
    if scheduler.config.get("variance_type") not in ("learned", "learned_range"):
        return scheduler
    return type(scheduler).from_config(scheduler.config, variance_type="fixed_small")


def checked_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a scheduler's configuration that `configurations.faults` has checked, and other plain values."""
    return {name: value for name, value in config.items() if name in SCHEDULER or is_plain(value)}


def is_plain(value: Any) -> bool:
    """Whether a value is None, a boolean, a short string, or a finite number below 1e30."""
    if isinstance(value, float | int):
        return value == value and abs(value) < 1e30
    return value is None or (isinstance(value, str) and len(value) <= 100)
