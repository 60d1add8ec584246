"""Adapters that change a weight itself: LoHa, LoKr, Tucker LoRA, differences, GLoRA, (IA)^3, DoRA over input columns, OFT.

W a weight [out, in, ...] of a network, dW of its shape; A [rank, in, ...], B [out, rank, ...], mid [rank, rank, ...] of a LoRA.

LoHa: Hyeon-Woo et al. 2022, "FedPara"; LoKr, Tucker form, names and scales as in LyCORIS: Yeh et al. 2024, "Navigating
Text-To-Image Customization"; DoRA: Liu et al. 2024, with the norm over the axis given by the shape of its magnitude; GLoRA:
Chavan et al. 2023, "One-for-All"; (IA)^3: Liu et al. 2022, "Few-Shot Parameter-Efficient Fine-Tuning is Better".
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from customize.adapters.forms.rotations import Terms, rotated, rotated_inputs


def change(terms: Terms, name: str, base: Tensor, scale: float = 1.0) -> Tensor:
    """The change of the parameter `name` ("weight" or "bias") that is `base`, at a scale; of its shape.

    Raises RuntimeError, KeyError, IndexError, ValueError or TypeError where the terms do not fit each other or the parameter.
    """
    if name == "bias":
        return scale * terms["bias"].float().view_as(base)
    formula = form_of(terms)
    if formula is rotated:  # the only one that is not proportional to the scale
        return rotated(terms, base, scale)
    delta = formula(terms, base).view_as(base)
    return scale * (delta if "dora_scale" not in terms else decomposed(base, delta, terms["dora_scale"]) - base)


def form_of(terms: Terms) -> Callable[..., Tensor]:
    """The formula of a change. Raises KeyError if the terms are of no known form."""
    for kinds, formula in FORMS.items():
        if terms.keys() - {"bias", "alpha"} <= set(kinds):
            return formula
    raise KeyError(*terms)


def factor(terms: Terms, rank: int | None) -> float:
    """alpha / rank; 1 where one of the two is missing."""
    return float(terms["alpha"]) / rank if "alpha" in terms and rank else 1.0


def difference(terms: Terms, base: Tensor) -> Tensor:
    """The change itself."""
    return terms["weight"].float()


def lora(terms: Terms, base: Tensor) -> Tensor:
    """alpha / rank * B A, with the core `mid` between the two if present (Tucker)."""
    down, up = terms["A"].float(), terms["B"].float()
    if "mid" in terms:
        joined = torch.einsum("or,rskl,si->oikl", up.flatten(1), terms["mid"].float(), down.flatten(1))
    else:
        joined = up.flatten(1) @ down.flatten(1)
    return factor(terms, len(down)) * joined


def hada(terms: Terms, base: Tensor) -> Tensor:
    """LoHa: alpha / rank * (w1_a w1_b) o (w2_a w2_b), each with the core t1 or t2 if present."""
    first, second = (rebuilt(terms, f"hada_w{i}", f"hada_t{i}") for i in (1, 2))
    return factor(terms, len(terms["hada_w1_b"])) * first * second


def lokr(terms: Terms, base: Tensor) -> Tensor:
    """LoKr: alpha / rank * w1 (x) w2, each a full matrix or two factors; full ones have no rank."""
    first, second = (rebuilt(terms, f"lokr_w{i}", f"lokr_t{i}") for i in (1, 2))
    ranks = [len(terms[name]) for name in ("lokr_w1_b", "lokr_w2_b") if name in terms]
    first = first.reshape(*first.shape, *[1] * (second.dim() - first.dim()))
    return factor(terms, ranks[-1] if ranks else None) * torch.kron(first, second.contiguous())


def glora(terms: Terms, base: Tensor) -> Tensor:
    """GLoRA: alpha / rank * (W a1 a2 + b1 b2), a1 [in, rank], a2 [rank, in], b1 [out, rank], b2 [rank, in, ...].

    Files of LyCORIS before 2.0 store each pair in the other order.
    """
    a1, a2, b1, b2 = (terms[name].float().flatten(1) for name in ("a1", "a2", "b1", "b2"))
    if (len(b1), len(a1)) != base.shape[:2]:
        a1, a2, b1, b2 = a2, a1, b2, b1
    return factor(terms, len(a2)) * (torch.einsum("oi...,ij->oj...", base, a1 @ a2) + (b1 @ b2).view_as(base))


def ia3(terms: Terms, base: Tensor) -> Tensor:
    """(IA)^3 as LyCORIS stores it: W o w, w a factor minus 1 for each input column or each output row."""
    axis = int(bool(terms["on_input"]))
    return base * terms["ia3"].float().view([-1 if i == axis else 1 for i in range(base.dim())])


def rebuilt(terms: Terms, name: str, core: str) -> Tensor:
    """A matrix stored in full or as a b, a [out, rank] and b [rank, in]; with a core [rank, rank, ...] a is [rank, out]."""
    if name in terms:
        return terms[name].float()
    a, b = terms[f"{name}_a"].float(), terms[f"{name}_b"].float()
    if core not in terms:
        return a @ b
    return torch.einsum("rskl,ro,si->oikl", terms[core].float(), a, b)


def decomposed(base: Tensor, delta: Tensor, magnitude: Tensor) -> Tensor:
    """DoRA: m (W + dW) / ||W + dW||, with the norm of each output row, or of each input column if m is [1, in, ...]."""
    whole = base + delta
    if over_inputs(magnitude, base):
        norm = whole.transpose(0, 1).flatten(1).norm(dim=1).view(1, -1, *[1] * (base.dim() - 2))
    else:
        norm = whole.flatten(1).norm(dim=1).view(-1, *[1] * (base.dim() - 1))
    return whole * magnitude.float().view_as(norm) / (norm + torch.finfo(norm.dtype).eps)


def over_inputs(magnitude: Tensor, base: Tensor) -> bool:
    """Whether a DoRA's magnitude is one of input columns, [1, in, ...], rather than one of output rows, [out, 1, ...]."""
    return magnitude.dim() > 1 and magnitude.shape[0] == 1 != len(base)


def fits(terms: Terms, parameters: Mapping[str, Tensor]) -> bool:
    """Whether the terms define a change of the right shape for each parameter they name, with none left over."""
    names = {"bias"} & terms.keys() | ({"weight"} if terms.keys() - {"bias", "alpha"} else set())
    if not names or not names <= parameters.keys():
        return False
    meta = {kind: tensor if kind in NUMBERS else tensor.to("meta") for kind, tensor in terms.items()}
    try:
        return all(min(tensor.shape, default=1) > 0 for tensor in terms.values()) and all(
            change(meta, name, parameters[name].to("meta")).shape == parameters[name].shape for name in names
        )
    except (RuntimeError, KeyError, IndexError, ValueError, TypeError):
        return False


NUMBERS = ("alpha", "on_input", "series")
"""The kinds whose values decide the form of a change."""
FORMS: Mapping[tuple[str, ...], Callable[..., Tensor]] = {
    ("weight",): difference,
    ("A", "B", "mid", "dora_scale"): lora,
    ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2", "dora_scale"): hada,
    ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2", "dora_scale"): lokr,
    ("a1", "a2", "b1", "b2"): glora,
    ("ia3", "on_input"): ia3,
    ("oft_blocks", "rescale"): rotated,
    ("oft_R", "scaled_oft", "series", "forwards"): rotated_inputs,
}
"""The kinds that can occur together, and the formula of the change."""
