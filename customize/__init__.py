"""Teach a text-to-image diffusion model something of your own from a handful of images, and generate with it.

    settings = customize.DreamBoothSettings(instance_data_dir="photos", instance_prompt="a photo of sks dog", adapter="lora")
    result = customize.train(settings)
    for image in customize.generate(customize.InferenceSettings(weights=[result.folder], prompt="a sks dog on the beach")):
        image.save("beach.png")

Names are imported when first used: `import customize` alone is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from customize.api import check as check
    from customize.api import generate as generate
    from customize.api import score as score
    from customize.api import train as train
    from customize.cli.flags.settings_from_files import read_settings as read_settings
    from customize.errors import InputError as InputError
    from customize.errors import Interrupted as Interrupted
    from customize.errors import NumericsError as NumericsError
    from customize.errors import Problem as Problem
    from customize.errors import ResourceError as ResourceError
    from customize.evaluation.run_integrity import verify as verify
    from customize.inference import load_pipeline as load_pipeline
    from customize.methods import DreamBoothSettings as DreamBoothSettings
    from customize.methods import FromScratchSettings as FromScratchSettings
    from customize.methods import TextualInversionSettings as TextualInversionSettings
    from customize.settings.inference import InferenceSettings as InferenceSettings
    from customize.settings.scoring import ScoreSettings as ScoreSettings

_FROM = {
    "customize.api": ("check", "generate", "score", "train"),
    "customize.methods": ("DreamBoothSettings", "FromScratchSettings", "TextualInversionSettings"),
    "customize.settings.inference": ("InferenceSettings",),
    "customize.settings.scoring": ("ScoreSettings",),
    "customize.errors": ("InputError", "Interrupted", "NumericsError", "Problem", "ResourceError"),
    "customize.cli.flags.settings_from_files": ("read_settings",),
    "customize.inference": ("load_pipeline",),
    "customize.evaluation.run_integrity": ("verify",),
}
_PLACES = {name: module for module, names in _FROM.items() for name in names}
__all__ = ["__version__", *sorted(_PLACES)]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return __all__
