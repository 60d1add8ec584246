"""The settings of every command, by one name: each class is declared where its command is at home."""

from customize.methods import SETTINGS, DreamBoothSettings, TextualInversionSettings
from customize.settings.common import MANY, Settings
from customize.settings.inference import InferenceSettings
from customize.settings.training import TrainingSettings

__all__ = [
    "MANY", "MODELS", "DreamBoothSettings", "InferenceSettings", "Settings", "TextualInversionSettings", "TrainingSettings",
]  # fmt: skip

MODELS = (*SETTINGS, InferenceSettings)
