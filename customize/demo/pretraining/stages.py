"""The two stages of the demo model's training, implemented as methods and run by the training loop."""

import shlex
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save
from torch import Tensor

from customize.data.samples.batches import Dataset
from customize.data.samples.latent_dataset import CachedImage, EpochSampler, SampleConfig
from customize.demo.pretraining.denoiser import EvenSamples, Pretraining
from customize.demo.pretraining.settings import DemoSettings, Stage
from customize.demo.pretraining.tiny_autoencoder import Autoencoder, Decoder, PixelDataset, encode, measure, standardise
from customize.demo.pretraining.tiny_networks import TINY, Sizes, build_scheduler, build_text_encoder, build_unet, build_vae
from customize.demo.pretraining.tokenizer import build_tokenizer
from customize.demo.world.world import Spec, World
from customize.families import load, locate
from customize.families.base import Family
from customize.families.conditioning import Crop
from customize.families.stable_diffusion import StableDiffusion
from customize.methods.method import Method
from customize.optim.learning_rates import LearningRates
from customize.storage.atomic import new_folder, write_bytes
from customize.training.callbacks import Checkpoints, JsonlLogger, Progress, Signals
from customize.training.loop import Callback, LoopConfig, State, train
from customize.training.nan_guard import NanGuard
from customize.training.resumable import parts_of
from customize.training.resume import find_checkpoint

DECODER_NOISE = 0.0125, 0.0625  # as the autoencoder's, on latents of a standard deviation of 1
HELD_BACK = 256  # renderings that the autoencoder is measured on
CAPTIONS = 8  # per image
CAPTION_DROPOUT = 0.1  # Ho & Salimans 2022, "Classifier-Free Diffusion Guidance"


def sizes(settings: DemoSettings) -> Sizes:
    """The network sizes of the setting `size`."""
    return TINY if settings.size == "tiny" else Sizes()


def train_autoencoder(settings: DemoSettings, pixels: np.ndarray, folder: Path) -> AutoencoderKL:
    """Trains and standardises the autoencoder. Raises `NumericsError` if it is not good enough."""
    if (folder / "vae").exists():
        return AutoencoderKL.from_pretrained(folder / "vae").requires_grad_(False)
    torch.manual_seed(settings.seed)
    vae, size = build_vae(sizes(settings)), sizes(settings)
    held_back = min(HELD_BACK, len(pixels) // 4)
    shape = (size.latent_channels, size.latent_side, size.latent_side)
    steps, batch_size = settings.autoencoder_steps, settings.autoencoder_batch_size
    dataset = PixelDataset(pixels[:-held_back], shape, settings.seed, batch_size, steps)
    stage = Stage(settings.seed, batch_size, steps, settings.learning_rate)
    run_stage(settings, stage, Autoencoder(vae), dataset, folder)
    vae.requires_grad_(False).eval()
    standardise(vae, pixels[:1024])
    return approved(settings, vae, pixels[-held_back:], folder / "vae")


def train_decoder(settings: DemoSettings, vae: AutoencoderKL, pixels: np.ndarray, folder: Path) -> AutoencoderKL:
    """Continues to train the decoder of a standardised autoencoder."""
    if (folder / "vae").exists():
        return AutoencoderKL.from_pretrained(folder / "vae").requires_grad_(False)
    size = sizes(settings)
    held_back, steps, batch_size = min(HELD_BACK, len(pixels) // 4), settings.decoder_steps, settings.autoencoder_batch_size
    shape = (size.latent_channels, size.latent_side, size.latent_side)
    dataset = PixelDataset(pixels[:-held_back], shape, settings.seed, batch_size, steps, DECODER_NOISE)
    stage = Stage(settings.seed, batch_size, steps, settings.learning_rate)
    run_stage(settings, stage, Decoder(vae), dataset, folder)
    return approved(settings, vae.requires_grad_(False).eval(), pixels[-held_back:], folder / "vae")


def approved(settings: DemoSettings, vae: AutoencoderKL, held_back: np.ndarray, folder: Path) -> AutoencoderKL:
    """Checks and saves the autoencoder. Raises `NumericsError` if it is not good enough."""
    quality = measure(vae, held_back)
    print(quality)
    quality.check(settings.minimum_psnr, settings.minimum_explained)
    with new_folder(folder) as unfinished:
        vae.save_pretrained(unfinished)
    return vae


def untrained(settings: DemoSettings, vae: AutoencoderKL, tokenizer_folder: Path) -> Family:
    """A model with this autoencoder, and all other networks untrained."""
    torch.manual_seed(settings.seed + 1)
    tokenizer = build_tokenizer(tokenizer_folder)
    text_encoder, unet = build_text_encoder(tokenizer, sizes(settings)), build_unet(sizes(settings))
    return StableDiffusion("demo", tokenizer_folder.parent, unet, vae, text_encoder, tokenizer, build_scheduler())


def earlier(folder: str) -> Family:
    """Loads an earlier model in float32."""
    return load(locate(folder)).to(torch.float32)


def train_denoiser(
    settings: DemoSettings, world: World, family: Family, pixels: np.ndarray, specs: list[Spec], folder: Path
) -> Path:
    """Trains text encoder and UNet; returns the pipeline folder."""
    moments = encoded(family.components["vae"], pixels, folder / "latents.safetensors")
    crops = [Crop.whole(*pixels.shape[1:3])]
    images = [
        CachedImage(f"rendering {index}", world.captions(spec, settings.seed, index, CAPTIONS), {0: moments[index]}, crops)
        for index, spec in enumerate(specs)
    ]
    config = SampleConfig(settings.seed, settings.train_batch_size, CAPTION_DROPOUT)
    samples = EvenSamples(family, config, EpochSampler("world", config, len(images), [1] * len(images)), images)
    stage = Stage(settings.seed, settings.train_batch_size, settings.max_train_steps, settings.learning_rate)
    method = Pretraining(family)
    run_stage(settings, stage, method, samples, folder / "denoiser")
    return method.save(folder / "model", {})[0]


def encoded(vae: AutoencoderKL, pixels: np.ndarray, file: Path) -> Tensor:
    """Posterior moments [N, 2C, H, W] of all images, computed once and cached in a file."""
    if not file.exists():
        write_bytes(file, save({"moments": encode(vae, pixels).contiguous()}))
    return load_file(file)["moments"]


def run_stage(settings: DemoSettings, stage: Stage, method: Method, dataset: Dataset, folder: Path) -> State:
    """Trains one stage to its end, and resumes from its newest checkpoint if there is one."""
    accelerator = Accelerator(mixed_precision=settings.mixed_precision)
    method.to(accelerator.device)
    checkpoints = Checkpoints(folder / "checkpoints", settings.checkpointing_steps, 2)
    command = f"python {settings.command} --output_dir {shlex.quote(settings.output_dir)} and the same settings"
    folder.mkdir(parents=True, exist_ok=True)
    callbacks: list[Callback] = [
        NanGuard(remedy=command),
        Progress(),
        JsonlLogger(folder / "log.jsonl"),
        checkpoints,
        Signals(command),
    ]
    resume = find_checkpoint(stage, folder, stage.values(), accelerator.print)
    learning_rates = LearningRates(stage, method.build_optimizer(stage), stage.max_train_steps, 1.0)
    config = LoopConfig.of(stage, stage.max_train_steps)
    parts = parts_of(method, learning_rates.optimizer, accelerator.scaler)
    return train(config, method, dataset, callbacks, accelerator, learning_rates, parts, resume, stage.values())
