"""Dropout as a function of (seed, step, position of the sample, module): however the samples of a step are cut into
micro-batches or spread over processes, each meets the same mask; see `customize.diffusion.rng`.

The bits of a mask are a hash of the place in it and a key for each sample, computed where the activations are, so that all
devices draw the same. B samples.
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
"""Of splitmix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators"), as signed numbers."""


@dataclass(frozen=True)
class Samples:
    """The samples that the networks are asked about: seed, step, and their positions in the step's global batch."""

    seed: int
    step: int
    positions: tuple[int, ...]

    def keys(self, name: str, rows: int, device: torch.device) -> Tensor:
        """A number [rows] for each row of the batch. A position that comes more than once, as with images of the class beside
        those of the subject and with captions of several chunks, has another number each time."""
        assert rows % len(self.positions) == 0, (rows, self.positions)
        seen: Counter[int] = Counter()
        seeds = []
        for position in self.positions * (rows // len(self.positions)):
            stream = f"dropout/{name}/{seen[position]}"
            seeds.append(rng.generator(self.seed, stream, self.step, position).initial_seed())
            seen[position] += 1
        return torch.tensor(seeds, dtype=torch.int64, device=device)


_now: list[Samples] = []


@contextmanager
def samples(seed: int, step: int, positions: Sequence[int]) -> Iterator[None]:
    """Within it the networks are asked about these samples, forward and, where activations are computed twice, backward."""
    _now.append(Samples(seed, step, tuple(positions)))
    try:
        yield
    finally:
        _now.pop()


class SampleDropout(nn.Module):
    """Zeroes numbers of x [B, ...] at the rate p and scales the others by 1 / (1 - p), as `nn.Dropout`, by masks that follow
    from the samples. name: tells one module from another."""

    def __init__(self, p: float, name: str):
        super().__init__()
        self.p, self.name = p, name

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        assert _now, "dropout outside of customize.diffusion.dropout.samples"
        keys = _now[-1].keys(self.name, len(x), x.device)
        return x * keep(keys, x.shape[1:], self.p).to(x.dtype) * (1 / (1 - self.p))

    def extra_repr(self) -> str:
        return f"p={self.p}"


def is_active(network: nn.Module) -> bool:
    """Whether a forward pass of the network draws masks."""
    return any(isinstance(module, SampleDropout) and module.training and module.p > 0 for module in network.modules())


def keep(keys: Tensor, shape: Sequence[int], p: float) -> Tensor:
    """Which numbers stay, [B, *shape]: each with probability 1 - p. keys: [B], int64."""
    counter = torch.arange(1, math.prod(shape) + 1, device=keys.device)
    bits = keys[:, None] + counter * _MULTIPLIERS[0]
    bits = (bits ^ shifted(bits, 30)) * _MULTIPLIERS[1]
    bits = (bits ^ shifted(bits, 27)) * _MULTIPLIERS[2]
    return (shifted(bits, 33) >= round(p * BITS)).view(-1, *shape)


def shifted(bits: Tensor, by: int) -> Tensor:
    """int64 shifted to the right with zeros coming in."""
    return (bits >> by) & ((1 << (64 - by)) - 1)
