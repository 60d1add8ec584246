"""Several optimizers as one."""

from collections.abc import Callable
from itertools import islice
from typing import Any

import torch
from torch.nn import Parameter


def members_of(optimizer: torch.optim.Optimizer) -> tuple[torch.optim.Optimizer, ...]:
    """The optimizers that an optimizer consists of: those of `Together`, or itself."""
    return optimizer.members if isinstance(optimizer, Together) else (optimizer,)


def parameters_of(optimizer: torch.optim.Optimizer) -> list[Parameter]:
    """The parameters of an optimizer, in the order in which its state numbers them."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


class Together(torch.optim.Optimizer):
    """Several optimizers as one: each steps its own parameter groups. Their state is saved and loaded as that of one optimizer of
    all these groups, in order; each member reads its own part of it."""

    def __init__(self, *optimizers: torch.optim.Optimizer):
        assert not any(hasattr(optimizer, "others") for optimizer in optimizers), "an average is not a part of another optimizer"
        self.members = tuple(member for optimizer in optimizers for member in members_of(optimizer))
        super().__init__([group for member in self.members for group in member.param_groups], {})

    @property
    def state(self) -> dict[Parameter, Any]:  # pyrefly: ignore
        """The state of each parameter, in whichever member."""
        return {parameter: kept for member in self.members for parameter, kept in member.state.items()}

    @state.setter
    def state(self, value: Any) -> None:
        """The members have it: torch sets an empty one."""

    def state_dict(self) -> dict[str, Any]:
        state: dict[int, Any] = {}
        groups: list[dict[str, Any]] = []
        first = 0
        for member in self.members:
            own = member.state_dict()
            state |= {first + number: kept for number, kept in own["state"].items()}
            groups += [{**group, "params": [first + number for number in group["params"]]} for group in own["param_groups"]]
            first += len(parameters_of(member))
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        groups, first = iter(state_dict["param_groups"]), 0
        for member in self.members:
            own = [*islice(groups, len(member.param_groups))]
            last = first + len(parameters_of(member))
            state = {number: kept for number, kept in state_dict["state"].items() if first <= number < last}
            member.load_state_dict({"state": state, "param_groups": own})
            first = last
        self.param_groups = [group for member in self.members for group in member.param_groups]

    def step(self, closure: Callable[[], Any] | None = None) -> None:
        for member in self.members:
            member.step()
