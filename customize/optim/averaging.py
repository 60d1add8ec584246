"""Optimizers whose result is an average of the weights that take the steps.

Between steps the parameters hold the average, so that everything that looks at them (sample images, checkpoints, evaluation, the
result) sees the result. From `train` to `eval`, within a step, they hold the weights that take it. The two sets of tensors are
exchanged, not copied: whatever looks at them, and whenever, changes no bit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from customize.optim.together import Together, parameters_of

STEPPED = "stepped"
"""The entry of a parameter's state with the weights that take the steps."""
COUNT = "num_averaged"
"""The entry of each parameter group with the number of averaged steps."""


@contextmanager
def taking_steps(optimizer: Any) -> Iterator[None]:
    """Inside the context the parameters hold the weights that take the steps; they are the result for most optimizers."""
    optimizer.train()
    try:
        yield
    finally:
        optimizer.eval()


class Averaging(Together):
    """Optimizers with an average of their steps. on_cpu: whether the set of weights that is not in use is kept in main memory."""

    def __init__(self, *optimizers: torch.optim.Optimizer, on_cpu: bool = False):
        super().__init__(*optimizers)
        self.on_cpu = on_cpu
        self.others = {p: p.detach().to("cpu" if on_cpu else p.device, copy=True) for p in parameters_of(self)}
        self.is_training = self.has_stepped = False

    def train(self) -> None:
        """Puts the weights that take the steps in their place."""
        if not self.is_training:
            self.exchange()
        self.is_training = True

    def eval(self) -> None:
        """Averages the step, if one was made, and puts the average in its place."""
        if self.is_training:
            if self.has_stepped:
                self.average()
            self.exchange()
        self.is_training = self.has_stepped = False

    @torch.no_grad()
    def exchange(self) -> None:
        """Exchanges the parameters with the other set."""
        for parameter, other in self.others.items():
            if self.on_cpu:
                held = parameter.detach().to("cpu", copy=True)
                parameter.data.copy_(other)
                other.copy_(held)
            else:
                parameter.data, other.data = other.data, parameter.data

    def average(self) -> None:
        """Moves the average, in `others`, towards the parameters, which a step has changed."""
        raise NotImplementedError

    def step(self, closure: Any = None) -> None:
        super().step()
        self.has_stepped = True

    def state_dict(self) -> dict[str, Any]:
        saved = super().state_dict()
        state = {number: {**saved["state"].get(number, {}), STEPPED: other} for number, other in enumerate(self.others.values())}
        return {**saved, "state": state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        own = {number: {**kept} for number, kept in state_dict["state"].items()}
        with torch.no_grad():
            for other, kept in zip(self.others.values(), own.values(), strict=True):
                other.copy_(kept.pop(STEPPED))
        super().load_state_dict({**state_dict, "state": {number: kept for number, kept in own.items() if kept}})


class ScheduleFree(Averaging):
    """The optimizer of schedulefree, always in its mode of training. Its parameters are y, its state has z, its result is x."""

    @torch.no_grad()
    def average(self) -> None:
        """x = y + (1 - 1 / beta1) (z - y), since y = beta1 x + (1 - beta1) z (Defazio et al. 2024, equation 2)."""
        for member in self.members:
            for group in member.param_groups:
                weight = 1 - 1 / group["betas"][0]
                for parameter in group["params"]:
                    z = member.state[parameter]["z"] if parameter in member.state else parameter
                    torch.lerp(parameter, z, weight, out=self.others[parameter])


class Ema(Averaging):
    """An exponential moving average of the steps of any optimizer, with the warm-up of diffusers' `EMAModel`.

    decay: the largest share of the average that a step keeps, in 0..1.
    """

    counters = (COUNT,)

    def __init__(self, optimizer: torch.optim.Optimizer, decay: float, on_cpu: bool = False):
        super().__init__(optimizer, on_cpu=on_cpu)
        self.decay = decay
        for group in self.param_groups:
            group[COUNT] = 0

    @torch.no_grad()
    def average(self) -> None:
        for group in self.param_groups:
            group[COUNT] += 1
            share = 1 - decay_of(group[COUNT], self.decay)
            for parameter in group["params"]:
                other = self.others[parameter]
                other.sub_(share * (other - parameter.to(other.device)))


def decay_of(step: int, most: float) -> float:
    """The share of the average that step 1, 2, ... keeps: 0 in the first, then min((step) / (step + 9), most)."""
    return min(step / (9 + step), most) if step > 1 else 0.0


def averaged(settings, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer, with EMA if the settings say so."""
    return Ema(optimizer, settings.ema_decay, settings.offload_ema) if settings.use_ema else optimizer
