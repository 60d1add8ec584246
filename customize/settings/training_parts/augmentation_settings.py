"""Settings of augmentation: crops that differ in scale, angle and colours. Part of `training.TrainingSettings`."""

from customize.settings.common import Settings
from customize.settings.field import setting

ALL = ("random_brightness", "random_contrast", "random_saturation", "random_hue", "random_rotate", "random_zoom")
"""Those that make use of `crop_variants`."""


class AugmentationSettings(Settings):
    """How far the crops of an image differ from it."""

    random_brightness: float = setting(
        0.0, "data", "augmentation: crops after the first have a brightness of 1 plus or minus up to this factor", ge=0, lt=1
    )
    random_contrast: float = setting(0.0, "data", "augmentation: the same of contrast", ge=0, lt=1)
    random_saturation: float = setting(0.0, "data", "augmentation: the same of saturation", ge=0, le=1)
    random_hue: float = setting(
        0.0, "data", "augmentation: hues are turned by up to this share of the colour circle, either way", ge=0, le=0.5
    )
    random_rotate: float = setting(
        0.0, "data", "augmentation: crops after the first are turned by up to this angle, either way, without black corners",
        unit="degrees", ge=0, le=45,
    )  # fmt: skip
    random_zoom: float = setting(
        0.0, "data", "augmentation: crops after the first are of the image enlarged by up to this share, at a random place",
        ge=0, le=1,
    )  # fmt: skip

    @property
    def augmentation(self) -> tuple[float, ...]:
        """The values of all of `ALL`."""
        return tuple(getattr(self, name) for name in ALL)
