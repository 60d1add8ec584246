"""Training methods. A method is two files here: `NAME_settings.py`, without torch, and `NAME.py`.

`NAME_settings.py` has a class on top of `TrainingSettings` that declares what the properties there describe. `NAME.py` has the
method (`method.Method`) and `prepare(settings, context)`, which builds it for a run. A line in `SETTINGS` registers both.
"""

from collections.abc import Collection
from importlib import import_module
from typing import TYPE_CHECKING

from customize.methods.dreambooth_settings import DreamBoothSettings
from customize.methods.from_scratch_settings import FromScratchSettings
from customize.methods.textual_inversion_settings import TextualInversionSettings
from customize.settings.derived import from_settings
from customize.settings.field import table
from customize.settings.training import TrainingSettings

if TYPE_CHECKING:
    from customize.methods.method import MethodContext, TrainingSetup

SETTINGS: tuple[type[TrainingSettings], ...] = (FromScratchSettings, TextualInversionSettings, DreamBoothSettings)
"""The settings of each method. The last one is the default where the given settings fit several methods."""


def settings_for(given: Collection[str]) -> type[TrainingSettings]:
    """The settings of the method that the names of the given settings imply: of those that have all of these settings, the one
    whose subject is given."""
    fitting = [each for each in SETTINGS if all(name in table(each) for name in given)] or SETTINGS
    return next((each for each in fitting if each.subject_setting in given), fitting[-1])


def prepare(settings: TrainingSettings, context: "MethodContext") -> "TrainingSetup":
    """Builds the method of these settings and its dataset: `prepare` of `NAME.py`, beside `NAME_settings.py`."""
    from customize.diffusion.losses import Distance

    training = import_module(type(settings).__module__.removesuffix("_settings")).prepare(settings, context)
    training.method.distance = from_settings(Distance, settings)
    return training
