"""Stable Diffusion 1.x and 2.x: the components of the model, its prompts and its predictions.

B batch, C latent channels, H W latent height and width, L tokens, D embedding width.
Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models".
"""

from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from customize.diffusion.process import DiscreteSchedule
from customize.errors import InputError, Problem
from customize.families import prompt_encoding
from customize.families.base import DenoiserOutput
from customize.families.conditioning import Conditioning, SuperResolution
from customize.families.files import single_file
from customize.families.files.clip_tokenizer import load_tokenizer
from customize.families.files.ldm_header import MODELSPEC
from customize.families.files.networks import load_network
from customize.families.files.scheduler import load_scheduler
from customize.families.latents import KLLatents
from customize.families.prompt_encoding import Prompt
from customize.families.specs import STABLE_DIFFUSION
from customize.families.specs.family_spec import Source
from customize.families.text_encoder import TextEncoder
from customize.families.unet_family import UNetFamily

LORA_TARGETS = {
    "attention": ("to_q", "to_k", "to_v", "to_out.0", "q_proj", "k_proj", "v_proj", "out_proj"),
    "feed-forward": ("ff.net.0.proj", "ff.net.2", "mlp.fc1", "mlp.fc2"),
    "projections": ("proj_in", "proj_out"),
    "convolutions": ("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv"),
    "cross-attention-kv": ("attn2.to_k", "attn2.to_v"),
}
"""Of the UNet, then of CLIP. cross-attention-kv: what reads the prompt (Kumari et al. 2023, "Custom Diffusion")."""
VERSIONS = {768: "v1", 1024: "v2"}
"""Stable Diffusion 1.x and 2.x by the width of the text encoder."""


class StableDiffusion(UNetFamily):
    """A text-conditional latent diffusion model with one CLIP text encoder.

    name: the name that the user gave; source: the folder or file that it was loaded from. scheduler: its own, for sampling;
    schedule: the noise levels it was trained with.
    """

    spec = STABLE_DIFFUSION
    lora_targets = LORA_TARGETS
    super_resolution: SuperResolution | None = None
    keeps_known_clean = False

    def __init__(self, name: str, source: Path, unet, vae, text_encoder, tokenizer, scheduler):
        self.name, self.source = name, source
        self.unet: UNet2DConditionModel = unet
        self.vae: AutoencoderKL = vae
        self.text_encoder: CLIPTextModel = text_encoder
        self.tokenizer: CLIPTokenizer = tokenizer
        self.scheduler = scheduler
        self.schedule = DiscreteSchedule.of(DDPMScheduler.from_config(scheduler.config))
        self.text_encoders = (TextEncoder("text_encoder", text_encoder, tokenizer, name),)
        for network in self.components.values():
            network.requires_grad_(False).eval()

    @property
    def components(self) -> dict[str, nn.Module]:
        return {"unet": self.unet, "vae": self.vae, "text_encoder": self.text_encoder}

    @property
    def trainable(self) -> dict[str, nn.Module]:
        return {"unet": self.unet, "text_encoder": self.text_encoder}

    @property
    def latents(self) -> KLLatents:
        """The autoencoder's latents, in which the UNet denoises."""
        return KLLatents(self.vae)

    @property
    def resolution(self) -> int:
        """Side in pixels of the images that the model was trained on. Raises InputError if the model does not specify it."""
        if self.unet.config.sample_size is None:
            remedy = "set --resolution for training, --height and --width for generating"
            raise InputError(Problem(str(self.source), "does not specify the image size that it was trained on", remedy))
        return self.unet.config.sample_size * self.latents.factor

    @property
    def prediction_type(self) -> str:
        """The key of `diffusion.predictions.PREDICTIONS` that the scheduler names."""
        return self.scheduler.config.prediction_type

    @property
    def size_multiple(self) -> int:
        """Sides in pixels that are multiples of this are divisible by two in every block of the UNet."""
        return self.latents.factor * 2 ** (len(self.unet.config.block_out_channels) - 1)

    @property
    def takes_mask(self) -> bool:
        """Whether the UNet's input includes a mask and the known region's latents. Raises InputError for other channels."""
        channels, own = self.unet.config.in_channels, self.latents.channels
        if channels not in (own, 2 * own + 1):
            what = f"its UNet takes {channels} channels, neither {own} nor {2 * own + 1} (inpainting)"
            raise InputError(Problem(self.name, what, "use a model for text-to-image or for inpainting"))
        return channels > own

    @property
    def model_spec(self) -> dict[str, str]:
        """The names in Stability AI's specification and in kohya's scripts; none for another width of the text encoder."""
        if (version := VERSIONS.get(self.text_encoders[0].width)) is None:
            return {}
        is_v = self.prediction_type == "v_prediction"
        variant = "-inpainting" if self.takes_mask else "" if version == "v1" else "-768-v" if is_v else "-512"
        return {
            "modelspec.architecture": f"stable-diffusion-{version}{variant}",
            "modelspec.prediction_type": MODELSPEC.get(self.prediction_type, self.prediction_type),
            "ss_base_model_version": f"sd_{version}{'_v' * (is_v and version == 'v2')}",
            "ss_v2": str(version == "v2"),
        }

    def replace_vae(self, vae: AutoencoderKL, where: Path) -> None:
        """Replaces the autoencoder. Raises InputError for another shape of latents."""
        sizes = [(each.factor, each.channels) for each in (KLLatents(vae), self.latents)]
        if sizes[0] != sizes[1]:
            spaces = [f"{channels} channels of 1/{factor} the size" for factor, channels in sizes]
            what = f"{where} has latents of {spaces[0]}, the base model's own autoencoder of {spaces[1]}"
            raise InputError(Problem("vae", what, "use an autoencoder of the same kind of model"))
        self.vae = vae.requires_grad_(False).eval()

    def encode_prompts(self, prompts: Sequence[Prompt], *, clip_skip: int | None = None, min_chunks: int = 1) -> Conditioning:
        """`encoder_hidden_states` [B, N * L, D]: see `customize.families.prompt_encoding.encode`."""
        encoded = prompt_encoding.encode(self.text_encoders[0], prompts, clip_skip, min_chunks)
        return Conditioning({"encoder_hidden_states": encoded.hidden_states})

    def num_chunks(self, prompt: Prompt) -> int:
        """The number of chunks that the text encoder reads a prompt in, at least 1."""
        return prompt_encoding.num_chunks(self.text_encoders[0], prompt)

    def collate(self, prompts: Sequence[Conditioning], empty: Conditioning) -> Conditioning:
        """Batches prompts that were encoded one by one. A shorter prompt is padded with chunks of the empty one."""
        rows = [prompt.tensors["encoder_hidden_states"] for prompt in prompts]
        longest, padding = max(row.shape[1] for row in rows), empty.tensors["encoder_hidden_states"]
        padded = [torch.cat([row, *[padding] * ((longest - row.shape[1]) // padding.shape[1])], 1) for row in rows]
        return Conditioning({"encoder_hidden_states": torch.cat(padded)})

    @property
    def takes_guidance(self) -> bool:
        """Whether the guidance scale is an input of the UNet, as in a latent consistency model (LCM)."""
        return self.unet.config.time_cond_proj_dim is not None

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> DenoiserOutput:
        """noisy_latents: [B, C, H, W]; timesteps: [B]; conditioning: `encoder_hidden_states` [B, L, D], and with
        `takes_guidance` also `guidance_scale` [B].

        Returns the UNet's output [B, C, H, W], of the kind that `prediction_type` names.
        """
        inputs = dict(conditioning.tensors)
        if (scale := inputs.pop("guidance_scale", None)) is not None:
            width = self.unet.config.time_cond_proj_dim
            inputs["timestep_cond"] = guidance_embedding(scale - 1, width).to(noisy_latents)
        return DenoiserOutput(self.unet(noisy_latents, timesteps, **inputs, return_dict=False)[0])

    def with_component(self, name: str, network: nn.Module) -> "StableDiffusion":
        """The same model with another network as the component `name`; all other networks are shared."""
        other = copy(self)
        setattr(other, name, network)
        other.text_encoders = tuple(map(copy, self.text_encoders))
        for encoder in other.text_encoders:
            encoder.module = other.components[encoder.name]
        return other

    def load_component(self, model: Path, name: str) -> Any:
        """A network in float32, a tokenizer or the scheduler of a complete pipeline or a single file. Raises InputError."""
        network = self.components.get(name)
        if model.is_file():
            layout = self.spec.layout(Source(self.name, file=model))
            if network is not None:
                return single_file.load_part(type(network), name, model, layout, torch.float32).eval()
            if name == "scheduler":
                return single_file.scheduler_of(layout)
            return single_file.tokenizer_of(layout, name.replace("tokenizer", "text_encoder"))
        if network is not None:
            return load_network(type(network), model / name, name).eval()
        return load_scheduler(model) if name == "scheduler" else load_tokenizer(model, name)

    def pipeline(self) -> StableDiffusionPipeline | StableDiffusionInpaintPipeline:
        """diffusers' pipeline of these components (not copies), without a safety checker."""
        kind = StableDiffusionInpaintPipeline if self.takes_mask else StableDiffusionPipeline
        return kind(
            vae=self.vae, text_encoder=self.text_encoder, tokenizer=self.tokenizer, unet=self.unet,
            scheduler=self.scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip


def guidance_embedding(w: Tensor, width: int) -> Tensor:
    """w: [B], the guidance scale less 1; returns [B, width] in float32: sines, then cosines, of 1000 w f, with `width` // 2
    frequencies f from 1 down to 1/10000.

    Luo et al. 2023, "Latent Consistency Models", section 4.2 and appendix; w as in Meng et al. 2023, "On Distillation of
    Guided Diffusion Models".
    """
    half = width // 2
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32) * -(torch.tensor(10_000.0).log() / (half - 1)))
    angles = 1000 * w.cpu().float()[:, None] * frequencies  # up to thousands; on the CPU, so that all devices get the same
    return F.pad(torch.cat([angles.sin(), angles.cos()], 1), (0, width % 2))
