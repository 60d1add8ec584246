"""Three tiny base models unlike Stable Diffusion, each complete in one class: what a new family has to write.

`FlowTransformer`: rectified flow in the latents of an autoencoder with a shift, by a multimodal transformer with two kinds of
conditioning (as SD3). `PixelUNet`: DDPM on pixels, by a UNet that predicts a variance as well (as DeepFloyd IF).
`TwoEncoders`: Stable Diffusion with a second text encoder, a pooled embedding and size conditioning (as SDXL).

B samples, C channels, H W height and width, L characters, D width.
"""

from copy import copy, deepcopy
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from customize.diffusion.process import DiscreteSchedule, FlowSchedule
from customize.families import loading, prompt_encoding
from customize.families.base import DenoiserOutput, Placement
from customize.families.conditioning import Conditioning
from customize.families.latents import KLLatents, Pixels
from customize.families.specs.family_spec import FamilySpec, Source
from customize.families.specs.network_names import NetworkNames
from customize.families.specs.stable_diffusion_spec import StableDiffusionSpec
from customize.families.stable_diffusion import StableDiffusion
from customize.families.text_encoder import TextEncoder

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
    takes_mask = takes_guidance = keeps_known_clean = False
    super_resolution = None
    lora_targets = {"attention": ("to_q", "to_k", "to_v", "to_out.0")}
    size_multiple, resolution = 4, 16
    components: dict[str, nn.Module]
    """The denoiser first."""

    @property
    def trainable(self) -> dict[str, nn.Module]:
        return {name: network for name, network in self.components.items() if network is self.denoiser}

    @property
    def denoiser(self) -> nn.Module:
        return next(iter(self.components.values()))

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

    def size_conditioning(self, crops) -> dict[str, Tensor]:
        return {}

    def replace_vae(self, vae, where) -> None:
        raise NotImplementedError

    def with_component(self, name, network):
        other = copy(self)
        other.components = {**self.components, name: network}
        return other

    def pipeline(self):
        raise NotImplementedError

    def load_component(self, folder, name):
        return type(self.components.get(name, self.scheduler)).from_pretrained(folder, subfolder=name)


class FlowTransformer(TinyFamily):
    name, prediction_type = "tiny-flow", "flow_prediction"

    def __init__(self):
        torch.manual_seed(0)
        transformer = SD3Transformer2DModel(
            sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
            num_attention_heads=4, joint_attention_dim=WIDTH, caption_projection_dim=32, pooled_projection_dim=WIDTH,
            pos_embed_max_size=16,
        )  # fmt: skip
        nn.init.normal_(transformer.proj_out.weight, std=0.5)
        vae = AutoencoderKL(
            block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, latent_channels=4, scaling_factor=1.5, shift_factor=0.06,
        )  # fmt: skip
        self.components = {"transformer": transformer, "vae": vae}
        self.scheduler, self.schedule = FlowMatchEulerDiscreteScheduler(shift=3.0), FlowSchedule(logit_normal=(0.0, 1.0))
        for component in self.components.values():
            component.eval().requires_grad_(False)

    @property
    def latents(self) -> KLLatents:
        return KLLatents(self.components["vae"])

    def pipeline(self):
        """diffusers' pipeline of Stable Diffusion 3, without its text encoders."""
        without = dict.fromkeys(f"{kind}{number}" for kind in ("text_encoder", "tokenizer") for number in ("", "_2", "_3"))
        return StableDiffusion3Pipeline(**self.components, scheduler=self.scheduler, **without)

    def encode_prompts(self, prompts, *, clip_skip=None, min_chunks=1) -> Conditioning:
        vectors = characters(prompts)
        return Conditioning({"encoder_hidden_states": vectors, "pooled_projections": vectors.mean(1)})

    def predict(self, noisy_latents, timesteps, conditioning) -> DenoiserOutput:
        return DenoiserOutput(self.denoiser(noisy_latents, timestep=timesteps, **conditioning.tensors, return_dict=False)[0])


class PixelUNet(TinyFamily):
    name, prediction_type, latents = "tiny-pixels", "epsilon", Pixels()

    def __init__(self):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=16, in_channels=3, out_channels=6, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=WIDTH, attention_head_dim=4,
        )  # fmt: skip
        self.components = {"unet": unet.eval().requires_grad_(False)}
        self.scheduler = DDPMScheduler(
            variance_type="learned_range", beta_schedule="squaredcos_cap_v2", clip_sample=False, steps_offset=1
        )
        self.schedule = DiscreteSchedule.of(self.scheduler)

    def encode_prompts(self, prompts, *, clip_skip=None, min_chunks=1) -> Conditioning:
        return Conditioning({"encoder_hidden_states": characters(prompts)})

    def predict(self, noisy_latents, timesteps, conditioning) -> DenoiserOutput:
        output = self.denoiser(noisy_latents, timesteps, **conditioning.tensors, return_dict=False)[0]
        return DenoiserOutput(*output.chunk(2, 1))


class TwoEncodersSpec(StableDiffusionSpec):
    """A folder with `two_encoders.json`. Files with `clip_g` are of this family, and of no other."""

    name, load = "two-encoders", "families_of_tests:load_two_encoders"
    networks = {**StableDiffusionSpec.networks, "text_encoder_2": NetworkNames(("text_encoder_2.",), ("lora_te2_",))}

    def matches(self, path):
        return (path / "two_encoders.json").exists()

    def learned_on(self, tensors):
        return any(name.endswith("clip_g") for name in tensors)


def load_two_encoders(source, placement) -> "TwoEncoders":
    """What the specification names."""
    return in_place(TwoEncoders(source.folder), placement)


def in_place(family, placement):
    """The family on its device, each network in its precision."""
    for name, network in family.components.items():
        network.to(placement.device, placement.dtype_of(name))
    return family


class TwoEncoders(StableDiffusion):
    """The encoders' hidden states side by side [B, L, 32 + 16], the pooled output of the second [B, 16], and six numbers of
    size and crop [B, 6]."""

    spec = TwoEncodersSpec()

    def __init__(self, folder: Path):
        base = loading.load(Source(str(folder), folder), Placement())
        config, tokenizer = base.components["text_encoder"].config, deepcopy(base.text_encoders[0].tokenizer)
        torch.manual_seed(0)
        self.text_encoder_2 = CLIPTextModel(CLIPTextConfig(**{**config.to_dict(), "hidden_size": 16, "intermediate_size": 32}))
        unet = UNet2DConditionModel(
            sample_size=8, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8, cross_attention_dim=48,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            attention_head_dim=4, addition_embed_type="text_time", addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=16 + 6 * 8,
        )  # fmt: skip
        parts = (base.components["vae"], base.components["text_encoder"], base.text_encoders[0].tokenizer, base.scheduler)
        super().__init__(str(folder), base.source, unet, *parts)
        first, second = self.text_encoder, self.text_encoder_2
        self.text_encoders = (
            TextEncoder("text_encoder", first, self.tokenizer, self.name, "clip_l"),
            TextEncoder("text_encoder_2", second, tokenizer, self.name, "clip_g"),
        )

    @property
    def components(self) -> dict[str, nn.Module]:
        return {**super().components, "text_encoder_2": self.text_encoder_2}

    @property
    def trainable(self) -> dict[str, nn.Module]:
        return {**super().trainable, "text_encoder_2": self.text_encoder_2}

    def encode_prompts(self, prompts, *, clip_skip=None, min_chunks=1) -> Conditioning:
        encoded = [prompt_encoding.encode(encoder, prompts, clip_skip, min_chunks) for encoder in self.text_encoders]
        hidden = [each.hidden_states for each in encoded]
        return Conditioning({"encoder_hidden_states": torch.cat(hidden, -1), "text_embeds": hidden[1].mean(1)})

    def size_conditioning(self, crops) -> dict[str, Tensor]:
        rows = [(*crop.original_size, *crop.top_left, *crop.target_size) for crop in crops]
        return {"time_ids": torch.tensor(rows, dtype=torch.float32, device=self.device)}

    def collate(self, prompts, empty) -> Conditioning:
        return Conditioning.cat(prompts)

    def predict(self, noisy_latents, timesteps, conditioning) -> DenoiserOutput:
        hidden_states, added = conditioning.tensors["encoder_hidden_states"], dict(conditioning.tensors)
        del added["encoder_hidden_states"]
        output = self.unet(noisy_latents, timesteps, hidden_states, added_cond_kwargs=added, return_dict=False)
        return DenoiserOutput(output[0])
