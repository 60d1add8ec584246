"""Builds optimizers from the settings, and sets their learning rates."""

from typing import Any

import torch
from torch import Tensor

from customize.optim.lr_schedules import Span, factor


def build_adamw(settings, parameter_groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Fused AdamW (Loshchilov & Hutter 2019), or with `use_8bit_adam` that of bitsandbytes (Dettmers et al. 2022).

    bitsandbytes stores the two moments of tensors of at least 4,096 elements in 8 bits, of smaller ones in 32.
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


class Together(torch.optim.Optimizer):
    """Several optimizers as one: each steps its own parameter groups. They share one state, which is saved and loaded as that of
    any optimizer of all their groups."""

    def __init__(self, *members: torch.optim.Optimizer):
        self.members = members
        super().__init__([group for member in members for group in member.param_groups], {})
        self.share()

    def share(self) -> None:
        """Gives the members the present state and parameter groups."""
        groups = iter(self.param_groups)
        for member in self.members:
            member.state, member.param_groups = self.state, [next(groups) for _ in member.param_groups]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.share()

    def step(self, closure: Any = None) -> None:
        for member in self.members:
            member.step()


def is_state_of(optimizer: torch.optim.Optimizer, state: Any) -> bool:
    """Whether a `state_dict()["state"]` fits this optimizer. The optimizers of `build_adamw` would read beyond the end of
    tensors of other shapes; states of any others are not checked."""
    members = optimizer.members if isinstance(optimizer, Together) else (optimizer,)
    parameters = [(type(each).__name__, p) for each in members for group in each.param_groups for p in group["params"]]
    if not isinstance(state, dict) or not all(type(key) is int and 0 <= key < len(parameters) for key in state):
        return False
    fits = {"AdamW": _is_adamw, "AdamW8bit": _is_adamw_8bit}

    def is_fitting(kept: Any, kind: str, parameter: Tensor) -> bool:
        return isinstance(kept, dict) and (kind not in fits or fits[kind](kept, parameter))

    return all(is_fitting(kept, *parameters[key]) for key, kept in state.items())


def has_done(state: dict[int, dict[str, Any]], steps: int, exactly: bool = True) -> bool:
    """Whether the step count of the state, if it has one, equals `steps`, or else is at most `steps`: fp16's loss scaler skips
    steps."""
    done = max((int(kept["step"]) for kept in state.values() if "step" in kept), default=None)
    return done is None or (done == steps if exactly else done <= steps)


def _is_adamw(kept: dict[str, Any], parameter: Tensor) -> bool:
    if kept.keys() != {"step", "exp_avg", "exp_avg_sq"} or not all(isinstance(each, Tensor) for each in kept.values()):
        return False
    return kept["step"].shape == () and all(kept[name].shape == parameter.shape for name in ("exp_avg", "exp_avg_sq"))


def _is_adamw_8bit(kept: dict[str, Any], parameter: Tensor) -> bool:
    """8-bit tensors have a table of 256 values and a scale per block of 256 elements; bitsandbytes nests them in a dictionary."""
    wrapped = kept.get("__bnb_optimizer_quant_state__", {})
    kept = {**kept, **wrapped} if isinstance(wrapped, dict) else {}
    for moment in "12":
        numbers, table, scales = (kept.get(name + moment) for name in ("state", "qmap", "absmax"))
        if not isinstance(numbers, Tensor) or numbers.shape != parameter.shape:
            return False
        if numbers.dtype == torch.uint8 and not (
            isinstance(table, Tensor) and table.shape == (256,) and isinstance(scales, Tensor)
            and scales.numel() * 256 >= parameter.numel()
        ):  # fmt: skip
            return False
    return type(kept.get("step")) is int


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
        self.base = [group["lr"] * scale for group in optimizer.param_groups]
        self.last = [max(1, round(group.get("fraction", 1.0) * max_train_steps)) for group in optimizer.param_groups]

    def set(self, step: int, share: float = 1.0) -> float:
        """Sets the rates for `step`, times `share`; returns the first group's. That of a group with a `fraction` is 0 after this
        part of the run."""
        now = share * factor(self.name, step, self.span)
        for group, base, last in zip(self.optimizer.param_groups, self.base, self.last, strict=True):
            group["lr"] = base * now if step < last else 0.0
        return self.optimizer.param_groups[0]["lr"]
