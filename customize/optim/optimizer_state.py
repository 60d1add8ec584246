"""Whether a saved state fits an optimizer, and what of it is loaded.

States come from files. Optimizers of bitsandbytes would read beyond the end of tensors of other shapes, so every entry is
compared with what the same optimizer makes in its first step, for a parameter of the same shape.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from customize.optim.averaging import STEPPED, Averaging
from customize.optim.optimizers import COUNTERS
from customize.optim.together import members_of

Kept = dict[str, Any]
"""The state of a parameter."""


def is_state_of(optimizer: torch.optim.Optimizer, state: Any) -> bool:
    """Whether a `state_dict()["state"]` fits this optimizer: names, shapes and dtypes, not values."""
    groups = [(member, group) for member in members_of(optimizer) for group in member.param_groups]
    parameters = [(member, group, parameter) for member, group in groups for parameter in group["params"]]
    if not isinstance(state, dict) or not all(type(key) is int and 0 <= key < len(parameters) for key in state):
        return False
    expected: dict[Any, list[Kept]] = {}

    def fits(kept: Any, member: torch.optim.Optimizer, group: dict[str, Any], parameter: Tensor) -> bool:
        if not isinstance(kept, dict):
            return False
        if isinstance(optimizer, Averaging):
            other = kept.get(STEPPED)
            kept = {name: value for name, value in kept.items() if name != STEPPED}
            if not is_alike(other, parameter.detach()):
                return False
            if not kept:  # without a gradient
                return True
        kind = id(group), parameter.shape, parameter.dtype
        if kind not in expected:
            expected[kind] = [*first_states(member, group, parameter)]
        return any(is_alike(kept, each) for each in expected[kind])

    is_whole = not isinstance(optimizer, Averaging) or len(state) == len(parameters)
    return is_whole and all(fits(kept, *parameters[key]) for key, kept in state.items())


def first_states(member: torch.optim.Optimizer, group: dict[str, Any], parameter: Tensor) -> Iterator[Kept]:
    """The state after the first step of an optimizer like `member`, for parameters like this one: of ones, and of zeros, for
    which Prodigy keeps less."""
    for value in (1.0, 0.0):
        alike = nn.Parameter(torch.full_like(parameter, value))
        alike.grad = torch.ones_like(alike)
        fresh = type(member)([{**group, "params": [alike]}])  # type: ignore[call-arg]
        if hasattr(fresh, "is_paged"):  # bitsandbytes never frees what it pages
            fresh.is_paged = False
        fresh.step()
        yield fresh.state_dict()["state"].get(0, {})


def is_alike(kept: Any, expected: Any) -> bool:
    """Whether a value has the form of another one: dictionaries their names, tensors shape and dtype, all others their type."""
    if isinstance(expected, dict):
        is_same = isinstance(kept, dict) and kept.keys() == expected.keys()
        return is_same and all(is_alike(kept[name], expected[name]) for name in expected)
    if isinstance(expected, Tensor):
        return isinstance(kept, Tensor) and kept.shape == expected.shape and kept.dtype == expected.dtype
    return type(kept) is type(expected)


def counters_of(optimizer: torch.optim.Optimizer) -> list[set[str]]:
    """The entries of each parameter group that change from step to step."""
    of_all = set(getattr(optimizer, COUNTERS, ()))
    return [of_all | set(getattr(member, COUNTERS, ())) for member in members_of(optimizer) for _ in member.param_groups]


def has_counters_of(optimizer: torch.optim.Optimizer, groups: Any) -> bool:
    """Whether saved parameter groups have the counters of this optimizer, as finite numbers."""
    counters = counters_of(optimizer)
    if not any(counters):
        return True
    if not isinstance(groups, list) or len(groups) != len(counters) or not all(isinstance(each, dict) for each in groups):
        return False
    values = [saved.get(name) for saved, names in zip(groups, counters, strict=True) for name in names]
    return all(type(value) in (int, float) and math.isfinite(value) for value in values)


def of_this_run(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
    """A saved state, with the hyperparameters of this optimizer: of its parameter groups only the counters are taken."""
    own, counters = optimizer.state_dict(), counters_of(optimizer)
    groups = own["param_groups"]
    if any(counters):
        pairs = zip(groups, counters, saved["param_groups"], strict=True)
        groups = [{**group, **{name: kept[name] for name in names}} for group, names, kept in pairs]
    return {**own, "param_groups": groups, "state": saved["state"]}


def has_done(state: dict[int, Kept], steps: int, exactly: bool = True) -> bool:
    """Whether the step count of the state, if it has one, equals `steps`, or else is at most `steps`: fp16's loss scaler skips
    steps, and Prodigy those whose learning rate is 0."""
    done = max((int(kept["step"]) for kept in state.values() if "step" in kept), default=None)
    return done is None or (done == steps if exactly else done <= steps)
