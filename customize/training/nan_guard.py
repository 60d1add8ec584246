"""The guard on numbers: a loss, gradient, learned weight or state of the optimizer that is NaN or infinite ends the run.

It ends at that very step, with the state of the step before: what was bad is in no file. With `on_nan = retry` that
step's draw is left out instead, and the learning rate halved from there on.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from customize import events
from customize.errors import NumericsError
from customize.printable import first_few
from customize.storage.checkpoint import is_finite
from customize.training.loop import Callback, SkipDraw, State, StepMetrics
from customize.training.resumable import OPTIMIZER, SKIPPED_DRAWS, WEIGHTS, copied, named_tensors, replaced

IN_A_ROW, IN_ALL = 3, 10
"""Draws that are left out at one step, and in a run."""
SKIPPED_IN_A_ROW = 20
"""Steps that the loss scaler of fp16 may skip, looking for its scale, which it halves each time."""
SNAPSHOT_LIMIT = 1 << 26
"""Bytes of weights and optimizer state up to which the last good ones are kept in memory: adapters and words are far below,
a network that learns in full is far above."""
REMEDY = "start anew with a lower learning_rate, or go on with --resume_from_checkpoint latest --on_nan retry"


class NanGuard(Callback):
    """Stops, or leaves a draw out, where numbers give out. It is to be asked first, before anything is saved.

    Loss and gradients are looked at before they are used, weights and optimizer state after each step (of a network too
    large to be kept twice only the weights: what the optimizer keeps of it is looked at when it is saved). Under fp16 an
    infinite gradient is how the loss scaler finds its scale: then the step is skipped, not the run ended.
    """

    def __init__(self, on_nan: str = "stop", remedy: str = REMEDY):
        self.on_nan, self.remedy = on_nan, remedy
        self.good: Snapshot | None = None
        self.skipped = self.in_a_row = 0

    def start(self, state: State) -> None:
        self.tensors: list[Tensor] = []
        self.look(state)

    def before_step(self, state: State, metrics: StepMetrics) -> None:
        watched = {"the loss": metrics.loss}
        if state.accelerator.scaler is None:
            watched["a gradient"] = metrics.gradient_norm
        for what, value in watched.items():
            if not math.isfinite(value):
                self.refuse(state, metrics, f"{what} is {value}")

    def after_step(self, state: State, metrics: StepMetrics) -> None:
        if not self.look(state):
            self.refuse(state, metrics, f"not finite after the step: {first_few(damaged(state), 3)}")
        if metrics.skipped:
            self.count_skipped(state, metrics)
        else:
            self.in_a_row = 0

    def look(self, state: State) -> bool:
        """Whether the numbers are finite. Those that are, and are not too many, are kept."""
        tensors: list[Tensor] = []
        trees = copied({name: part.state_dict() for name, part in state.parts.items()}, tensors)
        if [*map(id, tensors)] != [*map(id, self.tensors)]:  # the optimizer makes its own in its first step
            self.tensors, small = tensors, sum(tensor.nbytes for tensor in tensors) <= SNAPSHOT_LIMIT
            self.rooms = (Snapshot(tensors), Snapshot(tensors)) if small else ()
        spare = next((room for room in self.rooms if room is not self.good), None)
        if spare:
            spare.copy(state.step, trees)
        if finite := are_finite(state, spare.packed.values() if spare else trees[WEIGHTS].values()):
            self.good = spare
        return finite

    def count_skipped(self, state: State, metrics: StepMetrics) -> None:
        """Says which steps the loss scaler skipped; raises NumericsError when it finds no scale."""
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        scale = state.accelerator.scaler.get_scale()
        why = "its gradients are too large for fp16"
        events.info(f"step {state.step} changed nothing: {why} ({self.skipped} so far; scale now {scale:g})")
        if self.in_a_row == SKIPPED_IN_A_ROW:
            raise NumericsError(
                f"{self.in_a_row} steps in a row changed nothing, their gradients too large for fp16 (last one: step "
                f"{state.step}, pictures: {names(metrics)})\n    -> use --mixed_precision bf16 or no, or a lower learning_rate"
            )

    def refuse(self, state: State, metrics: StepMetrics, what: str) -> NoReturn:
        """Puts the state of the step before back, where it is not there any more, and raises SkipDraw or NumericsError."""
        what += f" at step {metrics.step + 1} (pictures: {names(metrics)})"
        if not are_finite(state, tensors_of(state).values()):
            if self.good is None:
                state.sound = False
                raise NumericsError(f"{what}; the last checkpoint is kept\n    -> {self.remedy}")
            self.good.put_back(state)
        if self.on_nan == "retry" and state.skipped_draws.count(state.step) < IN_A_ROW and len(state.skipped_draws) < IN_ALL:
            events.info(f"{what}; step {metrics.step + 1} again with other draws, at half the learning rate")
            raise SkipDraw(what)
        raise NumericsError(f"{what}; the state of step {metrics.step} is kept\n    -> {self.remedy}")


class Snapshot:
    """Room for a state to go back to: one tensor for all of its tensors of one dtype and device, and a piece of it for each."""

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
        """Keeps the state as it is now. trees: the state of each part, in containers that are copies already."""
        self.step, self.trees = step, trees
        for kind, tensors in self.tensors.items():
            torch._foreach_copy_(self.pieces[kind], tensors)

    def put_back(self, state: State) -> None:
        """Makes the state what it was, but for the draws that were skipped since: those stay skipped."""
        state.step = self.step
        pairs = (pair for kind, same in self.tensors.items() for pair in zip(same, self.pieces[kind], strict=True))
        copies = {id(tensor): piece.clone() for tensor, piece in pairs}  # a part may make them its own
        for name, part in state.parts.items():
            if name != SKIPPED_DRAWS:
                part.load_state_dict(replaced(self.trees[name], copies))


def names(metrics: StepMetrics) -> str:
    """The pictures of a step."""
    return ", ".join(dict.fromkeys(metrics.names))


def tensors_of(state: State) -> dict[str, Tensor]:
    """All tensors of the state: those that learn, and what the optimizer keeps of each."""
    return dict(named_tensors({name: part.state_dict() for name, part in state.parts.items()}))


def are_finite(state: State, tensors: Iterable[Tensor]) -> bool:
    """Whether all numbers of these tensors are finite, and not so large that their squares are not, on every process."""
    norm = get_total_norm([tensor.detach() for tensor in tensors if tensor.is_floating_point()])
    return bool(state.accelerator.gather(norm.float().to(state.accelerator.device)).isfinite().all())


def damaged(state: State) -> list[str]:
    """The names of the tensors that are not finite."""
    found = [name for name, tensor in tensors_of(state).items() if not is_finite(tensor.detach())]
    return [readable(name, state) for name in found] or ["on another process"]


def readable(name: str, state: State) -> str:
    """The name of a tensor of the state; the optimizer numbers its parameters, which have names in the method."""
    kept = f"{OPTIMIZER}/state/"
    if not name.startswith(kept):
        return name.removeprefix(f"{WEIGHTS}/")
    number, _, what = name.removeprefix(kept).partition("/")
    parameter = [each for group in state.optimizer.param_groups for each in group["params"]][int(number)]
    names = [own for own, tensor in state.method.trainable_state_dict().items() if tensor is parameter]
    return f"the optimizer's {what} of {names[0] if names else f'parameter {number}'}"
