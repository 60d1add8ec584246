"""(IA)^3: a learned factor l for each output of a module, l o (W x + b). Liu et al. 2022, "Few-Shot Parameter-Efficient
Fine-Tuning is Better and Cheaper than In-Context Learning".

A layer's l is 1 + scale * (learned l - 1). Several in one layer multiply."""

import torch
from pydantic import BaseModel

from customize.adapters import lora, peft_layers
from customize.settings.field import override


class Settings(BaseModel):
    lora_targets: tuple[str, ...] = override(lora.Settings, "lora_targets", ("attention",))


class Adapter(peft_layers.PeftAdapter):
    peft_type = "IA3"
    learning_rate = 3e-3

    def config(self, settings, target_modules):
        from peft import IA3Config

        return IA3Config(target_modules=target_modules, feedforward_modules=[])

    def set_scale(self, layer, name, scale):
        factor = layer.ia3_l[name].data
        learned = vars(layer).setdefault("learned_ia3", {}).setdefault(name, factor.clone()).to(factor)
        factor.copy_(torch.lerp(torch.ones_like(learned), learned, scale))

    def delta_weight(self, layer, name):
        weight, factor = layer.get_base_layer().weight, layer.ia3_l[name]
        return (factor.view(-1, *[1] * (weight.dim() - 1)) - 1) * weight
