"""Rules about combinations of settings of the loss. See `rule.py`."""

from collections.abc import Iterator

from customize.diffusion.loss_weights import MIN_SNR, NOISE, SOFT_MIN_SNR
from customize.errors import Problem
from customize.settings.rules.rule import rule

ONE = "leave one of the two out"


@rule("loss_weighting", "snr_gamma", "v_pred_like_loss")
def one_weighting(name: str | None, snr_gamma: float | None, v_pred_like_loss: float | None) -> Iterator[Problem]:
    """A parameter of a loss weighting goes with that weighting, which it implies."""
    if snr_gamma and name not in (None, MIN_SNR, SOFT_MIN_SNR):
        yield Problem("snr_gamma", f"has no effect with loss_weighting = {name}", f"{ONE}, or set loss_weighting = {MIN_SNR}")
    if v_pred_like_loss and name not in (None, NOISE):
        what = f"cannot be combined with loss_weighting = {name}"
        yield Problem("v_pred_like_loss", what, f"{ONE}, or set loss_weighting = {NOISE}")
    if snr_gamma and v_pred_like_loss and name is None:
        yield Problem("v_pred_like_loss", "cannot be combined with snr_gamma: each is a loss weighting of its own", ONE)


@rule("min_timestep", "max_timestep")
def timesteps_have_a_range(least: int, most: int) -> Iterator[Problem]:
    """Some timesteps are trained."""
    if least >= most:
        what = f"{least} is not below max_timestep = {most}: no timestep would be trained"
        yield Problem("min_timestep", what, "give a lower one, such as 0")


OBJECTIVE = one_weighting, timesteps_have_a_range
