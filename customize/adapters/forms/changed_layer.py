"""A layer that computes with a changed weight, whose change is a function of trained tensors.

W a weight [out, in, ...] of the base model, dW its change.
"""

from collections.abc import Mapping
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from customize.adapters.forms.lycoris import change


class ChangedLayer(nn.Module, BaseTunerLayer):
    """A linear or convolution layer with W + dW in place of W, dW as `lycoris.change` computes it from the layer's tensors.

    The weight is that of the file when it is loaded, to the bit. The layer is one of peft's, so that it is found, disabled and
    taken out as these are. name: of the adapter; terms: the tensors that are trained, by kind; alpha: None where the change
    has none.
    """

    def __init__(self, base_layer: nn.Module, name: str, terms: Mapping[str, Tensor], alpha: float | None):
        super().__init__()
        self.base_layer, self.name, self.alpha = base_layer, name, alpha
        self._active_adapter = name
        for kind, tensor in terms.items():
            setattr(self, kind, nn.ParameterDict({name: tensor}))
        self.adapter_layer_names = tuple(terms)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters:
            return self.base_layer(*args, **kwargs)
        base = self.base_layer.weight
        weight = (base.float() + self.get_delta_weight(self.name)).to(base.dtype)
        return torch.func.functional_call(self.base_layer, {"weight": weight}, args, kwargs)

    def terms(self, name: str) -> dict[str, Tensor]:
        """The tensors by kind, with the alpha."""
        own = {kind: getattr(self, kind)[name] for kind in self.adapter_layer_names}
        return own if self.alpha is None else {**own, "alpha": torch.tensor(self.alpha)}

    def get_delta_weight(self, name: str) -> Tensor:
        """dW [out, in, ...], in float32 also under autocast, as when it is loaded."""
        base = self.base_layer.weight.float()
        with torch.autocast(base.device.type, enabled=False):
            return change(self.terms(name), "weight", base)
