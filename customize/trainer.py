"""The one and only training loop. It does not know what is trained, nor on what.

B samples of a micro-batch, G samples of a step (the global batch).
"""

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor

from customize import draws, dropout
from customize.checkpoint import Checkpoint
from customize.methods.method import Method
from customize.optimizers import LearningRates


class Dataset(Protocol):
    """Where samples come from."""

    def deal(self, step: int, positions: Sequence[int]) -> Sequence[Any]:
        """The samples at these positions of the step's global batch, as batches that each fit one forward pass.

        step: the number of the draw, which is the step as long as no draw was skipped. A batch has `to(device)`, `names`
        and `positions`, one for each of its samples; a position may come more than once.
        """
        ...


@dataclass(frozen=True)
class StepMetrics:
    """What is known of a step once its gradients are there. loss: mean over the global batch; names: its pictures;
    seconds: what the step took, without what callbacks do after it; 0 before it is done."""

    step: int
    loss: float
    gradient_norm: float
    learning_rate: float
    names: tuple[str, ...]
    seconds: float = 0.0

    @property
    def skipped(self) -> bool:
        """Whether the step changes nothing: its gradients are not finite, and the loss scaler of fp16 skips it."""
        return not math.isfinite(self.gradient_norm)


class SkipDraw(Exception):
    """Raised by a callback that wants a step done again with the next draw, after it saw to it that the state is that before."""


@dataclass
class State:
    """All that resuming needs. step: optimizer steps done; identity: what must be the same for a run to be the same.

    sound: false while weights and optimizer are being changed; in between a checkpoint may be made.
    skipped_draws: the step at which a draw was skipped, once for each; every one halves the learning rate from there on.
    """

    identity: dict[str, Any]
    step: int
    max_train_steps: int
    method: Method
    optimizer: Any
    learning_rates: LearningRates
    accelerator: Accelerator
    sound: bool = True
    skipped_draws: list[int] = field(default_factory=list)

    @property
    def draw(self) -> int:
        """The number of the draw that the next step takes: one after another, those that were left out among them."""
        return self.step + len(self.skipped_draws)

    def checkpoint(self) -> Checkpoint:
        """A picture of the state that `restore` understands."""
        scaler = self.accelerator.scaler
        state = {
            "identity": self.identity,
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler else None,
            "left_out": list(self.skipped_draws),
        }
        return Checkpoint(self.step, self.method.learned(), state)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Goes back to where the checkpoint was made."""
        self.step = checkpoint.step
        self.skipped_draws = list(checkpoint.state.get("left_out", ()))
        self.method.load_learned(checkpoint.learned)
        self.optimizer.load_state_dict(checkpoint.state["optimizer"])
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(checkpoint.state["scaler"])

    def skip_draw(self) -> None:
        """Drops the gradients of a step that was not done, and goes on to the next draw."""
        if scaler := self.accelerator.scaler:
            scaler.update(scaler.get_scale())  # forgets that it has seen these gradients
        self.optimizer.zero_grad(set_to_none=True)
        self.skipped_draws.append(self.step)


class Callback:
    """Looks on while a run goes its way; nothing that a callback does changes the result."""

    def start(self, state: State) -> None:
        """Before the first step."""

    def before_step(self, state: State, metrics: StepMetrics) -> None:
        """With the gradients in place, before they are used; may raise to stop the run while the weights are good."""

    def after_step(self, state: State, metrics: StepMetrics) -> None:
        """With the step done and counted."""

    def draw_skipped(self, state: State, reason: str) -> None:
        """With a draw left out, and the state ready for the same step with the next one."""

    def time_left(self, state: State) -> float:
        """Seconds that it will take for itself in the rest of the run, as far as it can tell."""
        return 0.0

    def finish(self, state: State) -> None:
        """At the end, also when the run was stopped by an exception."""


def train(
    settings,
    method: Method,
    dataset: Dataset,
    callbacks: Sequence[Callback],
    accelerator: Accelerator,
    max_train_steps: int,
    learning_rate_scale: float = 1.0,
    resume: Checkpoint | None = None,
    identity: dict[str, Any] | None = None,
) -> State:
    """Trains `method` up to max_train_steps; returns the last state.

    settings: train_batch_size, gradient_accumulation_steps, max_grad_norm, seed, and what the optimizer asks for.
    identity: what checkpoints say of the run. Whatever a callback raises ends the run, after all callbacks finished.
    """
    model, optimizer = accelerator.prepare(method, method.build_optimizer(settings))
    learning_rates = LearningRates(settings, optimizer, max_train_steps, learning_rate_scale)
    state = State(identity or {}, 0, max_train_steps, method, optimizer, learning_rates, accelerator)
    if resume:
        state.restore(resume)
    method.train()
    with ExitStack() as started:
        for callback in callbacks:
            callback.start(state)
            started.callback(callback.finish, state)
        while state.step < max_train_steps:
            try:
                step(settings, state, model, dataset, callbacks)
            except SkipDraw as reason:
                state.skip_draw()
                for callback in callbacks:
                    callback.draw_skipped(state, str(reason))
    return state


def step(settings, state: State, model: Any, dataset: Dataset, callbacks: Sequence[Callback]) -> None:
    """One optimizer step, over as many micro-dataset as the settings say."""
    begin = time.perf_counter()
    accelerator, parts = state.accelerator, micro_batches(settings, state.accelerator)
    global_batch = settings.train_batch_size * len(parts) * accelerator.num_processes
    batches = [batch for positions in parts for batch in dataset.deal(state.draw, positions)]
    total, names = torch.zeros((), device=accelerator.device), ()
    for number, batch in enumerate(batches, 1):
        batch = batch.to(accelerator.device)
        seed_networks(settings.seed, state.draw, batch.positions)
        sync = accelerator.no_sync(model) if number < len(batches) else nullcontext()
        with sync, dropout.samples(settings.seed, state.draw, batch.positions):
            losses: Tensor = model(batch)
            # processes average their gradients, so each gives its share times their number
            accelerator.backward(losses.sum() * (accelerator.num_processes / global_batch))
        total, names = total + losses.detach().sum(), names + batch.names
    norm = accelerator.clip_grad_norm_(state.method.parameters(), settings.max_grad_norm or float("inf"))
    loss = accelerator.reduce(total, "sum") / global_batch
    learning_rate = state.learning_rates.set(state.step, 0.5 ** len(state.skipped_draws))
    metrics = StepMetrics(state.step, loss.item(), norm.item(), learning_rate, names)
    for callback in callbacks:
        callback.before_step(state, metrics)
    state.sound = False
    state.method.before_step()
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.method.after_step()
    state.step += 1
    state.sound = True
    metrics = replace(metrics, seconds=time.perf_counter() - begin)
    for callback in callbacks:
        callback.after_step(state, metrics)


def micro_batches(settings, accelerator: Accelerator) -> list[range]:
    """The positions of the global batch that this process computes, one range for each micro-batch."""
    size = settings.train_batch_size
    first = accelerator.process_index * settings.gradient_accumulation_steps * size
    return [range(first + i * size, first + (i + 1) * size) for i in range(settings.gradient_accumulation_steps)]


def seed_networks(seed: int, step: int, positions: Sequence[int]) -> None:
    """What a network of others draws from torch's global generator follows from the step, too; an adapter's dropout follows from
    each sample (`customize.dropout`)."""
    torch.manual_seed(draws.generator(seed, "networks", step, positions[0]).initial_seed())
