"""The demo model's networks, in diffusers' and transformers' own classes: Stable Diffusion, two thousand times smaller.

Shapes: pixels [B, 3, 64, 64] in [-1, 1]; latents [B, 4, 16, 16]; encoder_hidden_states [B, 32, 192].
"""

from dataclasses import dataclass

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

NOISE_SCHEDULE = dict(
    num_train_timesteps=1000,
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    prediction_type="v_prediction",
    clip_sample=False,
    set_alpha_to_one=False,
    steps_offset=1,
)


@dataclass(frozen=True)
class Sizes:
    """Widths of the networks. All channel counts are multiples of `norm_num_groups`."""

    resolution: int = 64
    latent_channels: int = 4
    vae_channels: tuple[int, ...] = (16, 32, 64)
    unet_channels: tuple[int, ...] = (64, 128, 160)
    text_width: int = 192
    text_layers: int = 2
    norm_num_groups: int = 8

    @property
    def latent_side(self) -> int:
        return self.resolution // 2 ** (len(self.vae_channels) - 1)


TINY = Sizes(vae_channels=(4, 4, 8), unet_channels=(8, 16), text_width=16, text_layers=1, norm_num_groups=4)


def build_vae(sizes: Sizes = Sizes()) -> AutoencoderKL:
    """An untrained autoencoder from 64 x 64 pixels to latents of a quarter of the side."""
    levels = len(sizes.vae_channels)
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=sizes.latent_channels,
        block_out_channels=sizes.vae_channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        norm_num_groups=sizes.norm_num_groups,
        mid_block_add_attention=False,
        sample_size=sizes.resolution,
        scaling_factor=1.0,
    )


def build_text_encoder(tokenizer: CLIPTokenizer, sizes: Sizes = Sizes()) -> CLIPTextModel:
    """An untrained small CLIP text model for the tokenizer's vocabulary."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=sizes.text_width,
            intermediate_size=4 * sizes.text_width,
            projection_dim=sizes.text_width,
            num_hidden_layers=sizes.text_layers,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_unet(sizes: Sizes = Sizes()) -> UNet2DConditionModel:
    """An untrained UNet, without attention at the highest resolution, where it costs most; self- and cross-attention below."""
    deeper = len(sizes.unet_channels) - 1
    return UNet2DConditionModel(
        sample_size=sizes.latent_side,
        in_channels=sizes.latent_channels,
        out_channels=sizes.latent_channels,
        block_out_channels=sizes.unet_channels,
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * deeper,
        up_block_types=("CrossAttnUpBlock2D",) * deeper + ("UpBlock2D",),
        layers_per_block=1,
        cross_attention_dim=sizes.text_width,
        attention_head_dim=tuple(max(1, channels // 32) for channels in sizes.unet_channels),
        norm_num_groups=sizes.norm_num_groups,
    )


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise levels, with v-prediction."""
    return DDIMScheduler(**NOISE_SCHEDULE)
