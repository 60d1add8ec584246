"""Seeds of images: whole numbers below 2^64, or -1 for one that is drawn."""

import secrets

from customize import events
from customize.settings.inference import InferenceSettings

RANDOM = -1


def with_seed(settings: InferenceSettings) -> InferenceSettings:
    """The settings, with a seed of 32 bits drawn and told where they ask for a random one."""
    if settings.seed != RANDOM:
        return settings
    seed = secrets.randbelow(2**32 - settings.num_images + 1)
    events.info(f"seed: {seed} (drawn at random)")
    return settings.model_copy(update={"seed": seed})
