"""Stops a run when a loss, gradient, trained weight or optimizer state is NaN or infinite.

The run stops at that step with the state of the step before, so no file holds a bad number. With `on_nan = retry` the
step is repeated with other draws instead, and the learning rate is halved from there on.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Set
from copy import deepcopy
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from customize import events
from customize.errors import NumericsError
from customize.printable import first_few
from customize.storage.checkpoint import is_finite
from customize.training.distributed.sharded_tensors import is_sharded, local
from customize.training.loop import Callback, SkipDraw, State, StepMetrics
from customize.training.resumable import OF_LOOP, OPTIMIZER, SKIPPED_DRAWS, WEIGHTS, copied, named_tensors, replaced

IN_A_ROW, IN_ALL = 3, 10
"""Draws that may be skipped at one step, and in a run."""
SKIPPED_IN_A_ROW = 20
"""Steps in a row that the loss scaler of fp16 may skip; it halves its scale each time."""
SNAPSHOT_LIMIT = 1 << 26
"""Bytes of weights and optimizer state up to which a snapshot of the last finite ones is kept in memory. Adapters and words
are far below the limit, a fully trained network is far above."""
REMEDY = "start over with a lower learning_rate, or resume with --resume_from_checkpoint latest --on_nan retry"


class NanGuard(Callback):
    """Stops the run, or skips a draw, on NaN or infinity. Must be the first callback, before anything is saved.

    Loss and gradients are checked before they are used, weights and optimizer state after each step (for a network too
    large for a snapshot only the weights; its optimizer state is checked when it is saved). With fp16, infinite gradients are
    how the loss scaler finds its scale: they skip the step and do not stop the run.
    """

    def __init__(self, on_nan: str = "stop", remedy: str = REMEDY):
        self.on_nan, self.remedy = on_nan, remedy
        self.good: Snapshot | None = None
        self.of_callbacks: dict[str, Any] = {}
        self.skipped = self.in_a_row = 0

    def start(self, state: State) -> None:
        self.tensors: list[Tensor] = []
        self.check(state)

    def before_step(self, state: State, metrics: StepMetrics) -> None:
        if self.good:  # callbacks have changed their parts since it was copied
            self.of_callbacks = deepcopy(states(state, state.parts.keys() - set(OF_LOOP)))
        watched = {"the loss": metrics.loss}
        if state.accelerator.scaler is None:
            watched["a gradient"] = metrics.gradient_norm
        for what, value in watched.items():
            if not math.isfinite(value):
                self.refuse(state, metrics, f"{what} is {value}")

    def after_step(self, state: State, metrics: StepMetrics) -> None:
        if not self.check(state):
            self.refuse(state, metrics, f"not finite after the step: {first_few(damaged(state), 3)}")
        if metrics.skipped:
            self.count_skipped(state, metrics)
        else:
            self.in_a_row = 0

    def check(self, state: State) -> bool:
        """Whether the numbers are finite; if so, and within `SNAPSHOT_LIMIT`, they are kept."""
        tensors: list[Tensor] = []
        trees = copied(states(state, state.parts.keys() & set(OF_LOOP)), tensors)
        if [*map(id, tensors)] != [*map(id, self.tensors)]:  # the optimizer creates its tensors in its first step
            whole = not any(map(is_sharded, tensors))
            self.tensors, small = tensors, whole and sum(tensor.nbytes for tensor in tensors) <= SNAPSHOT_LIMIT
            self.snapshots = (Snapshot(tensors), Snapshot(tensors)) if small else ()
        spare = next((snapshot for snapshot in self.snapshots if snapshot is not self.good), None)
        if spare:
            spare.copy(state.step, trees)
        if finite := are_finite(state, spare.packed.values() if spare else trees[WEIGHTS].values()):
            self.good = spare
        return finite

    def count_skipped(self, state: State, metrics: StepMetrics) -> None:
        """Reports a step that the loss scaler skipped; raises NumericsError when it finds no scale."""
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        scale = state.accelerator.scaler.get_scale()
        why = "its gradients are too large for fp16"
        events.info(f"step {state.step} was skipped: {why} ({self.skipped} so far; scale now {scale:g})")
        if self.in_a_row == SKIPPED_IN_A_ROW:
            raise NumericsError(
                f"{self.in_a_row} steps in a row were skipped: their gradients are too large for fp16 (last one: step "
                f"{state.step}, images: {names(metrics)})\n    -> use --mixed_precision bf16 or no, or a lower learning_rate"
            )

    def refuse(self, state: State, metrics: StepMetrics, what: str) -> NoReturn:
        """Restores the state of the step before if this step changed it, and raises SkipDraw or NumericsError."""
        what += f" at step {metrics.step + 1} (images: {names(metrics)})"
        if not are_finite(state, tensors_of(state).values()):
            if self.good is None:
                state.sound = False
                raise NumericsError(f"{what}; the last checkpoint is kept\n    -> {self.remedy}")
            self.good.restore(state)
            for name, saved in self.of_callbacks.items():
                state.parts[name].load_state_dict(saved)
        if self.on_nan == "retry" and state.skipped_draws.count(state.step) < IN_A_ROW and len(state.skipped_draws) < IN_ALL:
            events.info(f"{what}; repeating step {metrics.step + 1} with other draws, at half the learning rate")
            raise SkipDraw(what)
        raise NumericsError(f"{what}; the state of step {metrics.step} is kept\n    -> {self.remedy}")


class Snapshot:
    """A copy of a state, to return to. The tensors of one dtype and device share one buffer; `pieces` are views into it."""

    def __init__(self, tensors: list[Tensor]):
        self.tensors: dict[Any, list[Tensor]] = defaultdict(list)
        for tensor in tensors:
            self.tensors[tensor.dtype, tensor.device].append(tensor)
        self.packed, self.pieces = {}, {}
        for (dtype, device), same in self.tensors.items():
            sizes = [tensor.numel() for tensor in same]
            self.packed[dtype, device] = torch.empty(sum(sizes), dtype=dtype, device=device)
            split = self.packed[dtype, device].split(sizes)
            self.pieces[dtype, device] = [piece.view(tensor.shape) for piece, tensor in zip(split, same, strict=True)]

    @torch.no_grad()
    def copy(self, step: int, trees: dict[str, Any]) -> None:
        """Copies the present state. trees: the state of each part, in containers that are copies already."""
        self.step, self.trees = step, trees
        for kind, tensors in self.tensors.items():
            torch._foreach_copy_(self.pieces[kind], tensors)

    def restore(self, state: State) -> None:
        """Restores the state, except for the draws that were skipped since: they stay skipped."""
        state.step = self.step
        pairs = (pair for kind, same in self.tensors.items() for pair in zip(same, self.pieces[kind], strict=True))
        copies = {id(tensor): piece.clone() for tensor, piece in pairs}  # a part may keep them
        for name, tree in self.trees.items():
            if name != SKIPPED_DRAWS:
                state.parts[name].load_state_dict(replaced(tree, copies))


def states(state: State, names: Set[str]) -> dict[str, Any]:
    """The state of each of these parts."""
    return {name: part.state_dict() for name, part in state.parts.items() if name in names}


def names(metrics: StepMetrics) -> str:
    """The images of a step."""
    return ", ".join(dict.fromkeys(metrics.names))


def tensors_of(state: State) -> dict[str, Tensor]:
    """All tensors of the state: the trained ones, and the optimizer's state of each."""
    return dict(named_tensors(states(state, state.parts.keys())))


def are_finite(state: State, tensors: Iterable[Tensor]) -> bool:
    """Whether the norm of these tensors is finite on every process: so are all numbers in them, and their squares."""
    norm = get_total_norm([local(tensor.detach()) for tensor in tensors if tensor.is_floating_point()])
    return bool(state.accelerator.gather(norm.float().to(state.accelerator.device)).isfinite().all())


def damaged(state: State) -> list[str]:
    """The names of the tensors that are not finite."""
    found = [name for name, tensor in tensors_of(state).items() if not is_finite(local(tensor.detach()))]
    return [readable(name, state) for name in found] or ["on another process"]


def readable(name: str, state: State) -> str:
    """The name of a tensor of the state, for messages. The optimizer only numbers its parameters; the method names them."""
    kept = f"{OPTIMIZER}/state/"
    if not name.startswith(kept):
        return name.removeprefix(f"{WEIGHTS}/")
    number, _, what = name.removeprefix(kept).partition("/")
    parameter = [each for group in state.optimizer.param_groups for each in group["params"]][int(number)]
    names = [own for own, tensor in state.method.trainable_state_dict().items() if tensor is parameter]
    return f"the optimizer's {what} of {names[0] if names else f'parameter {number}'}"
