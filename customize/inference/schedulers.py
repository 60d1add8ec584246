"""Schedulers of diffusers, made for a base model by the name of a sampler."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from diffusers import DDIMScheduler, LCMScheduler, TCDScheduler
from diffusers.pipelines.deepfloyd_if import timesteps as if_timesteps
from diffusers.schedulers import AysSchedules

from customize.diffusion.predictions import determines_clean
from customize.diffusion.process import DiscreteSchedule
from customize.errors import InputError, Problem
from customize.families.specs import STABLE_DIFFUSION
from customize.families.specs.family_spec import FamilySpec
from customize.settings.sampler_names import TIMESTEPS, UNSUPPORTED, Sampler, configuration, find, read_timesteps

LAST_AYS_SIGMA = 0.029
"""The authors' last noise level, where diffusers' tables have 0."""


def fitting(base) -> dict[str, type]:
    """The classes that this base scheduler can be replaced by, itself among them, by name."""
    classes = base.compatibles if is_flow(base) else [*DDIMScheduler._get_compatibles(), LCMScheduler, TCDScheduler]
    return {cls.__name__: cls for cls in [*classes, type(base)] if cls.__name__ not in UNSUPPORTED}


def is_flow(scheduler) -> bool:
    """Whether the scheduler is one of flow matching: its sigmas are the parts of noise, and alpha is 1 - sigma."""
    return "prediction_type" not in scheduler.config or bool(scheduler.config.get("use_flow_sigmas"))


def scheduler_names(base) -> list[str]:
    """The names of classes that `make_scheduler` takes for this base scheduler."""
    return sorted(fitting(base))


def make_scheduler(
    base, name: str | None = None, use_karras_sigmas: bool | None = None, spec: FamilySpec = STABLE_DIFFUSION, **options: Any
):
    """A fresh scheduler with the base's noise schedule; the base's own class when no name is given.

    name: a class of diffusers, or a sampler's name as other programs have it (see `sampler_names`). spec: of the base model's
    family. options: timestep_spacing, rescale_betas_zero_snr; eta and timesteps are only checked, as the solver takes them.

    Raises InputError for a scheduler that is unknown or does not fit, and for options that it does not take.
    """
    own = type(base).__name__
    chosen = Sampler(own, own) if name in (None, own) else find(name)
    scheduler_class = fitting(base).get(chosen.scheduler)
    if scheduler_class is None:
        what = f"{chosen.name} does not fit this base model, whose scheduler is {own}"
        raise InputError(Problem("scheduler", what, f"take one of {', '.join(scheduler_names(base))}"))
    config = configuration(chosen, {"use_karras_sigmas": use_karras_sigmas, **options})
    for name in ("eta", "timesteps"):
        config.pop(name, None)
    check_zero_snr(base, chosen, config)
    accepted = inspect.signature(scheduler_class.__init__).parameters
    config = {key: value for key, value in spec.scheduler_options.items() if key in accepted} | config
    try:
        scheduler = scheduler_class.from_config(base.config, **config)
    except (ValueError, NotImplementedError, ImportError) as error:
        what = f"{chosen.name} does not fit this base model: {error}"
        raise InputError(Problem("scheduler", what, "take Euler, DPM++ 2M or DDIM")) from error
    if not chosen.align_your_steps:
        return scheduler
    if not spec.align_your_steps:
        what = f"{chosen.name} does not fit this base model: nobody has computed Align Your Steps for it"
        raise InputError(Problem("scheduler", what, f"take {chosen.scheduler}"))
    return aligned(scheduler, spec.align_your_steps)


def check_zero_snr(base, chosen: Sampler, config: Mapping[str, Any]) -> None:
    """Raises InputError where nothing can be made of noise alone: epsilon says nothing there of the image.

    Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps are Flawed", section 3.2.
    """
    by_alphas = chosen.scheduler in ("DDIMScheduler", "DDPMScheduler", "LCMScheduler", "TCDScheduler")
    zero_snr = config.get("rescale_betas_zero_snr", base.config.get("rescale_betas_zero_snr"))
    if zero_snr and by_alphas and not determines_clean(0, 1, base.config.prediction_type):
        what = f"{chosen.name} cannot begin at pure noise with a base model that predicts {base.config.prediction_type}"
        raise InputError(Problem("rescale_betas_zero_snr", what, "take a base model that predicts v, or another scheduler"))


def aligned(scheduler, model: str):
    """The scheduler with the timesteps of Sabour et al. 2024, "Align Your Steps", for a model (`FamilySpec.align_your_steps`).

    For another number of steps than 10, noise levels are interpolated log-linearly, as its authors advise.
    """
    set_timesteps = scheduler.set_timesteps
    sigmas = np.array([*AysSchedules[f"{model}Sigmas"][:-1], LAST_AYS_SIGMA])

    def set_aligned(num_inference_steps: int, device=None) -> None:
        timesteps = list(AysSchedules[f"{model}Timesteps"])
        if num_inference_steps != len(timesteps):
            places = np.linspace(0, len(sigmas) - 1, num_inference_steps + 1)[:-1]
            levels = np.interp(places, np.arange(len(sigmas)), np.log(sigmas))
            trained = DiscreteSchedule.of(scheduler).noise_to_signal().log().numpy()
            timesteps = np.interp(levels, trained, np.arange(len(trained))).round().astype(int).tolist()
        if len(set(timesteps)) < len(timesteps):
            raise ValueError("Align Your Steps has fewer timesteps")
        set_timesteps(timesteps=timesteps, device=device)

    scheduler.set_timesteps = set_aligned
    return scheduler


def timesteps_of(given: str | Sequence[int] | None) -> list[int] | None:
    """The timesteps of a list's name, or of numbers, also as text (see `read_timesteps`). Raises InputError."""
    if not isinstance(given, str):
        return None if given is None else list(given)
    try:
        found = read_timesteps(given)
    except ValueError as error:
        raise InputError(Problem("timesteps", str(error), f"use one of {', '.join(TIMESTEPS)}, or numbers")) from error
    return list(getattr(if_timesteps, f"{found}_timesteps") if isinstance(found, str) else found)


def takes_karras(scheduler_class: type) -> bool:
    """Whether the scheduler can space its noise levels as Karras et al. 2022, equation 5."""
    return "use_karras_sigmas" in inspect.signature(scheduler_class.__init__).parameters
