"""diffusers' schedulers behind one interface: the only module that knows how they differ.

B images, C latent channels, H W latent height and width.

The network's input is alpha * clean + sigma * noise. Some schedulers store the latents in this form (DDIM, DPM++, flow
matching, ...), others as clean + (sigma / alpha) * noise, and scale them for the network (Euler, Heun, LMS, ...; Karras et al.
2022, "Elucidating the Design Space of Diffusion-Based Generative Models", section 3).
"""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from diffusers import KDPM2AncestralDiscreteScheduler, TCDScheduler
from torch import Tensor

from customize.diffusion.predictions import FLOW_PREDICTION
from customize.diffusion.process import DiscreteSchedule
from customize.errors import InputError, Problem
from customize.inference.estimates import Estimate, Thresholded, dynamic_threshold
from customize.inference.schedulers import is_flow
from customize.inference.step import Step


class Solver:
    """A scheduler, and the index of the timestep at which sampling begins.

    scheduler: see `schedulers.make_scheduler`; generators: one per image, for schedulers that add noise at each step; eta: in
    0..1, the amount of noise that DDIM and TCD add; first: index of the first timestep to evaluate.
    """

    def __init__(self, scheduler, generators: list[torch.Generator] | None = None, eta: float = 0.0, first: int = 0):
        self.scheduler, self.first = scheduler, first
        given = {"generator": generators, "eta": eta}
        taken = inspect.signature(scheduler.step).parameters
        self._options = {name: value for name, value in given.items() if name in taken}
        self._is_flow = is_flow(scheduler)
        own = inspect.signature(type(scheduler).__init__).parameters  # configurations keep the options of other classes
        learned = scheduler.config.get("variance_type") in ("learned", "learned_range")
        self._takes_variance = "variance_type" in own and learned
        takes = {name: name in own and not isinstance(scheduler, TCDScheduler) for name in ("thresholding", "clip_sample")}
        asked = {name: bool(scheduler.config.get(name)) for name in takes}  # TCD takes both and ignores them
        self._leaves_thresholding = asked["thresholding"] and not takes["thresholding"]
        self._thresholds, self._clips = (asked[name] and takes[name] for name in takes)
        self.prediction_type: str = scheduler.config.get("prediction_type", FLOW_PREDICTION)

    @property
    def timesteps(self) -> Tensor:
        """The timesteps of all evaluations, including those before `first`."""
        return self.scheduler.timesteps

    @property
    def is_memoryless(self) -> bool:
        """Whether a step depends on its latents and output only, so that sampling can go back to an earlier timestep."""
        scheduler = self.scheduler
        return not (hasattr(scheduler, "step_index") or hasattr(scheduler, "ets") or scheduler.order > 1)

    def set_steps(
        self,
        num_inference_steps: int,
        strength: float = 1.0,
        device: torch.device | str = "cpu",
        distilled: bool = False,
        timesteps: Sequence[int] | None = None,
    ) -> None:
        """Sets the timesteps, and `first` so that the last fraction `strength` (above 0, up to 1) of them is evaluated.

        distilled: a scheduler that supports it (LCM) makes all steps within that fraction of the schedule, as in
        `LatentConsistencyModelImg2ImgPipeline`. timesteps: in place of `num_inference_steps` evenly spaced ones, descending.
        Raises InputError for an invalid strength or number of steps, and for timesteps that the scheduler does not take.
        """
        if not 0 < strength <= 1:
            raise InputError(Problem("strength", f"{strength} is not above 0 and at most 1", "use 0.3 to 0.9"))
        within = distilled and "strength" in inspect.signature(self.scheduler.set_timesteps).parameters
        options = {"device": device, **({"strength": strength} if within else {})}
        if timesteps is not None:
            self._set_timesteps(timesteps, options)
            num_inference_steps = len(timesteps)
        elif fault := self._steps_fault(num_inference_steps, options):
            what = f"{num_inference_steps} is not possible with {type(self.scheduler).__name__} ({fault})"
            most = min(num_inference_steps, self.scheduler.config.num_train_timesteps + 1)
            fewer = next((count for count in range(most - 1, 0, -1) if not self._steps_fault(count, options)), None)
            remedy = f"use at most {fewer}; 20 to 50 is usual" if fewer else "use more steps or another scheduler"
            raise InputError(Problem("num_inference_steps", what, remedy))
        if not within and int(num_inference_steps * strength) < 1:
            what = f"{strength} of {num_inference_steps} steps is less than one step"
            raise InputError(Problem("strength", what, "increase strength or num_inference_steps"))
        self.first = 0 if within else self.first_place(num_inference_steps, strength)

    def first_place(self, num_inference_steps: int, strength: float) -> int:
        """The index of the first timestep of image to image, as in `StableDiffusionImg2ImgPipeline`.

        strength: in 0..1, the fraction of the schedule to evaluate, rounded down to whole steps.
        """
        kept = min(int(num_inference_steps * strength), num_inference_steps)
        return (num_inference_steps - kept) * self.scheduler.order

    def _set_timesteps(self, timesteps: Sequence[int], options: dict[str, Any]) -> None:
        """Sets these timesteps; the scheduler takes them (see `make_scheduler`). Raises InputError if they do not fit."""
        try:
            self.scheduler.set_timesteps(timesteps=list(timesteps), **options)
        except ValueError as error:
            what = f"these are not possible with {type(self.scheduler).__name__} ({error})"
            raise InputError(Problem("timesteps", what, "use other timesteps, or num_inference_steps")) from error

    def _steps_fault(self, num_inference_steps: int, options: dict[str, Any]) -> str:
        """Sets the timesteps; returns why the scheduler cannot make so many steps, or an empty string if it can."""
        scheduler, most = self.scheduler, self.scheduler.config.num_train_timesteps
        if not 1 <= num_inference_steps <= most:
            return f"it must be 1 to {most}"
        try:
            scheduler.set_timesteps(num_inference_steps, **options)
        except (ValueError, IndexError) as error:
            return str(error)
        if not self._is_flow and self.timesteps.max() > most - 1:
            return f"the base model has no timestep {int(self.timesteps.max())}"
        sigmas = getattr(scheduler, "sigmas", None)
        if sigmas is not None and scheduler.order == 1 and bool((sigmas[:-1].diff() == 0).any()):
            return "two steps in a row would have the same noise level"
        return ""

    def bounded(self, estimate: Estimate) -> Estimate:
        """The estimate, thresholded if the base model's scheduler asks for it and this one does not do it."""
        return Thresholded(estimate, *self._threshold) if self._leaves_thresholding else estimate

    def limited(self, clean: Tensor) -> Tensor:
        """Predicted clean latents [B, C, H, W] as the scheduler uses them in `step`: thresholded or clamped if it does that."""
        if self._thresholds:
            return dynamic_threshold(clean, *self._threshold)
        most = self.scheduler.config.get("clip_sample_range", 1.0)
        return clean.clamp(-most, most) if self._clips else clean

    @property
    def _threshold(self) -> tuple[float, float]:
        """The ratio and the largest value of `dynamic_threshold`."""
        config = self.scheduler.config
        return config.get("dynamic_thresholding_ratio", 0.995), config.get("sample_max_value", 1.0)

    def steps(self, places: Sequence[int] | None = None) -> Iterator[Step]:
        """The evaluations at these indices of the timesteps; by default at all from `first` on.

        Lazy: for second-order solvers, the noise level of an evaluation depends on the step before it.
        """
        self._begin()
        timesteps = [*self.timesteps, None]
        places = range(self.first, len(timesteps) - 1) if places is None else places
        for index, place in enumerate(places):
            level = self.level(place)
            yield Step(index, len(places), timesteps[place], timesteps[place + 1], *level, self.prediction_type)

    def level(self, place: int) -> tuple[float, float]:
        """(alpha, sigma) of the network's input at index `place` of the timesteps; of a midpoint, only once it is reached."""
        sigmas = getattr(self.scheduler, "sigmas", None)
        if sigmas is None:
            schedule = DiscreteSchedule.of(self.scheduler)
            alpha, sigma = schedule.alpha_sigma(self.timesteps[place].long().cpu(), torch.float64)
            return float(alpha), float(sigma)
        sigma = float(sigmas[place]) if (midpoint := self._midpoint(place)) is None else midpoint
        if self._is_flow:
            return 1 - sigma, sigma
        alpha = (1 + sigma**2) ** -0.5
        return alpha, sigma * alpha

    def start(self, noise: Tensor, clean: Tensor | None = None) -> Tensor:
        """The initial latents [B, C, H, W]: noise, or clean latents noised to the first level (SDEdit).

        Meng et al. 2021, "SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations".
        """
        if clean is None:
            return noise * getattr(self.scheduler, "init_noise_sigma", 1.0)
        return self.noised(clean, noise, self.timesteps[self.first])

    def noised(self, clean: Tensor, noise: Tensor, timestep: Tensor | None) -> Tensor:
        """Adds noise to clean latents [B, C, H, W]; returns them in the scheduler's scaling.

        timestep: that of the next evaluation; None after the last one, which adds no noise.
        """
        if timestep is None:
            return clean
        self._begin()
        if (midpoint := self._midpoint(getattr(self.scheduler, "step_index", None))) is not None:
            return clean + midpoint * noise
        if hasattr(self.scheduler, "scale_noise"):
            return self.scheduler.scale_noise(clean, timestep.reshape(1), noise)
        return self.scheduler.add_noise(clean, noise, timestep.reshape(1))

    def scale(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """The network's input [B, C, H, W] for latents in the scheduler's scaling."""
        scaled = getattr(self.scheduler, "scale_model_input", None)
        return scaled(latents, timestep) if scaled else latents

    def unscale(self, model_input: Tensor, timestep: Tensor) -> Tensor:
        """The inverse of `scale`: latents [B, C, H, W] in the scheduler's scaling, from the network's input."""
        return model_input / self.scale(torch.ones_like(model_input), timestep)

    def step(self, output: Tensor, step: Step, latents: Tensor, variance: Tensor | None = None) -> Tensor:
        """The latents [B, C, H, W] after the evaluation that returned this output, in the scheduler's scaling.

        variance: the denoiser's prediction, used only by schedulers that take it and whose `variance_type` is learned.
        """
        if variance is not None and self._takes_variance:
            output = torch.cat([output, variance], 1)
        return self.scheduler.step(output, step.timestep, latents, **self._options).prev_sample

    def _begin(self) -> None:
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(self.first)

    def _midpoint(self, place: int | None) -> float | None:
        """sigma / alpha if DPM2 evaluates the midpoint of a step next, else None."""
        if getattr(self.scheduler, "state_in_first_order", True) or not hasattr(self.scheduler, "sigmas_interpol"):
            return None
        assert place is not None, "a midpoint comes after a step"
        earlier = 1 if isinstance(self.scheduler, KDPM2AncestralDiscreteScheduler) else 0  # it stores them one index earlier
        return float(self.scheduler.sigmas_interpol[place - earlier])
