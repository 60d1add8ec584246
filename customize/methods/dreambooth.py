"""DreamBooth: the network itself learns a subject.

Ruiz et al. 2023, "DreamBooth: Fine Tuning Text-to-Image Diffusion Models for Subject-Driven Generation".
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from customize import adapters
from customize.adapters import Adapter
from customize.data.batches import Batch
from customize.families.base import Family
from customize.families.trigger_words import any_calls, rare_words
from customize.methods.method import Condition, DenoisingMethod
from customize.weights.init_weights import IntoAdapter
from customize.weights.model_spec import described


class DreamBooth(DenoisingMethod):
    """Fine-tunes the UNet, and the text encoder on request, by what the adapter says learns."""

    def __init__(self, family: Family, condition: Condition, adapter: Adapter, settings):
        super().__init__(family, condition)
        self.settings, self.adapter = settings, adapter
        self.name = "dreambooth" if settings.adapter == adapters.NONE else f"dreambooth_{settings.adapter}"
        self.trigger_words, self.example_prompt = (settings.instance_prompt,), settings.instance_prompt
        for name, network in family.trainable.items():
            if network is family.denoiser or settings.train_text_encoder:
                self.add_module(name, network)
        start_from = IntoAdapter(settings, family)
        adapter.attach(list(self.children()), settings, family.lora_targets)
        start_from(adapter)

    def called_by(self, captions: Sequence[str]) -> None:
        """Claims no trigger word that none of the captions, which are learned from, has; one of them is the example then."""
        words = rare_words(self.settings.instance_prompt, self.settings.class_prompt)
        if captions and words and not any_calls(captions, words):
            self.trigger_words, self.example_prompt = (), min(captions, key=len)

    def parameter_groups(self) -> list[dict[str, Any]]:
        rate = self.settings.learning_rate
        of_text_encoder = self.settings.text_encoder_learning_rate or rate
        return [
            {
                "params": [parameter for parameter in network.parameters() if parameter.requires_grad],
                "lr": rate if network is self.family.denoiser else of_text_encoder,
            }
            for network in self.children()
        ]

    def trainable_state_dict(self) -> dict[str, Tensor]:
        return {self.adapter.name_in_files(name): parameter for name, parameter in super().trainable_state_dict().items()}

    def description(self) -> dict[str, str]:
        return self.adapter.description(self.family)

    def save(self, folder: Path, metadata: dict[str, str]) -> list[Path]:
        if self.adapter.peft_type:
            metadata = {**metadata, **described(metadata, self.family, self.settings.adapter)}
        return self.adapter.save(folder, self.family, metadata, self.settings)


class SelfDistillation(DreamBooth):
    """Prior preservation without class images: the target of a prior sample is the prediction of the base model, the same
    network with its adapter disabled (see `batches.PriorDistillation`).
    """

    def target(self, batch: Batch) -> Tensor:
        if not batch.is_prior.any():
            return self.denoising_target(batch)
        with torch.no_grad(), self.adapter.disabled(*self.children()):
            base = self.prediction(batch.part(batch.is_prior))
        target = self.denoising_target(batch).clone()
        target[batch.is_prior] = base.to(target.dtype)
        return target
