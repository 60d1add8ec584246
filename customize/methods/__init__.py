"""What is learned. A method is two files here: its settings, with all that is known before torch is imported, and its module.

To add one, write NAME_settings.py with a class that builds on `TrainingSettings` and declares what the properties there ask
for, add it to `SETTINGS`, and write NAME.py with the module (`method.Method`).
"""

from collections.abc import Collection

from customize.methods.dreambooth_settings import DreamBoothSettings
from customize.methods.textual_inversion_settings import TextualInversionSettings
from customize.settings.training import TrainingSettings

SETTINGS: tuple[type[TrainingSettings], ...] = (TextualInversionSettings, DreamBoothSettings)
"""The settings of each method. The last one is meant where nothing tells."""


def settings_for(given: Collection[str]) -> type[TrainingSettings]:
    """The settings of the method that is meant, by the names of those that are given."""
    return next((each for each in SETTINGS if each.subject_setting in given), SETTINGS[-1])
