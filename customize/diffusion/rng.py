"""Randomness as a function: every draw depends on (seed, stream, step, position) and on nothing drawn before.

So a resumed run draws what the uninterrupted one would have drawn, and it does not matter how the samples of a step
are cut into micro-batches or spread over processes. Draws are made on the CPU and are the same on every device.

B positions, that is samples of one step.
"""

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b

import torch
from torch import Tensor


def generator(seed: int, stream: str, step: int, position: int = 0) -> torch.Generator:
    """A generator for one draw. stream: what is drawn ("noise", "timestep", ...); position: in the global batch."""
    digest = blake2b(f"{seed}/{stream}/{step}/{position}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def normal(shape: Sequence[int], seed: int, stream: str, step: int, positions: Sequence[int]) -> Tensor:
    """Standard normal numbers [B, *shape], float32."""
    return torch.stack([torch.randn(*shape, generator=generator(seed, stream, step, p)) for p in positions])


def integers(end: int, seed: int, stream: str, step: int, positions: Sequence[int]) -> Tensor:
    """Whole numbers [B] in 0..end-1, int64."""
    return torch.stack([torch.randint(end, (), generator=generator(seed, stream, step, p)) for p in positions])


def uniform(seed: int, stream: str, step: int, positions: Sequence[int], levels: int | None = None) -> Tensor:
    """Numbers [B] in [0, 1), float32. levels: only the middles of so many equal parts, each drawn as by `integers`."""
    if levels:
        return (integers(levels, seed, stream, step, positions) + 0.5) / levels
    return torch.stack([torch.rand((), generator=generator(seed, stream, step, p)) for p in positions])


@lru_cache(maxsize=4)
def permutation(size: int, seed: int, stream: str, epoch: int) -> tuple[int, ...]:
    """The order in which `size` things come in an epoch."""
    return tuple(torch.randperm(size, generator=generator(seed, stream, epoch)).tolist())


def shuffled(number: int, size: int, seed: int, stream: str) -> int:
    """Which of `size` things is the `number`-th of an endless row of shuffled epochs."""
    epoch, place = divmod(number, size)
    return permutation(size, seed, stream, epoch)[place]
