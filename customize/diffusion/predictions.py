"""The table of prediction types: how a network's output depends on the clean sample and the noise. Needs no torch.

The network's input is noisy = alpha * clean + sigma * noise, and its output is c_clean * clean + c_noise * noise. All else
(training targets, the clean sample and noise of an output, the inverse, loss weights) follows from these two coefficients.

clean, noise, noisy, output: [B, ...], of latents or pixels; alpha, sigma: numbers, or one per sample [B].
"""

from collections.abc import Callable, Mapping
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    Level = float | Tensor


class Prediction(NamedTuple):
    """One prediction type.

    coefficients: (alpha, sigma) -> (c_clean, c_noise). Integers are constants: a term of 0 is skipped, so that the result is the
    other tensor itself. squared_error: the squared error of the output over that of the clean sample that it predicts, which is
    (c_clean - c_noise * alpha / sigma)^2, of snr [B] = (alpha / sigma)^2. noise, clean: the formulas of `split` for output y and
    noisy sample x, as text.
    """

    coefficients: "Callable[[Level, Level], tuple[Level, Level]]"
    squared_error: "Callable[[Tensor], Tensor]"
    noise: str
    clean: str


FLOW_PREDICTION = "flow_prediction"
PREDICTIONS: Mapping[str, Prediction] = {
    # Ho et al. 2020, "Denoising Diffusion Probabilistic Models", equation 14
    "epsilon": Prediction(
        lambda alpha, sigma: (0, 1),
        lambda snr: snr,
        noise="y",
        clean="(x − σ y) / α",
    ),
    # Salimans & Ho 2022, "Progressive Distillation for Fast Sampling", appendix D; alpha^2 + sigma^2 = 1
    "v_prediction": Prediction(
        lambda alpha, sigma: (-sigma, alpha),
        lambda snr: snr + 1,
        noise="σ x + α y",
        clean="α x − σ y",
    ),
    "sample": Prediction(
        lambda alpha, sigma: (1, 0),
        lambda snr: snr**0,
        noise="(x − α y) / σ",
        clean="y",
    ),
    # Lipman et al. 2023, "Flow Matching for Generative Modeling"; Esser et al. 2024 (SD3), equation 13; alpha + sigma = 1
    FLOW_PREDICTION: Prediction(
        lambda alpha, sigma: (-1, 1),
        lambda snr: (snr.sqrt() + 1) ** 2,
        noise="x + α y",
        clean="x − σ y",
    ),
}
"""By their names in diffusers' schedulers."""
DISCRETE_PREDICTIONS = tuple(name for name in PREDICTIONS if name != FLOW_PREDICTION)
"""Those of models with a discrete, variance-preserving noise schedule (`process.DiscreteSchedule`)."""


def prediction(prediction_type: str) -> Prediction:
    """The row of the table. Raises ValueError for an unknown name."""
    if prediction_type not in PREDICTIONS:
        raise ValueError(f"unknown prediction_type {prediction_type!r}")
    return PREDICTIONS[prediction_type]


def add_noise(clean: "Tensor", noise: "Tensor", alpha: "Level", sigma: "Level") -> "Tensor":
    """alpha * clean + sigma * noise (DDPM, equation 4), [B, ...]."""
    return per_sample(alpha, clean) * clean + per_sample(sigma, clean) * noise


def target(clean: "Tensor", noise: "Tensor", alpha: "Level", sigma: "Level", prediction_type: str) -> "Tensor":
    """The training target [B, ...]; for "epsilon" it is `noise` itself, for "sample" `clean`."""
    c_clean, c_noise, _, _, _ = _coefficients(clean, alpha, sigma, prediction_type)
    return _sum((c_clean, clean), (c_noise, noise))


def split(output: "Tensor", noisy: "Tensor", alpha: "Level", sigma: "Level", prediction_type: str) -> "tuple[Tensor, Tensor]":
    """(noise, clean), both [B, ...]: the noise and the clean sample of `noisy` that the network's output predicts.

    Solves the two linear equations at the top of this module. If the network predicts one of the two, that is `output` itself.
    """
    c_clean, c_noise, alpha, sigma, determinant = _coefficients(noisy, alpha, sigma, prediction_type)
    noise = output if _is_constant(c_clean, 0) else _sum((alpha, output), (-c_clean, noisy)) / determinant
    clean = output if _is_constant(c_noise, 0) else _sum((c_noise, noisy), (-sigma, output)) / determinant
    return noise, clean


def output_of(clean: "Tensor", noisy: "Tensor", alpha: "Level", sigma: "Level", prediction_type: str) -> "Tensor":
    """The inverse of `split`: the output [B, ...] for which it returns these clean samples."""
    _, c_noise, _, sigma, determinant = _coefficients(noisy, alpha, sigma, prediction_type)
    return clean if _is_constant(c_noise, 0) else _sum((c_noise, noisy), (-determinant, clean)) / sigma


def determines_clean(alpha: float, sigma: float, prediction_type: str) -> bool:
    """Whether the output determines the clean sample at this level. epsilon does not at zero terminal SNR (alpha = 0).

    Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps are Flawed", section 3.2.
    """
    c_clean, c_noise = prediction(prediction_type).coefficients(alpha, sigma)
    return alpha * c_noise - sigma * c_clean != 0


def per_sample(values: "Level", like: "Tensor") -> "Level":
    """Reshapes one number per sample [B] to [B, 1, ...], with the device and dtype of `like` [B, ...]; a float stays a float."""
    if isinstance(values, float | int):
        return values
    return values.to(like.device, like.dtype).view(-1, *[1] * (like.dim() - 1))


def _coefficients(like: "Tensor", alpha: "Level", sigma: "Level", prediction_type: str) -> "tuple[Level, ...]":
    """(c_clean, c_noise, alpha, sigma, determinant), to be multiplied with tensors of the shape of `like`."""
    alpha, sigma = per_sample(alpha, like), per_sample(sigma, like)
    c_clean, c_noise = prediction(prediction_type).coefficients(alpha, sigma)
    return c_clean, c_noise, alpha, sigma, alpha * c_noise - sigma * c_clean


def _is_constant(coefficient: "Level", value: int) -> bool:
    return isinstance(coefficient, int) and coefficient == value


def _sum(*terms: "tuple[Level, Tensor]") -> "Tensor":
    """The sum of factor * tensor. The constant factors 0 and 1 are not multiplied, so they are exact."""
    kept = [(factor, tensor) for factor, tensor in terms if not _is_constant(factor, 0)]
    return reduce(add, (tensor if _is_constant(factor, 1) else factor * tensor for factor, tensor in kept))
