"""Two tiny base models unlike Stable Diffusion, each complete in one class: what a new family has to write.

`FlowTransformer`: rectified flow in the latents of an autoencoder with a shift, by a multimodal transformer with two kinds of
conditioning (as SD3). `PixelUNet`: DDPM on pixels, by a UNet that predicts a variance as well (as DeepFloyd IF).

B samples, C channels, H W height and width, L characters, D width.
"""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from torch import Tensor, nn

from customize.diffusion.process import DiscreteSchedule, FlowSchedule
from customize.families.base import DenoiserOutput
from customize.families.conditioning import Conditioning
from customize.families.latents import KLLatents, Pixels
from customize.families.specs.family_spec import FamilySpec
from customize.families.specs.network_names import NetworkNames

LENGTH, WIDTH = 32, 32


def characters(prompts) -> Tensor:
    """[B, L, D]: a fixed random vector for each character of a text, in place of a text encoder."""
    table = torch.randn(128, WIDTH, generator=torch.Generator().manual_seed(0))
    texts = [prompt if isinstance(prompt, str) else "".join(span.text for span in prompt) for prompt in prompts]
    return torch.stack([table[[ord(character) % 128 for character in text[:LENGTH].ljust(LENGTH)]] for text in texts])


class TinySpec(FamilySpec):
    """Of both: files call the networks as their folders are called, without anything that is read before loading."""

    name, title, load = "tiny", "a tiny model of the tests", ""
    networks = {
        name: NetworkNames((f"{name}.",), (f"lora_{name}_",))
        for name in ("transformer", "unet", "text_encoder", "text_encoder_2")
    }

    def matches(self, path):
        return False

    def check(self, source):
        return source

    def files(self, source):
        return ()


class TinyFamily:
    """What both have in common."""

    spec = TinySpec()
    model_spec: dict[str, str] = {}
    source = Path("nowhere")
    text_encoders = ()
    takes_mask = takes_guidance = False
    lora_targets = {"attention": ("to_q", "to_k", "to_v", "to_out.0")}
    size_multiple, resolution = 4, 16
    denoiser: nn.Module
    components: dict[str, nn.Module]

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.denoiser.parameters()).dtype

    def to(self, *args, **kwargs):
        for component in self.components.values():
            component.to(*args, **kwargs)
        return self

    def num_chunks(self, prompt) -> int:
        return 1

    def collate(self, prompts, empty) -> Conditioning:
        return Conditioning.cat(prompts)

    def replace_vae(self, vae, where) -> None:
        raise NotImplementedError

    def pipeline(self):
        raise NotImplementedError


class FlowTransformer(TinyFamily):
    name, prediction_type = "tiny-flow", "flow_prediction"

    def __init__(self):
        torch.manual_seed(0)
        self.denoiser = SD3Transformer2DModel(
            sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
            num_attention_heads=4, joint_attention_dim=WIDTH, caption_projection_dim=32, pooled_projection_dim=WIDTH,
            pos_embed_max_size=16,
        )  # fmt: skip
        nn.init.normal_(self.denoiser.proj_out.weight, std=0.5)
        self.vae = AutoencoderKL(
            block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, latent_channels=4, scaling_factor=1.5, shift_factor=0.06,
        )  # fmt: skip
        self.components = {"transformer": self.denoiser, "vae": self.vae}
        self.trainable = {"transformer": self.denoiser}
        self.latents = KLLatents(self.vae)
        self.scheduler, self.schedule = FlowMatchEulerDiscreteScheduler(shift=3.0), FlowSchedule(logit_normal=(0.0, 1.0))
        for component in self.components.values():
            component.eval().requires_grad_(False)

    def encode_prompts(self, prompts, *, clip_skip=None, min_chunks=1) -> Conditioning:
        vectors = characters(prompts)
        return Conditioning({"encoder_hidden_states": vectors, "pooled_projections": vectors.mean(1)})

    def predict(self, noisy_latents, timesteps, conditioning) -> DenoiserOutput:
        return DenoiserOutput(self.denoiser(noisy_latents, timestep=timesteps, **conditioning.tensors, return_dict=False)[0])


class PixelUNet(TinyFamily):
    name, prediction_type, latents = "tiny-pixels", "epsilon", Pixels()

    def __init__(self):
        torch.manual_seed(0)
        self.denoiser = UNet2DConditionModel(
            sample_size=16, in_channels=3, out_channels=6, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=WIDTH, attention_head_dim=4,
        )  # fmt: skip
        self.components = self.trainable = {"unet": self.denoiser}
        self.scheduler = DDPMScheduler(
            variance_type="learned_range", beta_schedule="squaredcos_cap_v2", clip_sample=False, steps_offset=1
        )
        self.schedule = DiscreteSchedule.of(self.scheduler)
        self.denoiser.eval().requires_grad_(False)

    def encode_prompts(self, prompts, *, clip_skip=None, min_chunks=1) -> Conditioning:
        return Conditioning({"encoder_hidden_states": characters(prompts)})

    def predict(self, noisy_latents, timesteps, conditioning) -> DenoiserOutput:
        output = self.denoiser(noisy_latents, timesteps, **conditioning.tensors, return_dict=False)[0]
        return DenoiserOutput(*output.chunk(2, 1))
