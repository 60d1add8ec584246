"""Shared code of adapters that change the weights themselves, in the forms of LyCORIS, whose files other programs read.

A layer computes with W + dW while it is trained (`forms.changed_layer`), and dW is the function of the layer's tensors by which
files of every program are loaded and merged (`forms.lycoris`). So there is nothing to load here, and an image is the same to the
bit before and after its weights are saved. W is a weight [out, in, ...] of the base model.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from customize.adapters import lora_files, peft_layers, targets
from customize.adapters.lora_keys import ADAPTER_METADATA, Place
from customize.adapters.lora_layouts import KOHYA
from customize.adapters.peft_layers import NAME
from customize.storage.run_folder import LORA

if TYPE_CHECKING:
    from torch import Tensor, nn

    from customize.adapters import Family


class WeightAdapter(peft_layers.PeftAdapter):
    """Implements `customize.adapters.Adapter` for one form of change.

    A subclass sets `algorithm`, LyCORIS' name of the form, `kinds`, and `start`.
    """

    peft_type = ""
    read_by_others = True
    algorithm: str

    def start(self, shape: Sequence[int], rank: int, settings) -> "dict[str, Tensor]":
        """The tensors of a layer before the first step, by kind, at which dW is 0. shape: of W."""
        raise NotImplementedError

    def alpha(self, rank: int, settings) -> float | None:
        """The alpha of a layer; None if the form has none."""
        return settings.lora_alpha or rank

    def add_layers(self, network: "nn.Module", target_modules: list[str], ranks: Mapping[str, int], settings) -> None:
        from customize.adapters.forms.changed_layer import ChangedLayer

        network.requires_grad_(False)
        for name in targets.adapted(network, target_modules):
            module, rank = network.get_submodule(name), ranks.get(name, settings.rank)
            terms = self.start(module.weight.shape, rank, settings)
            terms = {kind: tensor.to(module.weight.device) for kind, tensor in terms.items()}
            network.set_submodule(name, ChangedLayer(module, NAME, terms, self.alpha(rank, settings)))

    def description(self, family: "Family") -> dict[str, str]:
        """The alphas of all layers, which are in the tensors of a result, but not in those of a checkpoint."""
        layers, configs = layers_of(family), {}
        for part in family.trainable:
            own = {module: layer.alpha for (its, module), layer in layers.items() if its == part and layer.alpha is not None}
            if own:
                usual = lora_files.most_frequent(own.values())
                others = {module: alpha for module, alpha in own.items() if alpha != usual}
                configs |= {f"{part}.alpha": usual, f"{part}.alpha_pattern": others}
        return {ADAPTER_METADATA: json.dumps(configs, sort_keys=True)} if configs else {}

    def save(self, folder: Path, family: "Family", metadata: dict[str, str], settings) -> list[Path]:
        """Writes the tensors of all networks into one file under kohya's names of modules and LyCORIS' of tensors."""
        from customize.storage.tensor_files import save_tensors

        found = {place: self.in_file(layer) for place, layer in layers_of(family).items()}
        tensors, _ = lora_files.in_layout(KOHYA, found, family.spec.networks, lora_files.modules_of(family))
        own = {"ss_network_module": "lycoris.kohya", "ss_network_args": json.dumps({"algo": self.algorithm})}
        if alpha := self.alpha(settings.rank, settings):
            own |= {"ss_network_dim": str(settings.rank), "ss_network_alpha": f"{alpha:g}"}
        return [save_tensors(folder / LORA, tensors, metadata and {**metadata, **own}, settings.save_precision)]

    def in_file(self, layer: Any) -> "dict[str, Tensor]":
        """The tensors of a layer by what their names in a file end with, and its alpha."""
        own = layer.terms(NAME)
        alpha = own.pop("alpha", None)
        named = {f".{kind}": tensor for kind, tensor in own.items()}
        return named if alpha is None else {**named, "alpha": lora_files.alpha_like(float(alpha), alpha)}

    def start_from(
        self, network: "nn.Module", tensors: "Mapping[str, Mapping[str, Tensor]]", description: Mapping[str, Any]
    ) -> list[str]:
        """Each layer takes the alpha of the file, too."""
        alphas = {module: self.alpha_of(module, own, description) for module, own in tensors.items()}
        plain = {module: {kind: own[kind] for kind in own if kind != "alpha"} for module, own in tensors.items()}
        missing = super().start_from(network, plain, description)
        for module in plain.keys() - set(missing):
            layer = network.get_submodule(module)
            layer.alpha = layer.alpha if alphas[module] is None else alphas[module]
        return missing

    def alpha_of(self, module: str, tensors: "Mapping[str, Tensor]", description: Mapping[str, Any]) -> float | None:
        """A layer's alpha in a file; None if the form has none, or the file does not say."""
        if "alpha" in tensors:
            return float(tensors["alpha"])
        return lora_files.by_pattern(description.get("alpha_pattern"), module, description.get("alpha"))


def layers_of(family: "Family") -> dict[Place, Any]:
    """The layers of the adapter in the networks of a family."""
    networks = family.trainable.items()
    found = {(part, name): module for part, network in networks for name, module in network.named_modules()}
    return {place: module for place, module in found.items() if peft_layers.is_tuner_layer(module)}
