"""The settings of every command, by one name: each class is declared where its command is at home."""

from customize.methods import SETTINGS
from customize.settings.inference import InferenceSettings

MODELS = (*SETTINGS, InferenceSettings)
