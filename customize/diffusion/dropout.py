"""Dropout as a function of (seed, step, position of the sample, module): each sample gets the same mask, however the samples of
a step are split into micro-batches or over processes; see `customize.diffusion.rng`.

The bits of a mask are a hash of the element's index and the sample's key, computed on the device of the activations and equal on
all devices. B samples.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from customize.diffusion import rng

BITS = 1 << 31
_MULTIPLIERS = 0x9E3779B97F4A7C15 - (1 << 64), 0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64)
"""Constants of splitmix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators"), as signed integers."""


@dataclass(frozen=True)
class Samples:
    """The samples of the current micro-batch: seed, step, and their positions in the global batch."""

    seed: int
    step: int
    positions: tuple[int, ...]

    def keys(self, name: str, rows: int, device: torch.device) -> Tensor:
        """One key per row of the batch: [rows], int64. A position that occurs several times (class images beside instance images,
        captions of several chunks) gets a different key each time."""
        assert rows % len(self.positions) == 0, (rows, self.positions)
        seen: Counter[int] = Counter()
        seeds = []
        for position in self.positions * (rows // len(self.positions)):
            stream = f"dropout/{name}/{seen[position]}"
            seeds.append(rng.generator(self.seed, stream, self.step, position).initial_seed())
            seen[position] += 1
        return torch.tensor(seeds, dtype=torch.int64, device=device)


_current: list[Samples] = []


@contextmanager
def samples(seed: int, step: int, positions: Sequence[int]) -> Iterator[None]:
    """Sets the samples for forward passes within the context, and for backward passes with gradient checkpointing."""
    _current.append(Samples(seed, step, tuple(positions)))
    try:
        yield
    finally:
        _current.pop()


class SampleDropout(nn.Module):
    """Like `nn.Dropout`, zeroes elements of x [B, ...] with probability p and scales the others by 1 / (1 - p); the masks follow
    from the samples. name: unique per module."""

    def __init__(self, p: float, name: str):
        super().__init__()
        self.p, self.name = p, name

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        assert _current, "dropout outside of customize.diffusion.dropout.samples"
        keys = _current[-1].keys(self.name, len(x), x.device)
        return x * keep(keys, x.shape[1:], self.p).to(x.dtype) * (1 / (1 - self.p))

    def extra_repr(self) -> str:
        return f"p={self.p}"


def is_active(network: nn.Module) -> bool:
    """Whether a forward pass of the network draws masks."""
    return any(isinstance(module, SampleDropout) and module.training and module.p > 0 for module in network.modules())


def keep(keys: Tensor, shape: Sequence[int], p: float) -> Tensor:
    """The mask of elements to keep, bool [B, *shape]: each with probability 1 - p. keys: [B], int64."""
    counter = torch.arange(1, math.prod(shape) + 1, device=keys.device)
    bits = keys[:, None] + counter * _MULTIPLIERS[0]
    bits = (bits ^ shifted(bits, 30)) * _MULTIPLIERS[1]
    bits = (bits ^ shifted(bits, 27)) * _MULTIPLIERS[2]
    return (shifted(bits, 33) >= round(p * BITS)).view(-1, *shape)


def shifted(bits: Tensor, by: int) -> Tensor:
    """Logical right shift of int64."""
    return (bits >> by) & ((1 << (64 - by)) - 1)
