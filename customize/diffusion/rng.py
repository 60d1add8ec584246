"""Counter-based randomness: every draw depends only on (seed, stream, step, position), not on earlier draws.

A resumed run therefore draws the same numbers as an uninterrupted one, however the samples of a step are split into
micro-batches or over processes. Numbers are drawn on the CPU and are the same for every device.

B positions, the samples of one step.
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
    """Integers [B] in 0..end-1, int64."""
    return torch.stack([torch.randint(end, (), generator=generator(seed, stream, step, p)) for p in positions])


def uniform(seed: int, stream: str, step: int, positions: Sequence[int], levels: int | None = None) -> Tensor:
    """Numbers [B] in [0, 1), float32. levels: draws only the midpoints of this many equal intervals, by `integers`."""
    if levels:
        return (integers(levels, seed, stream, step, positions) + 0.5) / levels
    return torch.stack([torch.rand((), generator=generator(seed, stream, step, p)) for p in positions])


def stratified(size: int, seed: int, stream: str, step: int, positions: Sequence[int]) -> Tensor:
    """Numbers [B] in [0, 1), float32, spread evenly over the `size` positions of a step: (u + position / size) mod 1, where u is
    drawn once. Each alone is uniform. Kingma et al. 2021, "Variational Diffusion Models", appendix I.1."""
    return (uniform(seed, stream, step, [0]) + torch.tensor(positions) / size) % 1


@lru_cache(maxsize=32)
def permutation(size: int, seed: int, stream: str, epoch: int) -> tuple[int, ...]:
    """The order of `size` items in an epoch."""
    return tuple(torch.randperm(size, generator=generator(seed, stream, epoch)).tolist())


def shuffled(number: int, size: int, seed: int, stream: str) -> int:
    """The item, of `size`, at index `number` of an infinite sequence of shuffled epochs."""
    epoch, place = divmod(number, size)
    return permutation(size, seed, stream, epoch)[place]
