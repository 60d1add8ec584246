"""The interface of a method to the training loop: a module whose forward returns one weighted loss per sample.

B samples, C latent channels, H W latent height and width.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from customize.data.examples import Example, Examples
from customize.data.samples.batches import Batch, Dataset
from customize.data.samples.latent_dataset import ImageDataset, TurnOf
from customize.diffusion import predictions
from customize.diffusion.losses import Distance
from customize.families.base import Family
from customize.families.conditioning import Conditioning
from customize.optim import optimizers
from customize.optim.averaging import averaged
from customize.optim.learning_rates import LearningRates

Condition = Callable[[Sequence[str]], Conditioning]
"""Prompts -> conditioning, a row for each: looked up when the text encoder is frozen, computed when it learns."""


class Method(nn.Module):
    """A training method: which parameters are trained, the loss of a sample, and how the result is saved.

    Submodules are the networks in use; only parameters that require a gradient are optimized and checkpointed.
    name: for the result's metadata; trigger_words: words that invoke the result in a prompt; example_prompt: a prompt with them.
    small_changes: whether training that did not diverge changes the weights by a small part of their norm.
    """

    name: str
    trigger_words: tuple[str, ...] = ()
    example_prompt: str = ""
    small_changes: bool = True

    def forward(self, batch: Any) -> Tensor:
        """The weighted loss of each sample [B], float32."""
        raise NotImplementedError

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The parameter groups of the optimizer: dictionaries with "params" and "lr"."""
        raise NotImplementedError

    def build_optimizer(self, settings) -> torch.optim.Optimizer:
        """The optimizer of the settings over the parameter groups; a method may override it."""
        return optimizers.build(settings, self.parameter_groups())

    def trainable_state_dict(self) -> dict[str, Tensor]:
        """The trainable tensors by the names that checkpoints use; tensors are those in use, not copies."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def tensors_in_result(self) -> dict[str, Tensor]:
        """The trainable tensors that `save` writes as they are, by which the result is verified."""
        return self.trainable_state_dict()

    @torch.no_grad()
    def load_trainable_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Copies the tensors that `trainable_state_dict` returned back in place."""
        own = self.trainable_state_dict()
        assert own.keys() == tensors.keys(), "the checkpoint holds other tensors"
        for name, tensor in tensors.items():
            own[name].copy_(tensor)

    @contextmanager
    def holding(self, weights: Mapping[str, Tensor] | None) -> Iterator[None]:
        """Inside the context the networks hold these weights (an average, or those of an earlier step); None: their own."""
        if weights is None:
            yield
            return
        own = {name: tensor.detach().clone() for name, tensor in self.trainable_state_dict().items()}
        self.load_trainable_state_dict(weights)
        try:
            yield
        finally:
            self.load_trainable_state_dict(own)

    @contextmanager
    def as_base(self) -> Iterator[None]:
        """Inside the context the denoiser is the base model's. A method that changes it overrides this; new words leave it as it
        is."""
        yield

    def description(self) -> dict[str, str]:
        """Metadata without which a file of `trainable_state_dict` cannot be loaded as weights."""
        return {}

    def before_step(self) -> None:
        """Called with the gradients in place, before the optimizer steps."""

    def after_step(self) -> None:
        """Called after the optimizer stepped."""

    def report(self) -> str:
        """A report on the result for the user; may be empty."""
        return ""

    def save(self, folder: Path, metadata: dict[str, str]) -> list[Path]:
        """Writes the result to share into the folder; returns the files."""
        raise NotImplementedError


class DenoisingMethod(Method):
    """The denoising loss of a diffusion model; subclasses decide which parameters are trained. distance: set by
    `methods.prepare`."""

    distance = Distance()

    def __init__(self, family: Family, condition: Condition):
        super().__init__()
        self.family, self.condition = family, condition

    def forward(self, batch: Batch) -> Tensor:
        """The weighted loss of each sample [B], float32 (DDPM, equation 14, on latents)."""
        prediction = self.prediction(batch)
        return self.losses(prediction, self.target(batch), batch) * batch.loss_weights

    def losses(self, prediction: Tensor, target: Tensor, batch: Batch) -> Tensor:
        """The loss of each sample [B], float32, before its weight. prediction, target: [B, C, H, W]."""
        return self.distance.losses(prediction, target, self.family.schedule, batch.timesteps, batch.loss_mask)

    def prediction(self, batch: Batch) -> Tensor:
        """The denoiser's output [B, C, H, W] for the noisy latents of the batch."""
        inputs = torch.cat([self.noisy_latents(batch), batch.extra_channels], 1)
        return self.family.predict(inputs, batch.timesteps, self.conditioning(batch)).prediction

    def conditioning(self, batch: Batch) -> Conditioning:
        """The conditioning of each sample on its prompt and, where the family takes them, on the sizes of its image."""
        return self.condition(batch.prompts).extended(**self.family.size_conditioning(batch.crops))

    def noisy_latents(self, batch: Batch) -> Tensor:
        """The latents with the noise of their timesteps [B, C, H, W]."""
        return predictions.add_noise(batch.latents, batch.noise + batch.perturbation, *self.alpha_sigma(batch))

    def alpha_sigma(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """alpha, sigma [B] at the timesteps of the batch."""
        return self.family.schedule.alpha_sigma(batch.timesteps, batch.latents.dtype)

    def denoising_target(self, batch: Batch) -> Tensor:
        """The target [B, C, H, W] that follows from latents and noise, by the base model's prediction type."""
        return predictions.target(batch.latents, batch.noise, *self.alpha_sigma(batch), self.family.prediction_type)

    def target(self, batch: Batch) -> Tensor:
        """The target of the loss [B, C, H, W]: the denoising target, unless a method overrides it."""
        return self.denoising_target(batch)


@dataclass(frozen=True)
class TrainingSetup:
    """A prepared method: what the training loop needs.

    condition: how the method conditions on prompts, for validation images; class_examples: the class images in use.
    """

    method: DenoisingMethod
    dataset: Dataset
    condition: Condition
    class_examples: tuple[Example, ...] = ()

    def learning_rates(self, settings, max_train_steps: int, scale: float = 1.0) -> LearningRates:
        """The optimizer of the method, with its average if there is one, and its schedule. scale: of all learning rates, see
        `scale_lr`."""
        return LearningRates(settings, averaged(settings, self.method.build_optimizer(settings)), max_train_steps, scale)


class MethodContext(Protocol):
    """What a run offers a method's `prepare`: the base model, the examples, and the outputs of networks that stay frozen."""

    @property
    def family(self) -> Family: ...

    @property
    def examples(self) -> Examples: ...

    @property
    def device(self) -> torch.device:
        """The device on which the run trains."""
        ...

    def encode_images(self, stream: str, examples: Sequence[Example], turns: TurnOf = int) -> ImageDataset:
        """Samples of these examples; each crop that the run will draw is encoded once. stream: names their random draws;
        turns: which of its own steps those of the run are, see `EpochSampler`."""
        ...

    def encode_captions(self, captions: Iterable[str], min_chunks: int) -> Condition:
        """Encodes captions, the prompts of validation images and the empty prompt once, in `min_chunks` chunks or more, and
        moves the text encoders off the device; the result looks them up."""
        ...

    def complete_class_images(self, settings) -> tuple[Example, ...]:
        """The class images that the settings of DreamBooth describe; missing ones are generated first."""
        ...

    def place(self, method: Method) -> None:
        """Moves the method to its device, in the precision of the run, and enables gradient checkpointing where it is set."""
        ...


def captions_of(examples: Iterable[Example]) -> list[str]:
    """Every caption that can be drawn."""
    return sorted({caption for example in examples for caption in example.captions})


def chunks_needed(family: Family, prompts: Iterable[str], settings) -> int:
    """The chunks of the longest prompt. Tags in another order may need more: a chunk of 75 tokens may end up to 19 earlier, after
    a comma (`families/prompt_encoding.py`)."""
    most = max(map(family.num_chunks, prompts))
    return math.ceil(most * 75 / 56) if settings.varies_captions and most > 1 else most


def encoding_condition(family: Family, min_chunks: int, clip_skip: int | None = None) -> Condition:
    """Evaluates the text encoder each time, for one that is trained. min_chunks: that of the longest caption of the run, so
    that the conditioning of a prompt does not depend on the others in its batch; clip_skip: as in `Family.encode_prompts`."""
    return lambda prompts: family.encode_prompts(prompts, min_chunks=min_chunks, clip_skip=clip_skip)
