"""One evaluation of the network while sampling. B images, C latent channels, H W latent height and width."""

from dataclasses import dataclass

from torch import Tensor

from customize.diffusion import predictions


@dataclass(frozen=True)
class Step:
    """Evaluation number `index` of `count`, at `timestep` and the noise level (alpha, sigma) of the network's input.

    next_timestep: that of the evaluation after it, None at the end; prediction_type: the row of the table of predictions by
    which outputs are read. A solver of second order makes about two evaluations for each of its steps.
    """

    index: int
    count: int
    timestep: Tensor
    next_timestep: Tensor | None
    alpha: float
    sigma: float
    prediction_type: str

    def split(self, output: Tensor, noisy: Tensor) -> tuple[Tensor, Tensor]:
        """(noise, clean) [B, C, H, W] of the network's input `noisy`, according to its output: see `predictions.split`."""
        return predictions.split(output, noisy, self.alpha, self.sigma, self.prediction_type)

    def output_of(self, clean: Tensor, noisy: Tensor) -> Tensor:
        """The output [B, C, H, W] from which `split` finds these clean latents in `noisy`."""
        return predictions.output_of(clean, noisy, self.alpha, self.sigma, self.prediction_type)
