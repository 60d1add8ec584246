"""The guard on numbers: a loss, gradient, learned weight or state of the optimizer that is NaN or infinite ends the run.

It ends at that very step, with the state of the step before: what was bad is in no file. With `on_nan = retry` that
step's draw is left out instead, and the learning rate halved from there on.
"""

import math
from typing import Any, NoReturn

from torch import Tensor
from torch.nn.utils import get_total_norm

from customize.checkpoint import Checkpoint
from customize.errors import NumericsError
from customize.findings import first_few
from customize.trainer import LeaveOut, Record, State, Watcher

IN_A_ROW, IN_ALL = 3, 10
"""Draws that are left out at one step, and in a run."""
SKIPPED_IN_A_ROW = 20
"""Steps that the loss scaler of fp16 may skip, looking for its scale, which it halves each time."""
KEPT = 1 << 26
"""Bytes of weights and optimizer state up to which the last good ones are kept in memory: adapters and words are far below,
a network that learns in full is far above."""


class Numbers(Watcher):
    """Stops, or leaves a draw out, where numbers give out. It is to be asked first, before anything is saved.

    Loss and gradients are looked at before they are used, weights and optimizer state after each step. Under fp16 an
    infinite gradient is how the loss scaler finds its scale: then the step is skipped, not the run ended.
    """

    def __init__(self, on_nan: str = "stop"):
        self.on_nan = on_nan
        self.good: Checkpoint | None = None
        self.skipped = self.in_a_row = 0

    def start(self, state: State) -> None:
        self.keep(state, tensors_of(state))

    def before_step(self, state: State, record: Record) -> None:
        watched = {"the loss": record.loss}
        if state.accelerator.scaler is None:
            watched["a gradient"] = record.gradient_norm
        for what, value in watched.items():
            if not math.isfinite(value):
                self.refuse(state, record, f"{what} is {value}")

    def after_step(self, state: State, record: Record) -> None:
        tensors = tensors_of(state)
        if is_damaged(state, tensors):
            self.refuse(state, record, f"not finite after the step: {first_few(damaged(tensors), 3)}")
        if record.skipped:
            self.count_skipped(state, record)
        else:
            self.in_a_row = 0
        self.keep(state, tensors)

    def count_skipped(self, state: State, record: Record) -> None:
        """Says which steps the loss scaler skipped; raises NumericsError when it finds no scale."""
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        scale = state.accelerator.scaler.get_scale()
        why = "its gradients are too large for fp16"
        state.accelerator.print(f"step {state.step} changed nothing: {why} ({self.skipped} so far; scale now {scale:g})")
        if self.in_a_row == SKIPPED_IN_A_ROW:
            raise NumericsError(
                f"{self.in_a_row} steps in a row changed nothing, their gradients too large for fp16 (last one: step "
                f"{state.step}, pictures: {names(record)})\n    -> use --mixed_precision bf16 or no, or a lower learning_rate"
            )

    def refuse(self, state: State, record: Record, what: str) -> NoReturn:
        """Puts the state of the step before back, where it is not there any more, and raises LeaveOut or NumericsError."""
        what += f" at step {record.step + 1} (pictures: {names(record)})"
        if is_damaged(state, tensors_of(state)):
            if self.good is None:
                state.sound = False
                raise NumericsError(f"{what}; the last checkpoint is kept\n    -> go on with --resume_from_checkpoint latest")
            state.restore(copied(self.good))
        if self.on_nan == "retry" and state.left_out.count(state.step) < IN_A_ROW and len(state.left_out) < IN_ALL:
            state.accelerator.print(f"{what}; step {record.step + 1} again with other draws, at half the learning rate")
            raise LeaveOut(what)
        raise NumericsError(
            f"{what}; the state of step {record.step} is kept\n    -> "
            f"start anew with a lower learning_rate, or go on with --resume_from_checkpoint latest --on_nan retry"
        )

    def keep(self, state: State, tensors: dict[str, Tensor]) -> None:
        """Remembers a state that is known to be good, where that is not too large."""
        size = sum(tensor.nbytes for tensor in tensors.values())
        self.good = copied(state.checkpoint(), self.good) if size <= KEPT else None


def names(record: Record) -> str:
    """The pictures of a step."""
    return ", ".join(dict.fromkeys(record.names))


def tensors_of(state: State) -> dict[str, Tensor]:
    """The learned weights, and what the optimizer keeps of each, by name."""
    learned = state.method.learned()
    name_of = {id(parameter): name for name, parameter in learned.items()}
    kept = {
        f"{key} of {name_of.get(id(parameter), 'a weight')}": value
        for parameter, values in state.optimizer.state.items()
        for key, value in values.items()
        if isinstance(value, Tensor)
    }
    return learned | kept


def is_damaged(state: State, tensors: dict[str, Tensor]) -> bool:
    """Whether a number of these tensors is not finite, or so large that its square is not, on any process."""
    norm = get_total_norm([tensor.detach() for tensor in tensors.values() if tensor.is_floating_point()])
    return not bool(state.accelerator.gather(norm.float().to(state.accelerator.device)).isfinite().all())


def damaged(tensors: dict[str, Tensor]) -> list[str]:
    """The names of the tensors that are not finite."""
    floating = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    return [name for name, tensor in floating.items() if not bool(tensor.isfinite().all())] or ["on another process"]


def copied(kept: Checkpoint, earlier: Checkpoint | None = None) -> Checkpoint:
    """The same checkpoint with tensors of its own: those of `earlier`, overwritten, where it has them."""
    learned, optimizer = (earlier.learned, earlier.state["optimizer"]) if earlier else ({}, {})
    state = {**kept.state, "optimizer": cloned(kept.state["optimizer"], optimizer)}
    return Checkpoint(kept.step, cloned(kept.learned, learned), state)


def cloned(tree: Any, into: Any) -> Any:
    """The same tree of dictionaries with copies of its tensors, made in those of another such tree where it has them."""
    if isinstance(tree, Tensor):
        return into.copy_(tree.detach()) if isinstance(into, Tensor) else tree.detach().clone()
    if isinstance(tree, dict):
        return {key: cloned(value, into.get(key) if isinstance(into, dict) else None) for key, value in tree.items()}
    return list(tree) if isinstance(tree, list) else tree
