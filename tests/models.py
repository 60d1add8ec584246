"""Tiny random Stable Diffusion and DeepFloyd IF models for tests: real classes and files, built in under a second."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    IFPipeline,
    IFSuperResolutionPipeline,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionUpscalePipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

WORDS = (
    "a an the of in on with and photo picture painting style toy dog cat car house tree red blue green small big "
    "sks person object bear"
).split()
NOISE_SCHEDULE = dict(
    num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
    set_alpha_to_one=False, steps_offset=1,
)  # fmt: skip
SDXL_SCHEDULE = dict(
    num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1,
    timestep_spacing="leading", interpolation_type="linear", use_karras_sigmas=False,
)  # fmt: skip


@contextmanager
def project_configurations_from(folder: Path, *modules: ModuleType) -> Iterator[None]:
    """Inside the context, single files have the tiny vocabulary, and these modules look for configurations in a folder."""
    from customize.families.files import single_file

    def small_tokenizer(pad_token: str = "<|endoftext|>") -> CLIPTokenizer:
        tokenizer = tiny_tokenizer()
        tokenizer.pad_token = pad_token
        return tokenizer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(single_file, "clip_tokenizer", small_tokenizer)
        for module in modules:
            patch.setattr(module, "CONFIGS", folder)
        yield


def tiny_tokenizer() -> CLIPTokenizer:
    """A byte-level CLIP tokenizer: each of `WORDS` is one token, every other word is a sequence of bytes."""
    letters = sorted(ByteLevel.alphabet())
    vocabulary = letters + [f"{letter}</w>" for letter in letters]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        parts = split([*word[:-1], f"{word[-1]}</w>"], merges)
        while len(parts) > 1:  # merge the remaining parts from left to right
            merges.append((parts[0], parts[1]))
            parts = ["".join(merges[-1]), *parts[2:]]
            vocabulary.append(parts[0])
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: index for index, token in enumerate(vocabulary)}, merges=merges, model_max_length=77)


def split(parts: list[str], merges: list[tuple[str, str]]) -> list[str]:
    """Byte-pair encoding of a word's parts: applies all merges in order."""
    for merge in merges:
        for place in reversed(range(len(parts) - 1)):
            if tuple(parts[place : place + 2]) == merge:
                parts = [*parts[:place], "".join(merge), *parts[place + 2 :]]
    return parts


def tiny_stable_diffusion(folder: str | Path, prediction_type: str = "epsilon", seed: int = 0) -> Path:
    """Writes a pipeline folder: latents [4, 8, 8], pixels [3, 16, 16], 77 tokens of width 32. Returns the folder.

    As in the original models, epsilon comes with PNDM (Stable Diffusion 1.5) and v-prediction with DDIM (2.1).
    """
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=77, projection_dim=32, bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(32, 64), layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32, attention_head_dim=4,
    )  # fmt: skip
    vae = AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(16, 32), layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=8,
        sample_size=16,
    )  # fmt: skip
    if prediction_type == "epsilon":
        scheduler = PNDMScheduler(**NOISE_SCHEDULE, skip_prk_steps=True)
    else:
        scheduler = DDIMScheduler(**NOISE_SCHEDULE, clip_sample=False, prediction_type=prediction_type)
    torch.set_rng_state(state)
    StableDiffusionPipeline(
        vae, text_encoder, tokenizer, unet, scheduler, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return Path(folder)


def tiny_stable_diffusion_xl(
    folder: str | Path, seed: int = 0, force_zeros_for_empty_prompt: bool = True, second_width: int = 32, **scheduler
) -> Path:
    """Writes a pipeline folder: latents [4, 8, 8], pixels [3, 16, 16], 77 tokens of two text encoders, of width 32 and
    `second_width`.

    Euler's scheduler, and as in SDXL's files `leading` steps; scheduler: further configuration. Returns the folder.
    """
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    tokenizer, tokenizer_2 = tiny_tokenizer(), tiny_tokenizer()
    tokenizer_2.pad_token = "!"
    text = dict(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=77, projection_dim=32, bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32 + second_width, attention_head_dim=(2, 4), transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=32 + 6 * 8,
    )  # fmt: skip
    vae = AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(16, 32), layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=8,
        sample_size=16, scaling_factor=0.13025,
    )  # fmt: skip
    text_encoder = CLIPTextModel(CLIPTextConfig(**text, hidden_act="quick_gelu"))
    text_encoder_2 = CLIPTextModelWithProjection(CLIPTextConfig(**{**text, "hidden_size": second_width}, hidden_act="gelu"))
    torch.set_rng_state(state)
    StableDiffusionXLPipeline(
        vae, text_encoder, text_encoder_2, tokenizer, tokenizer_2, unet,
        EulerDiscreteScheduler(**{**SDXL_SCHEDULE, **scheduler}),
        force_zeros_for_empty_prompt=force_zeros_for_empty_prompt, add_watermarker=False,
    ).save_pretrained(folder)  # fmt: skip
    return Path(folder)


def tiny_models_of_each_version(folder: Path) -> Path:
    """Writes tiny models of Stable Diffusion 1.x, 2.x and XL, no two weights alike, into folders named as those of
    `families/configs`. In what their files show they differ as the real ones do: activations, projections, widths, tokenizers."""
    from customize.families import load, locate

    tiny_stable_diffusion(folder / "sd15")
    tiny_stable_diffusion(folder / "sd21", "v_prediction")
    tiny_stable_diffusion_xl(folder / "sdxl", second_width=48)  # stock diffusers tells the encoders apart by it
    change(folder / "sd21/text_encoder/config.json", hidden_act="gelu")
    change(folder / "sd21/unet/config.json", use_linear_projection=True)
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = "!"
    tokenizer.save_pretrained(folder / "sd21/tokenizer")
    UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "sd21/unet")).save_pretrained(folder / "sd21/unet")
    generator = torch.Generator().manual_seed(1)
    for version in ("sd15", "sd21", "sdxl"):
        family = load(locate(str(folder / version)))
        for part, network in family.components.items():
            for parameter in network.parameters():
                parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
            network.save_pretrained(folder / version / part)
    return folder


def change(config: Path, **values) -> None:
    """Writes values into a JSON file."""
    config.write_text(json.dumps({**json.loads(config.read_text()), **values}))


def tiny_t5_tokenizer() -> T5Tokenizer:
    """T5's tokenizer with `WORDS`, and letters for every other word."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789,.!?'()-"
    words = [(token, 0.0) for token in ("<pad>", "</s>", "<unk>")] + [("▁", -2.0)]
    words += [(f"▁{word}", -3.0) for word in WORDS] + [(letter, -9.0) for letter in letters]
    return T5Tokenizer(vocab=words, model_max_length=77)


def tiny_deepfloyd_if(folder: str | Path, stage: int = 1, seed: int = 0, **scheduler) -> Path:
    """Writes a folder of DeepFloyd IF's stage I (pixels [3, 16, 16]) or II (beside [3, 16, 16] enlarged), with the block types of
    the real ones and a T5 encoder of 77 tokens, 32 wide. scheduler: further configuration. Returns the folder."""
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    blocks = dict(resnet_skip_time_act=True, resnet_out_scale_factor=1.414, mid_block_scale_factor=1.414)
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=3 * stage, out_channels=6, block_out_channels=(32, 64), norm_num_groups=8, act_fn="gelu",
        layers_per_block=1 if stage == 1 else (1, 2), attention_head_dim=8, cross_attention_dim=64, encoder_hid_dim=32,
        addition_embed_type="text", addition_embed_type_num_heads=2, cross_attention_norm="group_norm",
        mid_block_type="UNetMidBlock2DSimpleCrossAttn", resnet_time_scale_shift="scale_shift",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        class_embed_type="timestep" if stage == 2 else None, **(blocks if stage == 2 else {}),
    )  # fmt: skip
    tokenizer = tiny_t5_tokenizer()
    text_encoder = T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu",
        )
    )  # fmt: skip
    torch.set_rng_state(state)
    noise = dict(beta_schedule="squaredcos_cap_v2", beta_start=1e-4, beta_end=0.02)
    own = dict(variance_type="learned_range", thresholding=True, dynamic_thresholding_ratio=0.95, sample_max_value=1.5)
    parts = dict(tokenizer=tokenizer, text_encoder=text_encoder, unet=unet, scheduler=DDPMScheduler(**noise, **own | scheduler))
    left_out = dict(safety_checker=None, feature_extractor=None, watermarker=None, requires_safety_checker=False)
    if stage == 2:
        pipeline = IFSuperResolutionPipeline(**parts, **left_out, image_noising_scheduler=DDPMScheduler(**noise))
    else:
        pipeline = IFPipeline(**parts, **left_out)
    pipeline.save_pretrained(folder)
    return Path(folder)


def tiny_upscaler(folder: str | Path, base: Path) -> Path:
    """Writes a folder of the x4 upscaler, with the text encoder of the Stable Diffusion in the folder `base`: pixels [3, H, W]
    become [3, 4H, 4W] by latents [4, H, W]. Returns the folder."""
    state = torch.get_rng_state()
    torch.manual_seed(5)
    text_encoder, tokenizer = (
        kind.from_pretrained(base / part) for kind, part in ((CLIPTextModel, "text_encoder"), (CLIPTokenizer, "tokenizer"))
    )
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=7, out_channels=4, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8, cross_attention_dim=text_encoder.config.hidden_size, num_class_embeds=1000,
        only_cross_attention=(True, False),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 16), down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=4, latent_channels=4, scaling_factor=0.08333,
    )  # fmt: skip
    torch.set_rng_state(state)
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=1e-4, beta_end=0.02, prediction_type="v_prediction", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    StableDiffusionUpscalePipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler,
        low_res_scheduler=DDPMScheduler(beta_schedule="scaled_linear", beta_start=1e-4, beta_end=0.02), max_noise_level=350,
    ).save_pretrained(folder)  # fmt: skip
    return Path(folder)
