"""Settings of masks: which part of an image the loss is about. Part of `training.TrainingSettings`."""

from customize.settings.common import Settings
from customize.settings.field import setting

WITH_MASKS = ("masked_loss", (True,))


class MaskSettings(Settings):
    """Whether masks weigh the loss, where they are, and what is learned outside of them."""

    masked_loss: bool = setting(
        False, "data", "learn only what masks select: NAME-mask.png beside NAME.jpg, white where the subject is"
    )
    mask_data_dir: str | None = setting(
        None, "data", "folder of masks named like the images, used before those beside them", text="path", only_with=WITH_MASKS,
        scope="run",
    )  # fmt: skip
    alpha_mask: bool = setting(
        False, "data", "use the transparency of an image as its mask, if it has no other: what is opaque is the subject",
        only_with=WITH_MASKS, scope="run",
    )  # fmt: skip
    unmasked_weight: float = setting(
        0.0, "train", "weight of the loss outside of masks, where it is 1 inside", ge=0, le=1, only_with=WITH_MASKS
    )
    masked_prior_preservation_weight: float = setting(
        0.0, "train", "weight of the loss outside of masks, with the prediction of the model without its adapter as the target",
        ge=0, le=100, only_with=WITH_MASKS,
    )  # fmt: skip
