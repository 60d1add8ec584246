"""The settings classes of all commands."""

from customize.methods import SETTINGS
from customize.settings.inference import InferenceSettings

MODELS = (*SETTINGS, InferenceSettings)
