"""What peft's configuration says of the tensors of an adapter that is no LoRA: LoHa, LoKr, (IA)^3, OFT.

peft stores the scale and the form of these adapters in `adapter_config.json`, other programs in tensors.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from customize.adapters.forms.rotations import SERIES, Terms
from customize.adapters.lora_files import by_pattern


def with_configuration(module: Any, name: str, terms: Terms, description: Mapping[str, Any]) -> Terms:
    """The terms of one module as other programs store them. name: of the module; description: peft's configuration, or {}."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() < 2:
        return terms
    if "ia3_l" in terms:
        return factors(module, name, terms, description)
    if "oft_R" in terms:
        return terms | of_oft(weight, description)
    return scaled(terms, name, description)


def scaled(terms: Terms, name: str, description: Mapping[str, Any]) -> Terms:
    """The terms of a LoHa or LoKr of peft, or of a checkpoint (`WeightAdapter.description`), with the alpha from its
    configuration; all others unchanged."""
    if "peft_type" not in description and "alpha" in description and not {"A", "alpha"} & terms.keys():
        alpha = by_pattern(description.get("alpha_pattern"), name, description["alpha"])
        return {**terms, "alpha": torch.tensor(float(alpha))}
    if description.get("peft_type") in ("LOHA", "LOKR"):
        rank = by_pattern(description.get("rank_pattern"), name, description.get("r", 1))
        alpha = by_pattern(description.get("alpha_pattern"), name, description.get("alpha", rank))
        if {"hada_w1_b", "lokr_w1_b", "lokr_w2_b"} & terms.keys():
            return {**terms, "alpha": torch.tensor(float(alpha))}
        if "lokr_w1" in terms:  # other programs take alpha / rank as 1 where both factors are full
            return {**terms, "lokr_w1": terms["lokr_w1"].float() * (alpha / rank)}
    return terms


def factors(module: Any, name: str, terms: Terms, description: Mapping[str, Any]) -> Terms:
    """peft's (IA)^3 in the terms of LyCORIS: its factors multiply W and the bias, or the inputs of feed-forward modules."""
    numbers = terms["ia3_l"].float().flatten() - 1
    rows, columns = module.weight.shape[:2]
    ends = description.get("feedforward_modules") or ()
    named = any(name == end or name.endswith(f".{end}") for end in ([ends] if isinstance(ends, str) else ends))
    shape = terms["ia3_l"].shape
    on_input = named if rows == columns and len(shape) != 2 else len(numbers) == columns and shape[0] == 1
    own = {kind: tensor for kind, tensor in terms.items() if kind != "ia3_l"}
    own |= {"ia3": numbers, "on_input": torch.tensor(int(on_input))}
    if not on_input and module.bias is not None and len(numbers) == rows:
        own["bias"] = module.bias.detach().float().cpu() * numbers
    return own


def of_oft(weight: Tensor, description: Mapping[str, Any]) -> dict[str, Tensor]:
    """The form of an OFT of inputs; OneTrainer, which writes no configuration, turns convolutions the other way."""
    series = description.get("num_cayley_neumann_terms", SERIES) if description.get("use_cayley_neumann", True) else 0
    own = {"series": torch.tensor(series)}
    if weight.dim() > 2 and description.get("peft_type") != "OFT":
        own["forwards"] = torch.tensor(1)
    return own
