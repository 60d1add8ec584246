"""What a base model is to the rest of the program: components, prompts, latents, and one evaluation of the denoiser.

A new base model is one module here that implements `Family`, and a `FamilySpec` by which its files are recognised.

B samples, C latent channels, H W latent height and width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from customize.diffusion.process import NoiseSchedule
from customize.families.conditioning import Conditioning, Crop
from customize.families.latents import LatentSpace
from customize.families.prompt_encoding import Prompt
from customize.families.specs.family_spec import FamilySpec
from customize.families.text_encoder import TextEncoder


class DenoiserOutput(NamedTuple):
    """What a denoiser returns: a prediction [B, C, H, W], of the kind that `prediction_type` names, and where the network
    predicts it, the variance of the step back [B, C, H, W], of the kind that the scheduler's `variance_type` names."""

    prediction: Tensor
    variance: Tensor | None = None


@dataclass(frozen=True)
class Placement:
    """Where a base model is loaded, and in which precision."""

    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32


class Family(Protocol):
    """A loaded base model.

    spec: what is known of all its family's models, without torch; name: what the user called it; source: the folder or file that
    it came from; scheduler: the base's own of diffusers, for sampling; schedule: its noise levels, for training;
    prediction_type: a key of `diffusion.predictions.PREDICTIONS`.
    """

    spec: FamilySpec
    name: str
    source: Path
    scheduler: Any
    schedule: NoiseSchedule

    @property
    def prediction_type(self) -> str: ...

    @property
    def components(self) -> Mapping[str, nn.Module]:
        """Every network by the name of its folder: what is moved, cast and saved."""
        ...

    @property
    def trainable(self) -> Mapping[str, nn.Module]:
        """Those components that adapters and fine-tuning may change, the denoiser first, then the text encoders; each is one
        of `spec.networks`."""
        ...

    @property
    def denoiser(self) -> nn.Module:
        """The network that `predict` evaluates."""
        ...

    @property
    def text_encoders(self) -> Sequence[TextEncoder]: ...

    @property
    def latents(self) -> LatentSpace: ...

    def replace_vae(self, vae: Any, where: Path) -> None:
        """Takes another autoencoder for its own. Raises InputError where it does not fit."""
        ...

    @property
    def lora_targets(self) -> Mapping[str, Sequence[str]]:
        """Presets of the setting `lora_targets`: ends of names of modules, over all trainable components."""
        ...

    @property
    def model_spec(self) -> Mapping[str, str]:
        """What files of learned weights say of the base model for other programs: `modelspec.architecture` (without the kind of
        the file), `modelspec.prediction_type`, kohya's `ss_base_model_version`; empty where no program has a name for it."""
        ...

    @property
    def device(self) -> torch.device:
        """That of the denoiser."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """That of the denoiser."""
        ...

    def to(self, *args: Any, **kwargs: Any) -> "Family":
        """Moves or casts every component, as `torch.nn.Module.to`."""
        ...

    @property
    def resolution(self) -> int:
        """Side in pixels of the images that the model was made for. Raises InputError where its files do not say."""
        ...

    @property
    def size_multiple(self) -> int:
        """Sides in pixels that are proposed are multiples of this."""
        ...

    @property
    def takes_mask(self) -> bool:
        """Whether the denoiser is given, beside the latents, a mask and the latents of the known region (inpainting).

        Raises InputError where it takes yet other channels."""
        ...

    @property
    def takes_guidance(self) -> bool:
        """Whether the guidance scale is an input of the denoiser (`guidance_scale` [B] of its conditioning)."""
        ...

    def encode_prompts(self, prompts: Sequence[Prompt], *, clip_skip: int | None = None, min_chunks: int = 1) -> Conditioning:
        """Conditioning of prompts, a row for each. Prompts of different lengths have one length in it: that of the longest,
        and of `min_chunks` at least. clip_skip: last layers of the text encoder that are left out. Raises InputError."""
        ...

    def num_chunks(self, prompt: Prompt) -> int:
        """In how many parts the text encoder reads a prompt, at least 1: prompts of as many parts have one length."""
        ...

    def collate(self, prompts: Sequence[Conditioning], empty: Conditioning) -> Conditioning:
        """One batch of prompts that were encoded one by one. Shorter ones are padded with the empty prompt."""
        ...

    def size_conditioning(self, crops: Sequence[Crop]) -> Mapping[str, Tensor]:
        """Further conditioning [B, ...], on the denoiser's device, that follows from image sizes and crops; {} where the
        denoiser takes none."""
        ...

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> DenoiserOutput:
        """Evaluates the denoiser on noisy latents [B, C, H, W] at timesteps [B]."""
        ...

    def with_component(self, name: str, network: nn.Module) -> "Family":
        """The same model with another network in the place of the component `name`; all other networks are shared."""
        ...

    def pipeline(self) -> Any:
        """diffusers' own pipeline around these very components, for `save_pretrained`."""
        ...
