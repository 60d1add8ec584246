"""Muon: orthogonalised momentum for matrices (Jordan et al. 2024), AdamW for all other parameters.

Its steps are scaled to the root mean square of AdamW's (Liu et al. 2025, "Muon is Scalable for LLM Training", section 2.2), so
that learning rates and weight decay are those of AdamW.
"""

from typing import TYPE_CHECKING, Any

from customize.optim.optimizers import Groups, Usual, adamw, option

if TYPE_CHECKING:
    import torch

TABLE = 16_384
"""Rows from which a matrix is a table of vectors, such as a vocabulary's, which AdamW trains."""


class Settings(adamw.Settings):
    """Those of AdamW, for the parameters that it trains; the weight decay is that of all."""

    muon_momentum: float = option(0.95, "decay of Muon's sum of gradients", ge=0, lt=1)


def is_matrix(parameter: "torch.Tensor", group: dict[str, Any]) -> bool:
    """Whether Muon trains a parameter of this group."""
    return parameter.ndim == 2 and len(parameter) < TABLE and not group.get("vectors")


class Optimizer(Usual):
    """torch's."""

    summary = "Muon of torch for matrices, AdamW for the rest"

    def build(self, settings, groups: Groups) -> "torch.optim.Optimizer":
        from torch.optim import Muon

        from customize.optim.together import Together

        def part(of_muon: bool) -> Groups:
            parts = ({**group, "params": [p for p in group["params"] if is_matrix(p, group) is of_muon]} for group in groups)
            return [each for each in parts if each["params"]]

        matrices, others = part(True), part(False)
        options = {"momentum": settings.muon_momentum, "weight_decay": settings.adam_weight_decay}
        muon = [Muon(matrices, adjust_lr_fn="match_rms_adamw", **options)] if matrices else []
        return Together(*muon, *([adamw.Optimizer().build(settings, others)] if others else []))
