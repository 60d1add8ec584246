"""Muon: orthogonalised momentum, for fast training from scratch.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks". Convolutions are matrices of
[out, in * height * width]. Parameters that are not matrices, and input and output layers (first and last convolutions,
embeddings), are trained by AdamW (Loshchilov & Hutter 2019).
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

OUTER = ("conv_in", "conv_out", "embedding")


def orthogonal(matrix: Tensor, steps: int = 5, rows: int = 96) -> Tensor:
    """The nearest matrix with singular values near 1 (0.7 to 1.2), by fifth-order Newton-Schulz iterations.

    matrix: [M, N]. If both sides exceed `rows`, blocks of the shorter side are orthogonalised separately, for speed.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    blocks = 1
    while wide.shape[0] // blocks > rows and wide.shape[0] % (2 * blocks) == 0:
        blocks *= 2
    x = wide.reshape(blocks, -1, wide.shape[1])
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x + torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315) @ x
    x = x.reshape(wide.shape) / blocks**0.5
    return x if wide is matrix else x.T


def parameter_groups(networks: Iterable[nn.Module], learning_rate: float, outer_learning_rate: float) -> list[dict]:
    """Two groups: the matrices of inner layers for Muon, all other parameters for AdamW."""
    inner: list[nn.Parameter] = []
    outer: list[nn.Parameter] = []
    for network in networks:
        for name, parameter in network.named_parameters():
            is_inner = parameter.ndim >= 2 and not any(word in name for word in OUTER)
            (inner if is_inner else outer).append(parameter)
    return [
        {"params": inner, "lr": learning_rate, "orthogonal": True},
        {"params": outer, "lr": outer_learning_rate, "orthogonal": False},
    ]


class Muon(torch.optim.Optimizer):
    """Muon for the groups of `parameter_groups`."""

    def __init__(self, groups: list[dict], momentum: float = 0.95, betas: tuple[float, float] = (0.9, 0.98)):
        super().__init__(groups, {"momentum": momentum, "betas": betas})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            update = self._orthogonal_step if group["orthogonal"] else self._adam_step
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update(parameter, parameter.grad, group)

    def _orthogonal_step(self, parameter: Tensor, gradient: Tensor, group: dict) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(state["momentum"], group["momentum"]).flatten(1)  # Nesterov's
        scale = max(1.0, ahead.shape[0] / ahead.shape[1]) ** 0.5
        parameter.add_(orthogonal(ahead).reshape(parameter.shape), alpha=-group["lr"] * scale)

    def _adam_step(self, parameter: Tensor, gradient: Tensor, group: dict) -> None:
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        if not state:
            state["step"] = torch.zeros(())
            state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        count = state["step"].item()
        state["mean"].lerp_(gradient, 1 - beta1)
        state["square"].lerp_(gradient.square(), 1 - beta2)
        spread = (state["square"] / (1 - beta2**count)).sqrt_().add_(1e-8)
        parameter.addcdiv_(state["mean"] / (1 - beta1**count), spread, value=-group["lr"])
