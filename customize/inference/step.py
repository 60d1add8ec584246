"""One evaluation of the denoiser during sampling. B images, C latent channels, H W latent height and width."""

from dataclasses import dataclass

from torch import Tensor

from customize.diffusion import predictions


@dataclass(frozen=True)
class Step:
    """Evaluation number `index` of `count`, at `timestep` and the noise level (alpha, sigma) of the network's input.

    next_timestep: that of the next evaluation, None at the end; prediction_type: how to interpret outputs, see `predictions`.
    Second-order solvers make about two evaluations per step.
    """

    index: int
    count: int
    timestep: Tensor
    next_timestep: Tensor | None
    alpha: float
    sigma: float
    prediction_type: str

    def split(self, output: Tensor, noisy: Tensor) -> tuple[Tensor, Tensor]:
        """(noise, clean) [B, C, H, W] that an output predicts for the network's input `noisy`, see `predictions.split`."""
        return predictions.split(output, noisy, self.alpha, self.sigma, self.prediction_type)

    def output_of(self, clean: Tensor, noisy: Tensor) -> Tensor:
        """The output [B, C, H, W] for which `split` returns these clean latents."""
        return predictions.output_of(clean, noisy, self.alpha, self.sigma, self.prediction_type)
