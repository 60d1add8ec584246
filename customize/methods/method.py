"""What a method is to the training loop: a module whose forward gives one weighted loss per sample."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from customize.data.batches import Batch
from customize.diffusion import losses, predictions
from customize.families.base import Family
from customize.families.conditioning import Conditioning
from customize.optim.optimizers import build_adamw

Condition = Callable[[Sequence[str]], Conditioning]
"""Prompts -> conditioning, a row for each: looked up when the text encoder is frozen, computed when it learns."""


class Method(nn.Module):
    """Something that can be trained: it says what learns, what a sample costs, and how the result is saved.

    Submodules are the networks in use; only what requires a gradient is optimized and kept in checkpoints.
    name: for the result's metadata; trigger_words: what calls the result up; example_prompt: a prompt with them.
    """

    name: str
    trigger_words: tuple[str, ...] = ()
    example_prompt: str = ""

    def forward(self, batch: Any) -> Tensor:
        """Returns the weighted loss of each sample [B], float32."""
        raise NotImplementedError

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimizer is given: dictionaries with "params" and "lr"."""
        raise NotImplementedError

    def build_optimizer(self, settings) -> torch.optim.Optimizer:
        """AdamW over the parameter groups, unless the method has one of its own."""
        return build_adamw(settings, self.parameter_groups())

    def learned(self) -> dict[str, Tensor]:
        """What a checkpoint holds, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    @torch.no_grad()
    def load_learned(self, tensors: Mapping[str, Tensor]) -> None:
        """Puts back what `learned` gave."""
        mine = self.learned()
        assert mine.keys() == tensors.keys(), "the checkpoint holds other tensors"
        for name, tensor in tensors.items():
            mine[name].copy_(tensor)

    @contextmanager
    def holding(self, weights: Mapping[str, Tensor] | None) -> Iterator[None]:
        """Within it the networks hold these weights, an average or those of an earlier step; None: their own."""
        if weights is None:
            yield
            return
        own = {name: tensor.detach().clone() for name, tensor in self.learned().items()}
        self.load_learned(weights)
        try:
            yield
        finally:
            self.load_learned(own)

    def description(self) -> dict[str, str]:
        """What a file of `learned` must say of itself, so that it can be loaded as weights."""
        return {}

    def before_step(self) -> None:
        """Called with the gradients in place, before the optimizer steps."""

    def after_step(self) -> None:
        """Called after the optimizer stepped."""

    def report(self) -> str:
        """What the user should know of the result; empty when there is nothing to say."""
        return ""

    def save(self, folder: Path, metadata: dict[str, str]) -> list[Path]:
        """Writes the result to share into the folder, reads it afresh and compares; returns the files."""
        raise NotImplementedError


class DenoisingMethod(Method):
    """The loss of a latent diffusion model on a batch; what learns is said by those that build on it."""

    def __init__(self, family: Family, condition: Condition):
        super().__init__()
        self.family, self.condition = family, condition

    def forward(self, batch: Batch) -> Tensor:
        """Returns the weighted loss of each sample [B], float32 (DDPM, equation 14, on latents)."""
        prediction = self.predicted(batch)
        return losses.mean_squared_error(prediction, self.target(batch)) * batch.loss_weights

    def predicted(self, batch: Batch) -> Tensor:
        """What the network answers [B, C, H, W] about the noisy latents of the batch."""
        return self.family.predict(self.noisy_latents(batch), batch.timesteps, self.condition(batch.prompts)).prediction

    def noisy_latents(self, batch: Batch) -> Tensor:
        """The latents with the noise of their timesteps [B, C, H, W]."""
        return predictions.add_noise(batch.latents, batch.noise, *self.levels(batch))

    def levels(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """alpha, sigma [B] at the timesteps of the batch."""
        return self.family.schedule.alpha_sigma(batch.timesteps, batch.latents.dtype)

    def wanted(self, batch: Batch) -> Tensor:
        """What the images of the batch ask of the network [B, C, H, W]."""
        return predictions.target(batch.latents, batch.noise, *self.levels(batch), self.family.prediction_type)

    def target(self, batch: Batch) -> Tensor:
        """What the network should have answered [B, C, H, W]: that, unless a method has something else to learn."""
        return self.wanted(batch)
