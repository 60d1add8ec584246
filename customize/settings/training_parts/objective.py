"""Settings of the loss: of noise and its levels, of weights, and of distances. Part of `training.TrainingSettings`."""

from typing import Annotated

from customize.diffusion.distances import DISTANCES, L2, SCHEDULES
from customize.diffusion.loss_weights import MIN_SNR, NOISE, P2, USUAL_GAMMA, WEIGHTINGS, Weighting
from customize.diffusion.timestep_sampling import DISTRIBUTIONS, LEVELS, UNIFORM
from customize.settings.common import Settings
from customize.settings.field import OneOf, setting

WITH_THRESHOLD = ("loss_type", tuple(name for name in DISTANCES if name not in (L2, "l1")))
WITH_LOGITS, WITH_MULTIRES = ("timestep_sampling", ("logit_normal",)), ("multires_noise_iterations", ())


class ObjectiveSettings(Settings):
    """What the loss of a sample is."""

    loss_weighting: Annotated[str, OneOf(tuple(WEIGHTINGS))] | None = setting(
        None, "train", "weight of a sample's loss by its noise level", default_in_words="none; min_snr if snr_gamma is given"
    )
    snr_gamma: float | None = setting(
        None, "train", "gamma of min-SNR (Hang et al. 2023) and soft-min-SNR loss weights; 5 is typical", gt=0, le=1000,
        default_in_words="none; 5 with loss_weighting = min_snr or soft_min_snr",
    )  # fmt: skip
    p2_gamma: float = setting(
        1.0, "train", "gamma of P2 loss weights (Choi et al. 2022)", gt=0, le=10, only_with=("loss_weighting", (P2,))
    )
    v_pred_like_loss: float | None = setting(
        None, "train", "factor of a loss of the velocity, added to that of the noise (loss_weighting = noise)", gt=0, le=100
    )
    loss_type: Annotated[str, OneOf(tuple(DISTANCES))] = setting(
        L2, "train", "distance between prediction and target: squared error (l2), or one in which large errors weigh less"
    )
    huber_schedule: Annotated[str, OneOf(tuple(SCHEDULES))] = setting(
        "snr", "train", "how the threshold of a Huber loss falls with the noise, from 1 to huber_c", only_with=WITH_THRESHOLD
    )
    huber_c: float = setting(
        0.1, "train", "threshold of a Huber loss, above which errors weigh less", ge=1e-6, le=1, only_with=WITH_THRESHOLD
    )
    timestep_sampling: Annotated[str, OneOf(tuple(DISTRIBUTIONS))] = setting(
        UNIFORM, "train", "distribution of the noise levels that are trained"
    )
    logit_mean: float = setting(
        0.0, "train", "mean of the logit of logit_normal; below 0: less noise", ge=-10, le=10, only_with=WITH_LOGITS
    )
    logit_std: float = setting(
        1.0, "train", "standard deviation of the logit of logit_normal", gt=0, le=10, only_with=WITH_LOGITS
    )
    min_timestep: int = setting(0, "train", "least timestep that is trained: 0 has the least noise", ge=0, le=LEVELS - 1)
    max_timestep: int = setting(LEVELS, "train", "timesteps below this one are trained: 999 has the most noise", ge=1, le=LEVELS)
    stratified_timesteps: bool = setting(
        False, "train", "spread the noise levels of a step evenly, instead of drawing each by itself"
    )
    noise_offset: float = setting(0.0, "train", "noise offset: share of noise that is constant over each channel", ge=0, le=1)
    multires_noise_iterations: int | None = setting(
        None, "train", "levels of multi-resolution noise: ever coarser noise that is added; 6 to 10 are common", ge=1, le=20
    )
    multires_noise_discount: float = setting(
        0.3, "train", "weight of each level of multi-resolution noise, relative to the finer one before", gt=0, le=1,
        only_with=WITH_MULTIRES,
    )  # fmt: skip
    input_perturbation: float = setting(
        0.0, "train", "further noise in the network's input that it does not learn to predict; 0.1 is typical", ge=0, le=1
    )

    @property
    def weighting(self) -> Weighting | None:
        """How samples are weighted by their noise level; None: all weigh the same."""
        name = self.loss_weighting or (self.snr_gamma and MIN_SNR) or (self.v_pred_like_loss and NOISE)
        strengths = {P2: self.p2_gamma, NOISE: self.v_pred_like_loss or 0.0}
        return Weighting(name, strengths.get(name, self.snr_gamma or USUAL_GAMMA)) if name else None
