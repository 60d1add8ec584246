"""The parts of a training state, which checkpoints hold, the NaN guard restores, and a resumed run is checked against.

A further part (such as an average of the weights) is a class with the methods of `Resumable`, which a callback brings
(`Callback.parts`); nothing but `parts_of` lists the parts.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from customize.errors import InputError, Problem
from customize.methods.method import Method
from customize.optim.optimizer_state import counters_of, has_counters_of, has_done, is_state_of, of_this_run
from customize.optim.together import parameters_of
from customize.printable import first_few
from customize.storage.checkpoint import Checkpoint
from customize.training.distributed.sharded_tensors import placed_like

WEIGHTS, OPTIMIZER, SCALER, SKIPPED_DRAWS = "weights", "optimizer", "scaler", "left_out"
"""Names of the parts in a checkpoint's state.json; the weights are in a separate file. Skipped draws are `left_out` there and in
log.jsonl, so that the files of earlier versions can be read."""
OF_LOOP = (WEIGHTS, OPTIMIZER, SCALER, SKIPPED_DRAWS)
"""The parts that the loop changes; callbacks change their own after it."""
STEP, IDENTITY = "step", "identity"
"""Other entries of state.json."""


class Resumable(Protocol):
    """A part of the state. Its `state_dict` holds tensors, numbers, strings and None in dictionaries and lists."""

    def state_dict(self) -> Any:
        """The state; tensors are those in use, not copies."""
        ...

    def load_state_dict(self, state: Any) -> None:
        """Restores what `state_dict` returned; the tensors may be kept, not copied."""
        ...

    def faults(self, saved: Any, step: int) -> list[str]:
        """Why `saved` cannot be the state of this part after `step` steps; empty if it can. saved: None if nothing was saved."""
        ...


class TrainableWeights:
    """The weights that a method trains."""

    def __init__(self, method: Method):
        self.method = method

    def state_dict(self) -> dict[str, Tensor]:
        return self.method.trainable_state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        own = self.method.trainable_state_dict()
        self.method.load_trainable_state_dict({name: placed_like(each, own[name]) for name, each in state.items()})

    def faults(self, saved: dict[str, Tensor], step: int) -> list[str]:
        own = self.method.trainable_state_dict()
        names = sorted(own.keys() | saved.keys())
        return [
            f"the learned {name}"
            for name in names
            if name not in own or name not in saved or own[name].shape != saved[name].shape
        ]


class OptimizerState:
    """Moments and step counts. is_scaled: whether a loss scaler may skip steps, which the optimizer does not count; one with
    counters of its own may skip some as well."""

    def __init__(self, optimizer: torch.optim.Optimizer, is_scaled: bool):
        self.optimizer, self.may_skip = optimizer, is_scaled or any(counters_of(optimizer))

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        parameters = parameters_of(self.optimizer)
        placed = {
            number: {name: placed_like(value, parameters[number]) for name, value in kept.items()}
            for number, kept in state["state"].items()
        }
        self.optimizer.load_state_dict({**state, "state": placed})

    def faults(self, saved: Any, step: int) -> list[str]:
        state = saved.get("state") if isinstance(saved, dict) else None
        if not is_state_of(self.optimizer, state) or not has_counters_of(self.optimizer, saved.get("param_groups")):
            return ["the state of the optimizer"]
        return [] if has_done(state, step, not self.may_skip) else [f"an optimizer that has not done {step} steps"]

    def of_this_run(self, saved: dict[str, Any]) -> dict[str, Any]:
        """A saved state with the hyperparameters of this run."""
        return of_this_run(self.optimizer, saved)


class LossScaler:
    """The loss scale of fp16."""

    def __init__(self, scaler: torch.amp.GradScaler):
        self.scaler = scaler

    def state_dict(self) -> dict[str, Any]:
        return self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scaler.load_state_dict(state)

    def faults(self, saved: Any, step: int) -> list[str]:
        own = self.scaler.state_dict()
        fits = isinstance(saved, dict) and saved.keys() == own.keys()
        return [] if fits and all(type(saved[name]) is type(own[name]) for name in own) else ["the scale of fp16"]


class SkippedDraws:
    """The step of each skipped draw."""

    def __init__(self):
        self.steps: list[int] = []

    def state_dict(self) -> list[int]:
        return list(self.steps)

    def load_state_dict(self, state: list[int]) -> None:
        self.steps = list(state)

    def faults(self, saved: Any, step: int) -> list[str]:
        is_list = isinstance(saved, list) and all(type(each) is int and 0 <= each <= step for each in saved)
        return [] if is_list else ["skipped draws"]


def parts_of(
    method: Method, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None, *further: Mapping[str, Resumable]
) -> dict[str, Resumable]:
    """Everything that changes from step to step, in the order in which checkpoints list it.

    further: the parts of each callback. Raises InputError where two parts have one name.
    """
    scaled: dict[str, Resumable] = {SCALER: LossScaler(scaler)} if scaler else {}
    parts = {
        WEIGHTS: TrainableWeights(method),
        OPTIMIZER: OptimizerState(optimizer, is_scaled=scaler is not None),
        **scaled,
        SKIPPED_DRAWS: SkippedDraws(),
    }
    for own in further:
        if taken := own.keys() & {*parts, STEP, IDENTITY}:
            what = f"a callback's part of the state has the name of another part: {first_few(sorted(taken))}"
            raise InputError(Problem("callbacks", what, "give it another name"))
        parts |= own
    return parts


def saved_parts(checkpoint: Checkpoint) -> dict[str, Any]:
    """The saved state of each part in a checkpoint."""
    return {SKIPPED_DRAWS: [], **checkpoint.state, WEIGHTS: checkpoint.learned}


def copied(tree: Any, tensors: list[Tensor]) -> Any:
    """A copy of the containers of a state; its tensors are not copied, but appended to the list."""
    if isinstance(tree, dict):
        return {key: copied(value, tensors) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(copied(value, tensors) for value in tree)
    if isinstance(tree, Tensor):
        tensors.append(tree)
    return tree


def replaced(tree: Any, by_id: Mapping[int, Tensor]) -> Any:
    """The state with other tensors. by_id: the replacement of each tensor, by the `id` of the original."""
    if isinstance(tree, dict):
        return {key: replaced(value, by_id) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(replaced(value, by_id) for value in tree)
    return by_id[id(tree)] if isinstance(tree, Tensor) else tree


def named_tensors(tree: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a nested state, each with its path of keys."""
    if isinstance(tree, Tensor):
        yield name, tree
    elif isinstance(tree, dict | list | tuple):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from named_tensors(value, f"{name}/{key}" if name else str(key))
