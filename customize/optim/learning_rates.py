"""Sets the learning rates of an optimizer's parameter groups."""

from dataclasses import replace
from typing import Any

import torch

from customize.optim.lr_schedules import Span, factor


class LearningRates:
    """Sets the learning rate of each group as a function of the step, so it has no state to save."""

    def __init__(self, settings, optimizer: torch.optim.Optimizer, max_train_steps: int, scale: float):
        self.name, self.optimizer = settings.lr_scheduler, optimizer
        self.span = Span(
            max_train_steps=max_train_steps,
            warmup_steps=settings.lr_warmup_steps,
            num_cycles=settings.lr_num_cycles,
            power=settings.lr_power,
            learning_rate=settings.learning_rate * scale,
            step_rules=getattr(settings, "lr_step_rules", None) or "1",
        )
        groups = optimizer.param_groups
        self.base = [group["lr"] * scale for group in groups]
        own = [group.get("lr_warmup_steps") for group in groups]
        self.spans = [self.span if steps is None else replace(self.span, warmup_steps=steps) for steps in own]
        shares = [group.get("fraction", 1.0) if group["lr"] else 0.0 for group in groups]
        self.last = [max(1, round(share * max_train_steps)) if share else 0 for share in shares]

    def set(self, step: int, share: float = 1.0) -> float:
        """Sets the rates for `step`, times `share`; returns the first group's, as `rate_of` has it.

        After its `fraction` of the run, a group has the rate 0 and no gradients, without which no optimizer touches it; so has
        one of rate 0 from the start.
        """
        for group, base, span, last in zip(self.optimizer.param_groups, self.base, self.spans, self.last, strict=True):
            group["lr"] = base * (share * factor(self.name, step, span)) if step < last else 0.0
            for parameter in group["params"] if step >= last else ():
                parameter.grad = None
        return rate_of(self.optimizer.param_groups[0])


def rate_of(group: dict[str, Any]) -> float:
    """The learning rate of a parameter group for reports: times Prodigy's estimate, where there is one."""
    return group["lr"] * group["d"] if "d" in group else group["lr"]
