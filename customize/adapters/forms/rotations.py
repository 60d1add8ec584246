"""Adapters that multiply a weight by rotations: OFT, BOFT, and OFT of the inputs.

W a weight [out, in, ...] of a network, Q a block [b, b] that is skew-symmetric, R = (I + Q) (I - Q)^-1 its rotation (Cayley).

OFT: Qiu et al. 2023, "Controlling Text-to-Image Diffusion by Orthogonal Finetuning", in the forms of kohya's scripts and LyCORIS
(diag-oft); BOFT: Liu et al. 2024, "Parameter-Efficient Orthogonal Finetuning via Butterfly Factorization", as in LyCORIS; of the
inputs: Qiu et al. 2025, "Orthogonal Finetuning Made Scalable", as in peft and OneTrainer.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

Terms = Mapping[str, Tensor]
"""The tensors beside one module, by the kinds of `customize.adapters.lora_keys.KINDS`."""
SERIES = 5
"""How many terms of the series of R peft and OneTrainer compute by default."""


def rotated(terms: Terms, base: Tensor, scale: float) -> Tensor:
    """The change of W by OFT, oft_blocks [n, b, b]: block k of the output rows becomes R_k^T W_k; or by BOFT, [stages, n, b, b].

    The norm of all Q together is at most alpha * out where alpha is above 0. rescale [out, 1, ...], if present, multiplies the
    rows. At a scale s each R is s R + (1 - s) I, as in both programs, and rescale is 1 + s (rescale - 1).
    """
    blocks = terms["oft_blocks"].float()
    if blocks.dim() not in (3, 4):
        raise ValueError("neither blocks nor stages of blocks")
    skew = blocks - blocks.mT
    if (bound := float(terms["alpha"]) * len(base) if "alpha" in terms else 0.0) > 0:
        skew = skew * (bound / (skew.norm() + 1e-8)).clamp(max=1)
    identity = torch.eye(blocks.shape[-1], device=blocks.device)
    turns = torch.lerp(identity.expand_as(skew), torch.linalg.solve(identity - skew, identity + skew), scale)
    if blocks.dim() == 3:
        whole = torch.einsum("knm,kn...->km...", turns, base.unflatten(0, blocks.shape[:2])).flatten(0, 1)
    else:
        whole = butterfly(turns, base)
    if "rescale" in terms:
        whole = whole * (1 + scale * (terms["rescale"].float().view(-1, *[1] * (base.dim() - 1)) - 1))
    return whole - base


def butterfly(stages: Tensor, whole: Tensor) -> Tensor:
    """The product of the stages [stages, n, b, b] of a butterfly with W: stage i turns rows that are 2^i b / 2 apart."""
    for i, turns in enumerate(stages):
        pairs = whole.unflatten(0, (-1, 2, 2**i * turns.shape[-1] // 2)).transpose(1, 2)
        turned = torch.einsum("kij,kj...->ki...", turns, pairs.reshape(*turns.shape[:2], *whole.shape[1:]))
        whole = turned.reshape(pairs.shape).transpose(1, 2).reshape(whole.shape)
    return whole


def rotated_inputs(terms: Terms, base: Tensor) -> Tensor:
    """The change of W by OFT of its inputs: block k of the columns of W [out, in * ...] becomes W_k R_k^T.

    oft_R [n, b (b - 1) / 2]: the part of each Q above the diagonal; n may be 1 for one R in all blocks. scaled_oft: Q is
    divided by 2 sqrt(b - 1) (OneTrainer). series: how many terms of the series of R are summed, 0 for peft's exact R. forwards:
    W_k R_k instead, as OneTrainer turns convolutions.
    """
    packed = terms["oft_R"].float()
    size = math.isqrt(8 * packed.shape[-1] + 1) // 2 + 1
    if packed.dim() != 2 or size * (size - 1) != 2 * packed.shape[1]:
        raise ValueError("not the part of a matrix above its diagonal")
    skew = packed.new_zeros(len(packed), size, size)
    rows, columns = torch.triu_indices(size, size, 1)
    skew[:, rows, columns] = packed
    skew = (skew - skew.mT) / (2 * math.sqrt(size - 1) if "scaled_oft" in terms else 1)
    turns = cayley(skew, int(terms["series"]) if "series" in terms else SERIES)
    blocks = base.flatten(1).unflatten(1, (-1, size))
    if len(packed) not in (1, blocks.shape[1]):
        raise ValueError("another number of blocks")
    turned = torch.einsum(
        "oki,kij->okj" if "forwards" in terms else "oki,kji->okj", blocks, turns.expand(blocks.shape[1], -1, -1)
    )
    return turned.reshape(base.shape) - base


def cayley(skew: Tensor, series: int) -> Tensor:
    """R by the first terms of its series I + 2 Q + 2 Q^2 + ... as peft sums it; for 0 terms peft's exact (I - Q) (I + Q)^-1.

    From three terms on the last power counts once, and three terms are as many as four.
    """
    identity = torch.eye(skew.shape[-1], device=skew.device)
    if not series:
        return torch.linalg.solve(identity + skew, identity - skew)
    last = max(series, 4) - 1 if series > 2 else series - 1
    total, power = identity.expand_as(skew), identity
    for i in range(1, last + 1):
        power = power @ skew
        total = total + (1 if i == last > 1 else 2) * power
    return total
