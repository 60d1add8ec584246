"""The only training loop. It knows neither the method nor the family.

B samples of a micro-batch, G samples of a step (the global batch).
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from customize.data.samples.batches import Dataset
from customize.diffusion import dropout, rng
from customize.methods.method import Method
from customize.optim.averaging import taking_steps
from customize.optim.learning_rates import LearningRates
from customize.settings.derived import from_settings
from customize.storage.checkpoint import Checkpoint
from customize.training.distributed import sharding
from customize.training.resumable import IDENTITY, SKIPPED_DRAWS, WEIGHTS, Resumable, SkippedDraws, saved_parts


@dataclass(frozen=True)
class StepMetrics:
    """Metrics of a step, known once its gradients are computed. loss: mean over the global batch; names: of its images;
    seconds: time of the step, without callbacks after it; 0 before the step is done."""

    step: int
    loss: float
    gradient_norm: float
    learning_rate: float
    names: tuple[str, ...]
    seconds: float = 0.0

    @property
    def skipped(self) -> bool:
        """Whether the loss scaler of fp16 skips the step, because its gradients are not finite."""
        return not math.isfinite(self.gradient_norm)


class SkipDraw(Exception):
    """Raised by a callback to repeat a step with the next draw, after it has restored the state of the step before."""


@dataclass(frozen=True)
class Stop:
    """Returned by a callback that ends the run early.

    weights: the result instead of the last weights, with the names of `Method.trainable_state_dict`; step: the optimizer step
    of these weights, if not the last one.
    """

    reason: str
    weights: Mapping[str, Tensor] | None = None
    step: int | None = None


@dataclass(frozen=True)
class LoopConfig:
    """The settings of the loop. max_grad_norm: gradients are clipped to this norm; None: they are not."""

    seed: int
    max_train_steps: int
    train_batch_size: int
    gradient_accumulation_steps: int
    max_grad_norm: float | None

    @classmethod
    def of(cls, settings, max_train_steps: int) -> "LoopConfig":
        """The values from these settings. max_train_steps: the computed number, because settings may give epochs."""
        return replace(from_settings(cls, settings), max_train_steps=max_train_steps)


@dataclass
class State:
    """The state of a run. step: optimizer steps done; identity: what a resumed run must have in common with this one;
    model: the method as the processes train it together (`Accelerator.prepare`); parts: everything that changes from step to
    step, by name; stop: set once a callback has ended the run.

    sound: False while weights and optimizer are being changed; a checkpoint may be saved only while it is True.
    """

    identity: dict[str, Any]
    step: int
    max_train_steps: int
    method: Method
    model: Any
    optimizer: Any
    accelerator: Accelerator
    parts: dict[str, Resumable]
    sound: bool = True
    stop: Stop | None = None

    @property
    def skipped_draws(self) -> list[int]:
        """The step of each skipped draw; each of them halves the learning rate from that step on."""
        part = self.parts[SKIPPED_DRAWS]
        assert isinstance(part, SkippedDraws)
        return part.steps

    @property
    def draw(self) -> int:
        """The number of the draw that the next step uses; skipped draws count."""
        return self.step + len(self.skipped_draws)

    def checkpoint(self) -> Checkpoint:
        """The state, for `restore`; its tensors are those in use, not copies. All processes call it, and the first one has it."""
        saved = sharding.gathered(self.model, {name: part.state_dict() for name, part in self.parts.items()})
        return Checkpoint(self.step, saved.pop(WEIGHTS), {IDENTITY: self.identity, **saved})

    def whole_weights(self) -> AbstractContextManager[None]:
        """Inside the context the first process may look at the weights, also where they are sharded; all processes enter it."""
        return sharding.whole_weights(self.model)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restores the state of a checkpoint."""
        self.step = checkpoint.step
        saved = saved_parts(checkpoint)
        for name, part in self.parts.items():
            part.load_state_dict(saved[name])

    def skip_draw(self) -> None:
        """Discards the gradients of a step that was not done, and moves to the next draw."""
        if scaler := self.accelerator.scaler:
            scaler.update(scaler.get_scale())  # makes the scaler forget these gradients
        self.optimizer.zero_grad(set_to_none=True)
        self.skipped_draws.append(self.step)


class Callback:
    """Called at each stage of a run. A callback changes the result only by `SkipDraw` and `Stop`.

    Whenever one is called, the networks hold the weights that would be the result: the optimizer's average, if it has one.
    One that looks at them does so inside `State.whole_weights`.
    """

    log: Callable[[dict[str, Any]], None] = staticmethod(lambda entry: None)
    """Writes a line of log.jsonl, with its `step`; its numbers go to the trackers too. Set by the run."""

    def parts(self, method: Method) -> Mapping[str, Resumable]:
        """The parts of the state that the callback brings, by name; called once, before a run is started or resumed."""
        return {}

    def start(self, state: State) -> Stop | None:
        """Before the first step. Returning `Stop` ends the run before it, as `after_step` does after a step."""

    def before_step(self, state: State, metrics: StepMetrics) -> None:
        """After the gradients are computed, before they are used; may raise to end the run before the weights change."""

    def after_step(self, state: State, metrics: StepMetrics) -> Stop | None:
        """After the step is done and counted. Returning `Stop` ends the run after this step, with a result."""

    def draw_skipped(self, state: State, reason: str) -> None:
        """After a draw is skipped, before the same step starts with the next one."""

    def time_left(self, state: State) -> float:
        """Estimates the seconds that the callback itself will take in the rest of the run."""
        return 0.0

    def finish(self, state: State) -> None:
        """At the end, also when the run was ended by an exception."""


def train(
    config: LoopConfig,
    method: Method,
    dataset: Dataset,
    callbacks: Sequence[Callback],
    accelerator: Accelerator,
    learning_rates: LearningRates,
    parts: dict[str, Resumable],
    resume: Checkpoint | None = None,
    identity: dict[str, Any] | None = None,
) -> State:
    """Trains `method` up to max_train_steps, or until a callback stops the run; returns the last state.

    learning_rates: with the optimizer, built over the method's parameter groups; parts: of the state, those of `callbacks`
    included (`resumable.parts_of`); identity: of the run, saved in checkpoints.
    An exception of a callback ends the run, after `finish` of all callbacks.
    """
    model, optimizer = accelerator.prepare(method, learning_rates.optimizer)
    state = State(identity or {}, 0, config.max_train_steps, method, model, optimizer, accelerator, parts)
    if resume:
        state.restore(resume)
    method.train()
    with ExitStack() as started:
        stops = []
        for callback in callbacks:
            stops.append(callback.start(state))
            started.callback(callback.finish, state)
        state.stop = agreed(next(filter(None, stops), None), accelerator)
        while state.step < config.max_train_steps and not state.stop:
            try:
                step(config, state, model, dataset, learning_rates, callbacks)
            except SkipDraw as reason:
                state.skip_draw()
                for callback in callbacks:
                    callback.draw_skipped(state, str(reason))
    return state


def step(
    config: LoopConfig,
    state: State,
    model: Any,
    dataset: Dataset,
    learning_rates: LearningRates,
    callbacks: Sequence[Callback],
) -> None:
    """One optimizer step over the global batch."""
    begin = time.perf_counter()
    accelerator, parts = state.accelerator, micro_batches(config, state.accelerator)
    global_batch = config.train_batch_size * len(parts) * accelerator.num_processes
    batches = (batch for positions in parts for batch in dataset.deal(state.draw, positions))
    total, names = torch.zeros((), device=accelerator.device), ()
    with taking_steps(state.optimizer):
        for batch, is_last in with_last(batches):
            batch = batch.to(accelerator.device)
            seed_networks(config.seed, state.draw, batch.positions)
            sync = nullcontext() if is_last else accelerator.no_sync(model)
            with sync, dropout.samples(config.seed, state.draw, batch.positions):
                losses: Tensor = model(batch)
                # gradients are averaged over processes, so each one is multiplied by their number
                accelerator.backward(losses.sum() * (accelerator.num_processes / global_batch))
            total, names = total + losses.detach().sum(), names + batch.names
    learning_rate = learning_rates.set(state.step, 0.5 ** len(state.skipped_draws))
    norm = accelerator.clip_grad_norm_(state.method.parameters(), config.max_grad_norm or float("inf"))
    loss = accelerator.reduce(total, "sum") / global_batch
    metrics = StepMetrics(state.step, loss.item(), norm.item(), learning_rate, names)
    for callback in callbacks:
        callback.before_step(state, metrics)
    state.sound = False
    with taking_steps(state.optimizer):
        state.method.before_step()
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        state.method.after_step()
    state.step += 1
    state.sound = True
    metrics = replace(metrics, seconds=time.perf_counter() - begin)
    stops = [callback.after_step(state, metrics) for callback in callbacks]
    state.stop = agreed(next(filter(None, stops), None), accelerator)


def with_last(items: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
    """Each item, and whether it is the last one; only one item is read ahead."""
    items = iter(items)
    for item in items:
        for following in items:
            yield item, False
            item = following
        yield item, True


def agreed(stop: Stop | None, accelerator: Accelerator) -> Stop | None:
    """A stop on any process, so that all processes end after the same step."""
    if accelerator.num_processes == 1:
        return stop
    if not accelerator.gather(torch.tensor([stop is not None], device=accelerator.device)).any():
        return None
    return stop or Stop("another process stopped the run")


def micro_batches(config: LoopConfig, accelerator: Accelerator) -> list[range]:
    """The positions of the global batch that this process computes, one range for each micro-batch."""
    size = config.train_batch_size
    first = accelerator.process_index * config.gradient_accumulation_steps * size
    return [range(first + i * size, first + (i + 1) * size) for i in range(config.gradient_accumulation_steps)]


def seed_networks(seed: int, step: int, positions: Sequence[int]) -> None:
    """Seeds torch's global generator, from which networks of other libraries draw, by the step. Dropout of adapters is seeded by
    sample instead (`customize.diffusion.dropout`)."""
    torch.manual_seed(rng.generator(seed, "networks", step, positions[0]).initial_seed())
