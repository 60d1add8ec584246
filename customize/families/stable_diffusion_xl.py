"""Stable Diffusion XL: two text encoders, and a UNet that is also given the size of an image.

B batch, C latent channels, H W latent height and width, L tokens, D embedding width, P width of a pooled prompt.
Podell et al. 2023, "SDXL: Improving Latent Diffusion Models for High-Resolution Image Synthesis".
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from diffusers import AutoencoderKL, StableDiffusionXLInpaintPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from customize.errors import InputError, Problem
from customize.families import prompt_encoding
from customize.families.base import DenoiserOutput, Placement
from customize.families.conditioning import Conditioning, Crop
from customize.families.files.folder_check import INDEX
from customize.families.files.ldm_header import MODELSPEC
from customize.families.files.single_file import load_single_file
from customize.families.loading import load_folder, placed
from customize.families.prompt_encoding import Prompt
from customize.families.specs.family_spec import Source
from customize.families.specs.stable_diffusion_xl_spec import STABLE_DIFFUSION_XL
from customize.families.stable_diffusion import LORA_TARGETS, StableDiffusion
from customize.families.text_encoder import EncodedText, TextEncoder
from customize.storage.json_files import read_object

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
XL_TARGETS = {
    **LORA_TARGETS,
    "b-lora-content": tuple(f"up_blocks.0.attentions.0.*.{end}" for end in ATTENTION),
    "b-lora-style": tuple(f"up_blocks.0.attentions.1.*.{end}" for end in ATTENTION),
}
"""b-lora: the blocks of content and of style (Frenkel et al. 2024, "Implicit Style-Content Separation using B-LoRA")."""


class PenultimateEncoder(TextEncoder):
    """A CLIP text encoder whose last layer is not used; the hidden states of the one before are not normalised."""

    def encode(self, input_ids: Tensor, clip_skip: int | None = None) -> EncodedText:
        """input_ids: [B, L]; returns hidden states [B, L, D] of the last layer but one, and where the model has a projection,
        the pooled text [B, P]: the projection of the last hidden state at the first end token.

        transformers takes it at the largest id, which is a learned word's where there is one. clip_skip: how many layers more
        are left out. Raises InputError where there are not as many.
        """
        output = self.module(input_ids, output_hidden_states=True)
        if (clip_skip or 0) > (most := len(output.hidden_states) - 2):
            what = f"{clip_skip} is too many: {self.name} has {most + 1} layers, the last of which is left out anyway"
            raise InputError(Problem("clip_skip", what, f"use {most} at most"))
        hidden_states = output.hidden_states[-2 - (clip_skip or 0)]
        if (projection := getattr(self.module, "text_projection", None)) is None:
            return EncodedText(hidden_states)
        end = (input_ids == self.tokenizer.eos_token_id).int().argmax(-1)
        rows = torch.arange(len(input_ids), device=input_ids.device)
        return EncodedText(hidden_states, projection(output.last_hidden_state[rows, end]))


class StableDiffusionXL(StableDiffusion):
    """A latent diffusion model with two CLIP text encoders.

    force_zeros: an empty prompt is zeros rather than the encoding of an empty text, as it was in training
    (`force_zeros_for_empty_prompt` in model_index.json).
    """

    spec = STABLE_DIFFUSION_XL
    lora_targets = XL_TARGETS

    def __init__(
        self, name: str, source: Path, unet, vae, text_encoder, text_encoder_2, tokenizer, tokenizer_2, scheduler,
        force_zeros: bool = True,
    ):  # fmt: skip
        self.text_encoder_2: CLIPTextModelWithProjection = text_encoder_2
        self.tokenizer_2: CLIPTokenizer = tokenizer_2
        self.force_zeros = force_zeros
        super().__init__(name, source, unet, vae, text_encoder, tokenizer, scheduler)
        self.text_encoders = (
            PenultimateEncoder("text_encoder", text_encoder, tokenizer, name, "clip_l"),
            PenultimateEncoder("text_encoder_2", text_encoder_2, tokenizer_2, name, "clip_g"),
        )

    @property
    def components(self) -> dict[str, nn.Module]:
        return {**super().components, "text_encoder_2": self.text_encoder_2}

    @property
    def trainable(self) -> dict[str, nn.Module]:
        return {**super().trainable, "text_encoder_2": self.text_encoder_2}

    @property
    def model_spec(self) -> dict[str, str]:
        return {
            "modelspec.architecture": "stable-diffusion-xl-v1-base",
            "modelspec.prediction_type": MODELSPEC.get(self.prediction_type, self.prediction_type),
            "ss_base_model_version": "sdxl_base_v1-0",
            "ss_v2": "False",
        }

    def to(self, *args, **kwargs) -> Self:
        """Moves or casts every network; an autoencoder that overflows in float16 (`force_upcast`) stays in float32."""
        super().to(*args, **kwargs)
        if self.vae.dtype == torch.float16 and self.vae.config.force_upcast:
            self.vae.float()
        return self

    def encode_prompts(self, prompts: Sequence[Prompt], *, clip_skip: int | None = None, min_chunks: int = 1) -> Conditioning:
        """`encoder_hidden_states` [B, N * L, D], of both encoders side by side, and `text_embeds` [B, P], the pooled text of the
        second. Both encoders read the same number of chunks."""
        count = max(min_chunks, *map(self.num_chunks, prompts))
        first, second = (prompt_encoding.encode(encoder, prompts, clip_skip, count) for encoder in self.text_encoders)
        assert second.pooled is not None
        hidden_states, pooled = torch.cat([first.hidden_states, second.hidden_states], -1), second.pooled
        if self.force_zeros:
            is_empty = torch.tensor([is_blank(prompt) for prompt in prompts], device=pooled.device)
            hidden_states = hidden_states.masked_fill(is_empty[:, None, None], 0)
            pooled = pooled.masked_fill(is_empty[:, None], 0)
        return Conditioning({"encoder_hidden_states": hidden_states, "text_embeds": pooled})

    def num_chunks(self, prompt: Prompt) -> int:
        """Into how many chunks a prompt is cut, at least 1: the most of the two tokenizers."""
        return max(prompt_encoding.num_chunks(encoder, prompt) for encoder in self.text_encoders)

    def collate(self, prompts: Sequence[Conditioning], empty: Conditioning) -> Conditioning:
        pooled = torch.cat([prompt.tensors["text_embeds"] for prompt in prompts])
        return super().collate(prompts, empty).extended(text_embeds=pooled)

    def size_conditioning(self, crops: Sequence[Crop]) -> dict[str, Tensor]:
        """`time_ids` [B, 6]: original height and width, top and left of the crop, its height and width, in pixels."""
        rows = [[*crop.original_size, *crop.top_left, *crop.target_size] for crop in crops]
        return {"time_ids": torch.tensor(rows, dtype=self.dtype, device=self.device)}

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> DenoiserOutput:
        """noisy_latents: [B, C, H, W]; timesteps: [B]; conditioning: `encoder_hidden_states` [B, L, D], `text_embeds` [B, P] and
        `time_ids` [B, 6]. Returns the UNet's output [B, C, H, W], of the kind that `prediction_type` names."""
        added = {name: conditioning.tensors[name] for name in ("text_embeds", "time_ids")}
        hidden_states = conditioning.tensors["encoder_hidden_states"]
        output = self.unet(noisy_latents, timesteps, hidden_states, added_cond_kwargs=added, return_dict=False)[0]
        return DenoiserOutput(output)

    def pipeline(self) -> StableDiffusionXLPipeline | StableDiffusionXLInpaintPipeline:
        """diffusers' own pipeline around these very components. Once saved and loaded, it reads the pooled text at the first end
        token, as `PenultimateEncoder` does: by SDXL's own configuration it would at the largest id, which a learned word has."""
        self.text_encoder_2.config.eos_token_id = self.tokenizer_2.eos_token_id
        kind = StableDiffusionXLInpaintPipeline if self.takes_mask else StableDiffusionXLPipeline
        return kind(
            vae=self.vae, text_encoder=self.text_encoder, text_encoder_2=self.text_encoder_2, tokenizer=self.tokenizer,
            tokenizer_2=self.tokenizer_2, unet=self.unet, scheduler=self.scheduler, add_watermarker=False,
            force_zeros_for_empty_prompt=self.force_zeros,
        )  # fmt: skip


CLASSES = {
    "unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
}  # fmt: skip


def load(source: Source, placement: Placement) -> StableDiffusion:
    """Loads a folder or file that the spec has checked. Raises InputError, also for weights that are NaN or infinite."""
    if not source.folder:
        return placed(load_single_file(StableDiffusionXL, CLASSES, source, placement), placement)
    force_zeros = read_object(source.folder / INDEX).get("force_zeros_for_empty_prompt", True) is not False
    return placed(load_folder(StableDiffusionXL, CLASSES, source, placement, force_zeros=force_zeros), placement)


def is_blank(prompt: Prompt) -> bool:
    """Whether a prompt has no text."""
    return not "".join(prompt if isinstance(prompt, str) else (span.text for span in prompt)).strip()
