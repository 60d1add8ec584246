"""How many singular values of a change are worth keeping, and what is lost. torch is not imported.

The names of the methods are those of kohya's `networks/resize_lora.py`, which keeps one value more than they ask for.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from customize import units
from customize.errors import Problem

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST = 1e-7
"""Singular values below this part of the largest are rounding errors."""


@dataclass(frozen=True)
class Choice:
    """How many ranks are kept in each layer: at most `rank`, and as few as one of the other conditions allows.

    energy: part of the squared Frobenius norm that is kept; sv_fro: part of the norm itself; sv_cumulative: part of the sum of
    the singular values; sv_ratio: values above the largest divided by this.
    """

    rank: int | None = None
    energy: float | None = None
    sv_fro: float | None = None
    sv_cumulative: float | None = None
    sv_ratio: float | None = None

    def problems(self) -> Iterator[Problem]:
        """The problems of the values."""
        given = {name: value for name, value in vars(self).items() if name != "rank" and value is not None}
        if self.rank is None and not given:
            yield Problem("rank", "neither a rank nor a part to keep is given", "give --rank 16, or --energy 0.95")
        if self.rank is not None and self.rank < 1:
            yield Problem("rank", f"is {self.rank}", "set it to 1 or more")
        if len(given) > 1:
            yield Problem(" and ".join(given), "each choose the rank of a layer", "give one of them")
        for name, value in given.items():
            if not (value > 1 if name == "sv_ratio" else 0 < value <= 1):
                yield Problem(name, f"is {value}", f"set it {'above 1' if name == 'sv_ratio' else 'between 0 and 1'}")

    def takes_a_few(self, size: int) -> bool:
        """Whether only the rank decides, and is far below the number of singular values."""
        only = not any(getattr(self, name) is not None for name in METHODS)
        return only and self.rank is not None and 4 * (self.rank + 16) < size

    def rank_of(self, values: "Tensor") -> int:
        """How many of the singular values, the largest first, are kept; 0 if all are 0."""
        count = int((values > SMALLEST * values[:1]).sum())
        for name, method in METHODS.items():
            if (wanted := getattr(self, name)) is not None:
                count = min(count, method(values[:count], wanted))
        return count if self.rank is None else min(count, self.rank)


def enough(powers: "Tensor", part: float) -> int:
    """The least number of the values whose sum is at least a part of the sum of all."""
    sums = powers.cumsum(0)
    return int((sums < part * sums[-1:] * (1 - 1e-12)).sum()) + 1


METHODS: Mapping[str, Callable[["Tensor", float], int]] = {
    "energy": lambda values, part: enough(values**2, part),
    "sv_fro": lambda values, part: enough(values**2, part**2),
    "sv_cumulative": enough,
    "sv_ratio": lambda values, ratio: int((values > values[:1] / ratio).sum()),
}
"""By the name of a condition: how many of the singular values fulfil it."""


@dataclass
class Kept:
    """What is kept of the squared norm of all changes, by network.

    whole: the squared norm; lost: that of what is not in the file; ranks: of the layers.
    """

    whole: float = 0.0
    lost: float = 0.0
    ranks: tuple[int, ...] = ()

    def add(self, whole: float, lost: float, rank: int | None = None) -> None:
        """Adds a parameter; rank: of a layer in the file."""
        self.whole, self.lost = self.whole + whole, self.lost + lost
        self.ranks += () if rank is None else (rank,)

    def summary(self) -> str:
        """Ranks, energy and error in words."""
        few, many = min(self.ranks, default=0), max(self.ranks, default=0)
        part = self.lost / self.whole if self.whole else 0.0
        ranks = f"rank {few}" if few == many else f"ranks {few} to {many}"
        energy = f"{100 * (1 - part):.2f} % of the energy (squared norm of the change) is kept, relative error {part**0.5:.2g}"
        return f"{units.count(len(self.ranks), 'layer')}, {ranks}; {energy}"
