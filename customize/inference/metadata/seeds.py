"""Seeds of images: integers below 2^64, or -1 for a random one."""

import secrets

from customize import events
from customize.settings.inference import InferenceSettings

RANDOM = -1


def with_seed(settings: InferenceSettings) -> InferenceSettings:
    """The settings; if their seed is -1, with a random seed of 32 bits, which is reported."""
    if settings.seed != RANDOM:
        return settings
    seed = secrets.randbelow(2**32 - settings.num_images + 1)
    events.info(f"seed: {seed} (random)")
    return settings.model_copy(update={"seed": seed})
