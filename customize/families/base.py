"""The interface of base models: components, prompt encoding, latents, and one evaluation of the denoiser.

A new base model is one module here that implements `Family`, and a `FamilySpec` that recognises its files.

B samples, C latent channels, H W latent height and width.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from customize.diffusion.process import NoiseSchedule
from customize.families.conditioning import Conditioning, Crop, SuperResolution
from customize.families.latents import LatentSpace
from customize.families.prompt_encoding import Prompt
from customize.families.specs.family_spec import FamilySpec
from customize.families.text_encoder import TextEncoder


class DenoiserOutput(NamedTuple):
    """The output of a denoiser: a prediction [B, C, H, W], of the kind that `prediction_type` names, and, if the network predicts
    it, the variance of the reverse step [B, C, H, W], of the kind that the scheduler's `variance_type` names."""

    prediction: Tensor
    variance: Tensor | None = None


@dataclass(frozen=True)
class Placement:
    """The device and the precision that a base model is loaded in. in_float32: the components that do not have `dtype`."""

    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32
    in_float32: Collection[str] = ()

    def dtype_of(self, component: str) -> torch.dtype:
        """The precision of a component, named as in `Family.components`."""
        return torch.float32 if component in self.in_float32 else self.dtype


class Family(Protocol):
    """A loaded base model.

    spec: the torch-free description of its family; name: the name that the user gave; source: the folder or file that it was
    loaded from; scheduler: the base model's own scheduler of diffusers, for sampling; schedule: its noise levels, for training;
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
        """All networks, which are moved, cast and saved, by the names of their folders."""
        ...

    @property
    def trainable(self) -> Mapping[str, nn.Module]:
        """The components that adapters and fine-tuning may change, the denoiser first, then the text encoders. Their names are
        those of `spec.networks`."""
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
        """Replaces the autoencoder. Raises InputError if the new one does not fit."""
        ...

    @property
    def lora_targets(self) -> Mapping[str, Sequence[str]]:
        """Presets of the setting `lora_targets`: ends of names of modules, over all trainable components."""
        ...

    @property
    def model_spec(self) -> Mapping[str, str]:
        """Metadata on the base model in files of learned weights, for other programs: `modelspec.architecture` (without the kind
        of the file), `modelspec.prediction_type`, kohya's `ss_base_model_version` and `ss_v2`; empty if it has no established
        name."""
        ...

    @property
    def device(self) -> torch.device:
        """Of the denoiser."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of the denoiser."""
        ...

    def to(self, *args: Any, **kwargs: Any) -> "Family":
        """Moves or casts every component, as `torch.nn.Module.to`."""
        ...

    @property
    def resolution(self) -> int:
        """Side in pixels of the images that the model was trained on. Raises InputError if its files do not specify it."""
        ...

    @property
    def size_multiple(self) -> int:
        """Image sides that are suggested to the user are multiples of this, in pixels."""
        ...

    @property
    def takes_mask(self) -> bool:
        """Whether the denoiser's input includes a mask and the latents of the known region (inpainting).

        Raises InputError for other additional channels."""
        ...

    @property
    def takes_guidance(self) -> bool:
        """Whether the guidance scale is an input of the denoiser (`guidance_scale` [B] of its conditioning)."""
        ...

    @property
    def super_resolution(self) -> SuperResolution | None:
        """How the denoiser takes the image that it enlarges; None for a model that enlarges none."""
        ...

    @property
    def keeps_known_clean(self) -> bool:
        """Whether inpainting keeps the known region without noise, as the model's authors do, rather than noised to the level
        of the rest."""
        ...

    def encode_prompts(self, prompts: Sequence[Prompt], *, clip_skip: int | None = None, min_chunks: int = 1) -> Conditioning:
        """The conditioning of prompts, one row each. All are padded to the length of the longest, and of at least `min_chunks`.
        clip_skip: the number of last layers of the text encoder to skip. Raises InputError."""
        ...

    def num_chunks(self, prompt: Prompt) -> int:
        """The number of chunks that the text encoder reads a prompt in, at least 1. It determines the encoded length."""
        ...

    def collate(self, prompts: Sequence[Conditioning], empty: Conditioning) -> Conditioning:
        """Batches prompts that were encoded one by one. Shorter ones are padded with the empty prompt."""
        ...

    def size_conditioning(self, crops: Sequence[Crop]) -> Mapping[str, Tensor]:
        """Additional conditioning [B, ...] on image sizes and crops, on the denoiser's device; {} if the denoiser takes none."""
        ...

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> DenoiserOutput:
        """Evaluates the denoiser on noisy latents [B, C, H, W] at timesteps [B]."""
        ...

    def leave_out_text_encoder(self) -> None:
        """Drops the text encoder, after which prompts cannot be encoded. Only of families with `FamilySpec.load_prompts`."""
        ...

    def with_component(self, name: str, network: nn.Module) -> "Family":
        """The same model with another network as the component `name`; all other networks are shared."""
        ...

    def pipeline(self) -> Any:
        """diffusers' pipeline of these components (not copies), for `save_pretrained`."""
        ...

    def load_component(self, model: Path, name: str) -> Any:
        """What `pipeline().save_pretrained(model)` wrote into the subfolder `name`, or `model_file.save_model_file` into the file
        `model`: a network of `components` in float32 on the CPU, a text encoder's tokenizer (`TextEncoder.tokenizer_folder`), or
        the scheduler ("scheduler"). Raises InputError."""
        ...
