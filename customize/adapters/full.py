"""No adapter: every weight of the network learns, and the result is a complete pipeline folder."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from torch import nn

from customize import weights
from customize.errors import InputError, Problem
from customize.families.stable_diffusion import StableDiffusion


class Adapter:
    """Fine-tunes a network in full."""

    precision = "fp32"

    def attach(self, networks: Sequence[nn.Module], settings) -> None:
        self.precision = settings.save_precision
        for network in networks:
            network.requires_grad_(True)

    def off(self, *networks: nn.Module) -> AbstractContextManager:
        remedy = "use --adapter lora, or --prior_preservation images"
        raise InputError(Problem("prior_preservation", "the base model is gone once all its weights learn", remedy))

    def name_in_files(self, name: str) -> str:
        return name

    def description(self, family: StableDiffusion) -> dict[str, str]:
        return {}

    def save(self, folder: Path, family: StableDiffusion, metadata: dict[str, str]) -> list[Path]:
        return weights.save_pipeline(folder, family, metadata, self.precision)
