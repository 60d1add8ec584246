"""LoHa: a change (B1 A1) o (B2 A2) of two low ranks beside frozen weights. Hyeon-Woo et al. 2022, "FedPara"."""

from pydantic import BaseModel

from customize.adapters import lora, peft_layers
from customize.settings.field import again


class Settings(BaseModel):
    rank: int = again(lora.Settings, "rank", 16)
    lora_alpha: float | None = again(lora.Settings, "lora_alpha", None, default_in_words="none: the rank")
    lora_targets: tuple[str, ...] = again(lora.Settings, "lora_targets", ("attention",))


class Adapter:
    peft_type = "LOHA"
    disabled = staticmethod(peft_layers.disabled)
    name_in_files = staticmethod(peft_layers.name_in_files)
    description = staticmethod(peft_layers.description)

    def attach(self, networks, settings, presets):
        from peft import LoHaConfig

        options = {"r": settings.rank, "alpha": settings.lora_alpha or settings.rank}
        peft_layers.attach(networks, settings, presets, lambda targets: LoHaConfig(**options, target_modules=targets))

    def files(self, settings):
        return (peft_layers.LORA,)

    def save(self, folder, family, metadata, settings):
        return [peft_layers.save(folder, family, metadata, settings.save_precision)]

    def load(self, network, name, tensors, description):
        from peft import LoHaConfig

        peft_layers.load(network, name, tensors, description, LoHaConfig)

    def start_from(self, network, tensors, description):
        return peft_layers.start_from(network, tensors)
