"""Textual inversion: trains embeddings of new tokens for a frozen model.

Gal et al. 2022, "An Image is Worth One Word: Personalizing Text-to-Image Generation using Textual Inversion".
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from customize.families.base import Family
from customize.methods import words
from customize.methods.method import (
    DenoisingMethod,
    MethodContext,
    TrainingSetup,
    captions_of,
    chunks_needed,
    encoding_condition,
)
from customize.methods.textual_inversion_settings import TextualInversionSettings


def prepare(settings: TextualInversionSettings, context: MethodContext) -> TrainingSetup:
    """Images are encoded once; the text encoder is evaluated in every step, since its input embeddings are trained."""
    family, examples = context.family, context.examples.instances
    method = TextualInversion(family, settings)
    dataset = context.encode_images("instance", examples)
    min_chunks = chunks_needed(family, captions_of(examples), settings)
    method.condition = encoding_condition(family, min_chunks, settings.clip_skip)
    context.place(method)
    return TrainingSetup(method, dataset, method.condition)


class TextualInversion(DenoisingMethod):
    """Trains the embeddings of one or more placeholder tokens; every other weight stays bit-identical."""

    name, small_changes = "textual_inversion", False

    def __init__(self, family: Family, settings):
        super().__init__(family, family.encode_prompts)
        self.settings, self.trigger_words = settings, tuple(settings.placeholder_token)
        word = "in the style of" if settings.learnable_property == "style" else "of"
        self.example_prompt = f"a picture {word} {self.trigger_words[0]}"
        self.words = words.build(family, settings, "learning_rate")
        for name, network in family.trainable.items():
            self.add_module(name, network)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return self.words.parameter_groups(self.settings.learning_rate)

    def build_optimizer(self, settings) -> torch.optim.Optimizer:
        return self.words.build_optimizer(settings, [], self.parameter_groups())

    def trainable_state_dict(self) -> dict[str, Tensor]:
        return dict(self.words.vectors)

    def before_step(self) -> None:
        self.words.before_step()

    def after_step(self) -> None:
        self.words.after_step()

    def save(self, folder: Path, metadata: dict[str, str]) -> list[Path]:
        return self.words.save(folder, metadata)

    def report(self) -> str:
        return self.words.report()
