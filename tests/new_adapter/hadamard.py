"""LoHa: a change (B1 A1) o (B2 A2) of two low ranks beside frozen weights. Hyeon-Woo et al. 2022, "FedPara"."""

from pydantic import BaseModel

from customize.adapters import lora, peft_layers
from customize.settings.field import override


class Settings(BaseModel):
    rank: int = override(lora.Settings, "rank", 4, le=64)
    lora_alpha: float | None = override(lora.Settings, "lora_alpha", None, default_in_words="none: the rank")
    lora_targets: tuple[str, ...] = override(lora.Settings, "lora_targets", ("attention",))


class Adapter(peft_layers.PeftAdapter):
    peft_type = "LOHA"

    def config(self, settings, target_modules):
        from peft import LoHaConfig

        return LoHaConfig(r=settings.rank, alpha=settings.lora_alpha or settings.rank, target_modules=target_modules)
