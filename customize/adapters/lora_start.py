"""How the factors of a LoRA start, other than A normal and B zero.

W a weight [out, in, ...] of the base model, A [rank, in, ...] and B [out, rank, ...]; s the scale of their product. The change at
the first step is 0 in each case: orthogonal has B A = 0, and PiSSA's layers subtract the product that they start with.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

MORE, PASSES = 16, 16
"""Of the randomised decomposition (Halko et al. 2011, algorithm 4.4): vectors beyond the rank, and passes over W."""
PISSA = "pissa"
START = "start"
"""The metadata entry of checkpoints whose factors are not the change alone, with the name of the start."""


def orthogonal(layer: Any, name: str) -> None:
    """A and B of N(0, 1) / 10 times halves of an orthogonal matrix of the rank, so that B A = 0 while neither is 0.

    As peft's `orthogonal` for linear layers. Raises ValueError for an odd rank.
    """
    import torch

    down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
    rank = len(down)
    if rank % 2:
        raise ValueError(f"orthogonal needs an even rank, which {rank} is not")
    basis = torch.linalg.qr(torch.randn(rank, rank)).Q
    down.data = (basis[0::2].T @ torch.randn(rank // 2, down[0].numel()) / 10).reshape(down.shape).to(down)
    up.data = (torch.randn(len(up), rank // 2) @ basis[1::2] / 10).reshape(up.shape).to(up)


def pissa(layer: Any, name: str) -> None:
    """s B A is the best product of its rank for W: A and B have its largest singular values, each by their roots.

    Meng et al. 2024, "PiSSA: Principal Singular Values and Singular Vectors Adaptation". W stays as it is; the layer subtracts
    s B0 A0, the product at the start, and what it learned is the LoRA [B | -B0] [A; A0] of twice the rank.
    """
    import torch

    weight = layer.get_base_layer().weight.detach().float().flatten(1).cpu()
    down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
    left, values, right = torch.svd_lowrank(weight, q=min(len(down) + MORE, *weight.shape), niter=PASSES)
    left, right = left[:, : len(down)], right[:, : len(down)]
    roots = (values[: len(down)] / layer.scaling[name]).sqrt()
    factors = torch.zeros(len(down), down[0].numel()), torch.zeros(len(up), len(down))
    factors[0][: len(roots)], factors[1][:, : len(roots)] = roots[:, None] * right.T, left * roots
    for parameter, start, factor in zip((down, up), ("start_A", "start_B"), factors, strict=True):
        parameter.data = factor.reshape(parameter.shape).to(parameter)
        layer.register_buffer(start, parameter.detach().clone(), persistent=False)
    layer.register_forward_hook(without_start)


def without_start(layer: Any, inputs: "tuple[Tensor, ...]", output: "Tensor") -> "Tensor":
    """The output of a layer that starts by `pissa`, less s B0 A0 x."""
    from torch.func import functional_call

    if layer.disable_adapters:
        return output
    [name] = layer.active_adapters
    down, up = layer.lora_A[name], layer.lora_B[name]
    inner = functional_call(down, {"weight": layer.start_A}, (inputs[0].to(layer.start_A.dtype),))
    return output - (functional_call(up, {"weight": layer.start_B}, (inner,)) * layer.scaling[name]).to(output.dtype)


def with_start(layer: Any, up: "Tensor", down: "Tensor") -> "tuple[Tensor, Tensor]":
    """The factors of what a layer learned, from s B and A in float64: with those that it subtracts, if it does."""
    import torch

    if not hasattr(layer, "start_A"):
        return up, down
    [scale] = layer.scaling.values()
    return torch.cat([up, -scale * layer.start_B.double()], 1), torch.cat([down, layer.start_A.double()])


STARTS: Mapping[str, Callable[[Any, str], None]] = {
    "gaussian": lambda layer, name: None,
    "orthogonal": orthogonal,
    PISSA: pissa,
}
"""The values of `init_lora_weights`; gaussian is what peft did when it made the layer."""
