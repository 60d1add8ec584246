"""How much a run changed, in words: the trained weights, and the network's predictions and losses on the fixed draws of
`probe_loss.Probe`.

W a weight [out, in, ...] of the base model, whose change by an adapter is a tensor [out, in, ...] or, if that is
of low rank, a product of [out, rank] and [rank, in ...].
"""

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from customize.adapters.peft_layers import NAME, is_tuner_layer, own_parameters

WHOLE, KEPT = 1 << 22, 1 << 12
"""Up to this many numbers all trained weights are compared; beyond it, this many evenly spread numbers of each tensor."""
HARDLY, EXPLODED, TOO_FAR = 0.005, 1.3, 1.0
"""Below this change of the predictions a run has hardly changed anything; above this growth of the loss, or this change of a
network's weights, it diverged. Useful training changes weights by a few hundredths; the vectors of words are not limited."""


@dataclass(frozen=True)
class Change:
    """How much a run changed, relative to its start. loss: the mean over so many fixed samples, before and after; too_far: the
    change of the weights above which the run diverged."""

    weights: float
    predictions: float
    loss: tuple[float, float]
    too_far: float = TOO_FAR
    samples: int = 8

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
        loss = f"the loss on {self.samples} fixed samples went from {self.loss[0]:.4f} to {self.loss[1]:.4f}"
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
