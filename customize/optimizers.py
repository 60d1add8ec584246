"""Optimizers and their learning rates, from the settings."""

from typing import Any

import torch

from customize.schedules import Span, factor


def build_adamw(settings, parameter_groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019), fused; with `use_8bit_adam` bitsandbytes' (Dettmers et al. 2022).

    bitsandbytes keeps the two moments of every tensor of at least 4,096 numbers in 8 bits, smaller ones in 32.
    """
    options = {
        "betas": (settings.adam_beta1, settings.adam_beta2),
        "eps": settings.adam_epsilon,
        "weight_decay": settings.adam_weight_decay,
    }
    if settings.use_8bit_adam:
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(parameter_groups, **options)
    return torch.optim.AdamW(parameter_groups, fused=True, **options)


class LearningRates:
    """Sets each group's learning rate as a function of the step, so that nothing about it needs saving."""

    def __init__(self, settings, optimizer: torch.optim.Optimizer, max_train_steps: int, scale: float):
        self.name, self.optimizer = settings.lr_scheduler, optimizer
        self.span = Span(
            max_train_steps=max_train_steps,
            warmup_steps=settings.lr_warmup_steps,
            num_cycles=settings.lr_num_cycles,
            power=settings.lr_power,
            learning_rate=settings.learning_rate * scale,
        )
        self.base = [group["lr"] * scale for group in optimizer.param_groups]

    def set(self, step: int, share: float = 1.0) -> float:
        """Sets the rates for `step`, times `share`; returns the first group's."""
        now = share * factor(self.name, step, self.span)
        for group, base in zip(self.optimizer.param_groups, self.base, strict=True):
            group["lr"] = base * now
        return self.optimizer.param_groups[0]["lr"]
