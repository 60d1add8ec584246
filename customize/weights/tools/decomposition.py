"""The best product of a given rank for a change of a weight (Eckart and Young 1936)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from customize.weights.tools.ranks import SMALLEST, Choice

MORE, PASSES = 16, 4
"""Of the randomised decomposition (Halko et al. 2011, "Finding Structure with Randomness", algorithm 4.4): vectors beyond the
rank, and passes over the matrix. The product then differs from the matrix by at most 1 in 1,000 more than the best one."""


@dataclass(frozen=True)
class Decomposed:
    """The greatest singular values of a matrix [out, in], as left diag(values) right in float64: left [out, n], values [n]
    descending, right [n, in]. whole: the squared norm of the matrix."""

    left: Tensor
    values: Tensor
    right: Tensor
    whole: float

    def lost(self, up: Tensor, down: Tensor) -> float:
        """The squared norm of the difference of the matrix from a product `up down` in the space of these vectors, in any number
        format and with trailing axes."""
        up, down = up.double().flatten(1), down.double().flatten(1)
        common = (self.values[:, None] * (self.right @ down.T) * (self.left.T @ up)).sum()
        return max(float(self.whole - 2 * common + ((up.T @ up) * (down @ down.T)).sum()), 0.0)

    def product(self, choice: Choice) -> tuple[Tensor, Tensor]:
        """B [out, rank] and A [rank, in] whose product is the best of that rank, both of the same scale."""
        rank = choice.rank_of(self.values)
        roots = self.values[:rank].sqrt()
        return self.left[:, :rank] * roots, roots[:, None] * self.right[:rank]


def of_product(up: Tensor, down: Tensor) -> Decomposed:
    """The singular value decomposition of `up down`, from that of a small matrix."""
    left, upper = torch.linalg.qr(up.double())
    right, lower = torch.linalg.qr(down.double().T)
    middle = torch.linalg.svd(upper @ lower.T, full_matrices=False)
    return Decomposed(left @ middle.U, middle.S, middle.Vh @ right.T, float((middle.S**2).sum()))


def of_matrix(matrix: Tensor, choice: Choice) -> Decomposed:
    """The singular value decomposition of a matrix: all of it, from the eigenvalues of the smaller of its two squares; or of the
    greatest values alone, where a choice takes a few, by random projections that are always the same."""
    matrix = matrix.double()
    if matrix.shape[0] > matrix.shape[1]:
        turned = of_matrix(matrix.T, choice)
        return Decomposed(turned.right.T, turned.values, turned.left.T, turned.whole)
    whole = float((matrix**2).sum())
    if choice.takes_a_few(len(matrix)):
        same, size = torch.Generator().manual_seed(0), (matrix.shape[1], (choice.rank or 0) + MORE)
        basis = torch.randn(size, generator=same, dtype=torch.float64)
        basis = torch.linalg.qr(matrix @ basis).Q
        for _ in range(PASSES):
            basis = torch.linalg.qr(matrix @ (matrix.T @ basis)).Q
        middle = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
        return Decomposed(basis @ middle.U, middle.S, middle.Vh, whole)
    squares, left = torch.linalg.eigh(matrix @ matrix.T)
    values, left = squares.flip(0).clamp(min=0).sqrt(), left.flip(1)
    known = values > SMALLEST * values[:1]
    return Decomposed(left[:, known], values[known], (left[:, known] / values[known]).T @ matrix, whole)


def shaped(up: Tensor, down: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """B and A of a weight [out, in, ...]; of a convolution A has its kernel."""
    kernel = shape[2:]
    return up.reshape(*up.shape, *[1 for _ in kernel]), down.reshape(len(down), shape[1], *kernel)
