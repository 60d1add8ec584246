"""Settings of the loss: of noise and its levels, and of weights. Part of `training.TrainingSettings`."""

from customize.settings.common import Settings
from customize.settings.field import setting


class ObjectiveSettings(Settings):
    """What the loss of a sample is."""

    snr_gamma: float | None = setting(
        None, "train", "gamma of min-SNR loss weights (Hang et al. 2023); 5 is typical", gt=0, le=1000
    )
    noise_offset: float = setting(0.0, "train", "noise offset: share of noise that is constant over each channel", ge=0, le=1)
