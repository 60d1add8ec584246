"""Did a run change anything? What learns, and what the network answers, at the start and at the end, on fixed draws.

The draws are of a stream of their own and nothing is differentiated, so the run's bits are the same with and without it.

B fixed samples; W a weight [out, in, ...], A [rank, in, ...] and B [out, rank, ...] of a LoRA with the scale s.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

SAMPLES = 8
"""Fixed samples, at noise levels spread over the schedule: 16 answers in all, beside 2,400 of a run of 800 steps."""
WHOLE, KEPT = 1 << 22, 1 << 12
"""Numbers up to which all that learns is kept; of more, so many of each tensor, spread over it: the change is an estimate."""
HARDLY, EXPLODED, TOO_FAR = 0.005, 1.3, 1.0
"""Change of the predictions up to which a run has hardly changed anything; growth of the loss from which it came apart, and
change of the weights of a network, which is a few hundredths where it learns. The vectors of words may go any way."""


@dataclass(frozen=True)
class Measured:
    """weights: what learns, as far as it is kept; predictions: [B, C, H, W]; loss: the mean over the fixed samples."""

    weights: dict[str, Any]
    predictions: Tensor
    loss: float


@dataclass(frozen=True)
class Change:
    """How much came of a run, relative to what was there at its start. loss: before and after, on the fixed samples;
    too_far: the change of the weights from which they came apart."""

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
                advice = "start anew with a lower --learning_rate, or take earlier weights"
                return f"warning: the training came apart: {loss} ({numbers}): {advice}"
            case "hardly":
                advice = "more steps or a higher --learning_rate"
                return f"warning: the training has hardly changed anything ({numbers}; {loss}): {advice}"
        return f"changed: {numbers}; {loss}"


def percent(share: float) -> str:
    """A share with two digits that count, such as 0.012 %."""
    return f"{100 * share:.2g} %" if share < 1 else f"{100 * share:.0f} %"


class Probe:
    """Measures a method at its start; `change` measures it again and says what came of the steps in between.

    method: a `DenoisingMethod`, as it is before its first step, also where a run goes on: then the change is that of the whole
    run. dataset: whose `probe(number)` gives the fixed samples. autocast: the context in which the networks are asked.
    """

    def __init__(self, method, dataset, device: torch.device, size: int, autocast: Callable[[], Any]):
        self.method, self.device, self.size, self.autocast = method, device, size, autocast
        self.batch = dataset.probe(SAMPLES)
        self.start = self.measure()

    @torch.no_grad()
    def measure(self) -> Measured:
        """Weights, predictions and loss as they are now; the method's mode stays what it was."""
        was_training = self.method.training
        self.method.eval()
        answers, losses = [], []
        for first in range(0, SAMPLES, self.size):
            batch = self.batch.part(slice(first, first + self.size)).to(self.device)
            with self.autocast():
                prediction, target = self.method.prediction(batch), self.method.denoising_target(batch)
            answers.append(prediction.float().cpu())
            losses.append((prediction.float() - target.float()).square().flatten(1).mean(1).cpu())
        self.method.train(was_training)
        return Measured(kept(self.method), torch.cat(answers), torch.cat(losses).mean().item())

    def change(self) -> Change:
        """What came of the steps since the start."""
        now, start = self.measure(), self.start
        predictions = (now.predictions - start.predictions).norm() / start.predictions.norm()
        weights = relative_change(self.method, start.weights, now.weights)
        too_far = math.inf if self.method.name == "textual_inversion" else TOO_FAR
        return Change(weights, predictions.item(), (start.loss, now.loss), too_far)


def kept(method) -> dict[str, Any]:
    """Copies of what learns: the factors of a LoRA and the vectors of words whole, of other adapters and large networks a
    sample."""
    layers = adapted(method)
    if layers:
        return {name: factors(layer) if hasattr(layer, "lora_A") else delta(layer) for name, layer in layers.items()}
    learned = method.trainable_state_dict()
    most = WHOLE if sum(tensor.numel() for tensor in learned.values()) <= WHOLE else KEPT
    return {name: sampled(tensor, most) for name, tensor in learned.items()}


def adapted(method) -> dict[str, BaseTunerLayer]:
    """The modules beside which an adapter learns."""
    return {name: module for name, module in method.named_modules() if isinstance(module, BaseTunerLayer)}


def sampled(tensor: Tensor, most: int) -> Tensor:
    """At most about `most` numbers, spread evenly over the tensor; a copy, float32."""
    flat = tensor.detach().flatten()
    return flat[:: max(1, len(flat) // most)].float().cpu().clone()


def factors(layer: Any) -> tuple[Tensor, Tensor]:
    """s B [out, rank] and A [rank, in ...] of a LoRA's layer, copied, float64."""
    [name] = layer.active_adapters
    up, down = layer.lora_B[name].weight.detach(), layer.lora_A[name].weight.detach()
    return layer.scaling[name] * up.double().flatten(1).cpu(), down.double().flatten(1).cpu().clone()


def delta(layer: Any) -> Tensor:
    """A sample of what an adapter of any kind adds to the weight of its module, float32."""
    [name] = layer.active_adapters
    return sampled(layer.get_delta_weight(name), KEPT)


def inner(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> float:
    """<B A, B' A'> of two products of low rank, without making them."""
    return ((one[0].T @ other[0]) * (one[1] @ other[1].T)).sum().item()


def relative_change(method, start: dict[str, Any], now: dict[str, Any]) -> float:
    """The norm of all changes over the norm of what they change: words and networks themselves, the W beside an adapter."""
    changed = total = 0.0
    layers = adapted(method)
    for name, before in start.items():
        after = now[name]
        if isinstance(before, tuple):
            changed += max(0.0, inner(after, after) + inner(before, before) - 2 * inner(after, before))
            base: nn.Module = layers[name].get_base_layer()
            total += base.weight.detach().double().square().sum().item()
        else:
            weight = sampled(layers[name].get_base_layer().weight, KEPT) if name in layers else before
            changed += (after - before).double().square().sum().item()
            total += weight.double().square().sum().item()
    return math.sqrt(changed / total) if total else 0.0
