"""Trains all weights of a small model of digits, from random ones: the denoising loss, and nothing else.

Which process is learned is decided by the model's scheduler: `FromScratchSettings.scheduler`.
"""

from pathlib import Path
from typing import Any

from customize import adapters
from customize.families.base import Family
from customize.methods.from_scratch_settings import FromScratchSettings
from customize.methods.method import Condition, DenoisingMethod, MethodContext, TrainingSetup, captions_of


def prepare(settings: FromScratchSettings, context: MethodContext) -> TrainingSetup:
    """The digits and their labels are encoded once."""
    examples = context.examples.instances
    condition = context.encode_captions(captions_of(examples), min_chunks=1)
    method = FromScratch(context.family, condition, settings)
    context.place(method)
    return TrainingSetup(method, context.encode_images("digit", examples), condition)


class FromScratch(DenoisingMethod):
    """Trains the denoiser; the result is a base model of its own."""

    small_changes = False

    def __init__(self, family: Family, condition: Condition, settings: FromScratchSettings):
        super().__init__(family, condition)
        self.settings = settings
        self.name = f"{settings.process}_from_scratch"
        self.example_prompt = settings.default_validation_prompts[-1]
        self.unet = family.denoiser.requires_grad_(True)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.unet.parameters()), "lr": self.settings.learning_rate}]

    def save(self, folder: Path, metadata: dict[str, str]) -> list[Path]:
        return adapters.build(adapters.NONE).save(folder, self.family, metadata, self.settings)
