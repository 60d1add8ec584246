"""How much a run changed: the trained weights, and the network's predictions, before and after, on fixed samples.

The samples come from a random stream of their own and nothing is differentiated, so the run is bit-identical with and without
this measurement.

B fixed samples; W a weight [out, in, ...] of the base model, whose change by an adapter is a tensor [out, in, ...] or, if that is
of low rank, a product of [out, rank] and [rank, in ...].
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from customize.adapters.peft_layers import NAME, is_tuner_layer, own_parameters

SAMPLES = 8
"""Fixed samples, at noise levels spread over the schedule: 16 predictions in all; a run of 800 steps makes 2,400."""
WHOLE, KEPT = 1 << 22, 1 << 12
"""Up to this many numbers all trained weights are compared; beyond it, this many evenly spread numbers of each tensor."""
HARDLY, EXPLODED, TOO_FAR = 0.005, 1.3, 1.0
"""Below this change of the predictions a run has hardly changed anything; above this growth of the loss, or this change of a
network's weights, it diverged. Useful training changes weights by a few hundredths; the vectors of words are not limited."""


@dataclass(frozen=True)
class Measured:
    """weights: see `kept`; predictions: [B, C, H, W]; loss: the mean over the fixed samples."""

    weights: dict[str, Any]
    predictions: Tensor
    loss: float


@dataclass(frozen=True)
class Change:
    """How much a run changed, relative to its start. loss: before and after, on the fixed samples; too_far: the change of the
    weights above which the run diverged."""

    weights: float
    predictions: float
    loss: tuple[float, float]
    too_far: float = TOO_FAR

    @property
    def verdict(self) -> str:
        """ "exploded", "hardly" or "learned"."""
        before, after = self.loss
        if not all(map(math.isfinite, (self.weights, self.predictions, after))) or after > EXPLODED * before:
            return "exploded"
        if self.weights > self.too_far:
            return "exploded"
        return "hardly" if self.predictions < HARDLY else "learned"

    def __str__(self) -> str:
        """One or two sentences for the user."""
        numbers = f"weights by {percent(self.weights)}, predictions by {percent(self.predictions)}"
        loss = f"the loss on {SAMPLES} fixed samples went from {self.loss[0]:.4f} to {self.loss[1]:.4f}"
        match self.verdict:
            case "exploded":
                advice = "start over with a lower --learning_rate, or use earlier weights"
                return f"warning: the training diverged: {loss} ({numbers}): {advice}"
            case "hardly":
                advice = "more steps or a higher --learning_rate"
                return f"warning: the training has hardly changed anything ({numbers}; {loss}): {advice}"
        return f"changed: {numbers}; {loss}"


def percent(share: float) -> str:
    """A share with two significant digits, such as 0.012 %."""
    return f"{100 * share:.2g} %" if share < 1 else f"{100 * share:.0f} %"


class Probe:
    """Measures a method when created; `change` measures it again and returns the difference.

    method: a `DenoisingMethod` before its first step, also when a run is resumed, so that the change is that of the whole run.
    dataset: its `probe(number)` returns the fixed samples. autocast: the context in which the networks are evaluated.
    """

    def __init__(self, method, dataset, device: torch.device, size: int, autocast: Callable[[], Any]):
        self.method, self.device, self.size, self.autocast = method, device, size, autocast
        self.batch = dataset.probe(SAMPLES)
        self.start = self.measure()

    @torch.no_grad()
    def measure(self) -> Measured:
        """The present weights, predictions and loss. The method keeps its training or evaluation mode."""
        was_training = self.method.training
        self.method.eval()
        predictions, losses = [], []
        for first in range(0, SAMPLES, self.size):
            batch = self.batch.part(slice(first, first + self.size)).to(self.device)
            with self.autocast():
                prediction, target = self.method.prediction(batch), self.method.denoising_target(batch)
            predictions.append(prediction.float().cpu())
            losses.append(self.method.losses(prediction, target, batch).cpu())
        self.method.train(was_training)
        return Measured(kept(self.method), torch.cat(predictions), torch.cat(losses).mean().item())

    def change(self) -> Change:
        """The change since the start."""
        now, start = self.measure(), self.start
        predictions = (now.predictions - start.predictions).norm() / start.predictions.norm()
        weights = relative_change(self.method, start.weights, now.weights)
        too_far = TOO_FAR if self.method.small_changes else math.inf
        return Change(weights, predictions.item(), (start.loss, now.loss), too_far)


def kept(method) -> dict[str, Any]:
    """Copies of the trained weights: of an adapter, by module, its change of W, as factors or sampled; otherwise the parameters
    themselves, sampled if there are many."""
    found: dict[str, Any] = {}
    learned = {} if (layers := adapted(method)) else method.trainable_state_dict()
    for name, layer in layers.items():
        if (factors := method.adapter.factors(layer, NAME)) is not None:
            found[name] = tuple(factor.detach().double().flatten(1).cpu().clone() for factor in factors)
        elif (delta := method.adapter.delta_weight(layer, NAME)) is not None:
            found[name] = sampled(delta, KEPT)
        else:
            learned |= {f"{name}.{place}": parameter for place, parameter in own_parameters(layer, NAME).values()}
    most = WHOLE if sum(tensor.numel() for tensor in learned.values()) <= WHOLE else KEPT
    return found | {name: sampled(tensor, most) for name, tensor in learned.items()}


def adapted(method) -> dict[str, Any]:
    """The layers of a trained adapter, by name."""
    return {name: module for name, module in method.named_modules() if is_tuner_layer(module)}


def sampled(tensor: Tensor, most: int) -> Tensor:
    """At most about `most` numbers, spread evenly over the tensor; a copy, float32."""
    flat = tensor.detach().flatten()
    return flat[:: max(1, len(flat) // most)].float().cpu().clone()


def inner(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> float:
    """<B A, B' A'> of two products of low rank, without computing them."""
    return ((one[0].T @ other[0]) * (one[1] @ other[1].T)).sum().item()


def relative_change(method, start: dict[str, Any], now: dict[str, Any]) -> float:
    """The norm of all changes over the norm of what they change: W where an adapter changes it, else the parameters."""
    changed = total = 0.0
    layers = adapted(method)
    for name, before in start.items():
        after = now[name]
        if isinstance(before, tuple):
            changed += max(0.0, inner(after, after) + inner(before, before) - 2 * inner(after, before))
            total += layers[name].get_base_layer().weight.detach().double().square().sum().item()
        else:
            weight = sampled(layers[name].get_base_layer().weight, KEPT) if name in layers else before
            changed += (after - before).double().square().sum().item()
            total += weight.double().square().sum().item()
    return math.sqrt(changed / total) if total else 0.0
