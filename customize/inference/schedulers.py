"""Schedulers by name: any of diffusers that samples what Stable Diffusion and its distilled relatives predict."""

import difflib
import inspect

from diffusers import DDIMScheduler, LCMScheduler, TCDScheduler

from customize.errors import InputError, Problem

UNSUPPORTED = {
    "EDMEulerScheduler": "is for networks with EDM's preconditioning, which Stable Diffusion has not",
    "DPMSolverSDEScheduler": "draws its noise for the whole batch at once, so that an image would depend on the others",
}


def fitting(base) -> dict[str, type]:
    """The classes that this base scheduler can be replaced by, itself among them, by name."""
    classes = [*DDIMScheduler._get_compatibles(), LCMScheduler, TCDScheduler, type(base)]
    return {cls.__name__: cls for cls in classes if cls.__name__ not in UNSUPPORTED}


def scheduler_names(base) -> list[str]:
    """The names that `make_scheduler` takes for this base scheduler."""
    return sorted(fitting(base))


def make_scheduler(base, name: str | None = None, use_karras_sigmas: bool | None = None):
    """A fresh scheduler with the base's noise schedule; the base's own class when no name is given.

    What `StableDiffusionPipeline` corrects in old configurations is corrected here too: timesteps count from 1, and
    latents are never clipped. Raises InputError for a scheduler that is unknown or does not fit.
    """
    classes = fitting(base)
    name = name or type(base).__name__
    names = f"take one of {', '.join(sorted(classes))}"
    if name in UNSUPPORTED:
        raise InputError(Problem("scheduler", f"{name} {UNSUPPORTED[name]}", names))
    if name not in classes:
        short = {known.removesuffix("Scheduler").lower(): known for known in classes}
        said = name.replace("_", "").replace(" ", "").lower().removesuffix("scheduler")
        nearest = [known for key, known in short.items() if key.startswith(said)][:1] or [
            short[key] for key in difflib.get_close_matches(said, short, n=1, cutoff=0.3)
        ]
        remedy = f"did you mean {nearest[0]}? {names}" if nearest else names
        raise InputError(Problem("scheduler", f"unknown scheduler {name!r}", remedy))
    accepted = inspect.signature(classes[name].__init__).parameters
    if use_karras_sigmas and not takes_karras(classes[name]):
        takers = ", ".join(other for other, cls in sorted(classes.items()) if takes_karras(cls))
        raise InputError(Problem("use_karras_sigmas", f"{name} has no such noise levels", f"take one of {takers}"))
    changes = {"steps_offset": 1, "clip_sample": False, "skip_prk_steps": True}  # as all of Stable Diffusion's have them
    if use_karras_sigmas is not None:
        changes["use_karras_sigmas"] = use_karras_sigmas
    try:
        return classes[name].from_config(base.config, **{key: changes[key] for key in changes.keys() & accepted.keys()})
    except (ValueError, NotImplementedError, ImportError) as error:
        raise InputError(Problem("scheduler", f"{name} does not fit this base model: {error}", names)) from error


def takes_karras(scheduler_class: type) -> bool:
    """Whether the scheduler can space its noise levels as Karras et al. 2022, equation 5."""
    return "use_karras_sigmas" in inspect.signature(scheduler_class.__init__).parameters
