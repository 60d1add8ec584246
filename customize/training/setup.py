"""From examples and a base model to a method and its batches: asks the frozen parts once, and decides what learns."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, singledispatch
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from customize import adapters
from customize.data.batches import (
    CachedImage,
    EpochSampler,
    LatentDataset,
    PriorDistillation,
    PriorPreservation,
    SampleConfig,
    encode_captions,
    encode_images,
)
from customize.data.crops import all_pixels, variants
from customize.data.examples import Example, Examples
from customize.data.latents_cache import LatentsCache, NoCache
from customize.families.base import Family
from customize.families.conditioning import Conditioning
from customize.methods import DreamBoothSettings, TextualInversionSettings
from customize.methods.dreambooth import DreamBooth, SelfDistillation
from customize.methods.method import Condition
from customize.methods.textual_inversion import DirectionalTextualInversion, TextualInversion
from customize.optim.optimizers import LearningRates
from customize.settings import derived
from customize.settings import validation_prompts as sample_prompts
from customize.settings.training import TrainingSettings
from customize.training import class_images
from customize.training.loop import Dataset
from customize.training.nan_guard import IN_ALL
from customize.weights import init_weights

DTYPES = {"no": torch.float32, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

USUAL_VALIDATION_STEPS = 100
LARGE = 200_000_000
"""Parameters of a UNet from which on a step takes a minute or so without a GPU; Stable Diffusion's has 860 million."""


@dataclass(frozen=True)
class RunContext:
    """What everything that prepares a run works with. first_step: the step to begin at, more than 0 when resuming;
    skipped_draws: the draws that were skipped before it."""

    settings: TrainingSettings
    accelerator: Accelerator
    family: Family
    examples: Examples
    first_step: int
    skipped_draws: int = 0

    @property
    def resolution(self) -> int:
        return self.settings.resolution or self.family.resolution

    @property
    def global_batch(self) -> int:
        """Samples of one optimizer step, over all processes."""
        return derived.global_batch(self.settings, self.accelerator.num_processes)

    @property
    def steps_per_epoch(self) -> int:
        return derived.steps_per_epoch(self.settings, len(self.examples.instances), self.accelerator.num_processes)

    @property
    def max_train_steps(self) -> int:
        return derived.max_train_steps(self.settings, len(self.examples.instances), self.accelerator.num_processes)

    @property
    def draws(self) -> range:
        """Those that the run may come to: one a step, and as many more as may be left out."""
        most = IN_ALL if self.settings.on_nan == "retry" else self.skipped_draws
        return range(self.first_step + self.skipped_draws, self.max_train_steps + most)

    @cached_property
    def latents_cache(self) -> NoCache:
        """What keeps the autoencoder's answers from one run to the next."""
        if self.settings.latents_cache_dir is None:
            return NoCache()
        folder = Path(self.settings.latents_cache_dir)
        return LatentsCache(folder, self.family.latents, self.accelerator.device)

    @property
    def validation_steps(self) -> int:
        settings = self.settings
        if settings.validation_steps or settings.validation_epochs:
            return settings.validation_steps or settings.validation_epochs * self.steps_per_epoch
        return math.ceil(self.max_train_steps / 2) if sample_prompts.are_made(settings) else USUAL_VALIDATION_STEPS

    @property
    def sample_prompts(self) -> tuple[str, ...]:
        """The prompts of the sample images; one alone where they are made, and each image takes minutes."""
        prompts = sample_prompts.sample_prompts(self.settings)
        return prompts[:1] if sample_prompts.are_made(self.settings) and self.is_slow else prompts

    @property
    def is_slow(self) -> bool:
        """Whether a step takes a minute or so: a network of the size of Stable Diffusion's, and no GPU."""
        parameters = sum(parameter.numel() for parameter in self.family.denoiser.parameters())
        return self.accelerator.device.type == "cpu" and parameters > LARGE

    @property
    def learning_rate_scale(self) -> int:
        return derived.learning_rate_scale(self.settings, self.accelerator.num_processes)

    @property
    def sample_config(self) -> SampleConfig:
        settings = self.settings
        return SampleConfig(settings.seed, self.global_batch, settings.caption_dropout, settings.noise_offset, settings.snr_gamma)


@dataclass(frozen=True)
class TrainingSetup:
    """What the loop is given, how the method conditions on prompts (for sample pictures), and the class images in use."""

    method: TextualInversion | DreamBooth
    dataset: Dataset
    condition: Condition
    of_class: tuple[Example, ...] = ()

    def learning_rates(self, settings, max_train_steps: int, scale: float = 1.0) -> LearningRates:
        """The optimizer of the method and its schedule. scale: of all rates, see `scale_lr`."""
        return LearningRates(settings, self.method.build_optimizer(settings), max_train_steps, scale)


@singledispatch
def prepare(settings, context: RunContext) -> TrainingSetup:
    """What the settings' command trains, and on what."""
    raise TypeError(f"no training for {type(settings).__name__}")


@prepare.register
def prepare_textual_inversion(settings: TextualInversionSettings, context: RunContext) -> TrainingSetup:
    """New words: pictures encoded once, the text encoder asked at every step, since its words learn."""
    family = context.family
    samples = samples_of("instance", context, context.examples.instances)
    method = (DirectionalTextualInversion if settings.normalize_embedding else TextualInversion)(family, settings)
    method.to(context.accelerator.device)
    cast_frozen(method, DTYPES[settings.mixed_precision])
    if settings.gradient_checkpointing:
        for network in family.trainable.values():
            enable_checkpointing(network)
    method.condition = condition_of(family, max(map(family.num_chunks, captions_of(context.examples.instances))))
    return TrainingSetup(method, samples, method.condition)


@prepare.register
def prepare_dreambooth(settings: DreamBoothSettings, context: RunContext) -> TrainingSetup:
    """A subject: pictures and, where the text encoder is frozen, captions encoded once; class pictures first if need be."""
    family, device = context.family, context.accelerator.device
    captions = [*captions_of(context.examples.instances), settings.class_prompt or "", ""]
    least = max(map(family.to(device).num_chunks, captions))
    of_class = class_examples(settings, context)
    init_weights.into_base(settings, family)
    if settings.train_text_encoder:
        condition = condition_of(family, least)
    else:
        condition = remembered(family, encode_captions(family, [*captions, *context.sample_prompts], least), device)
        for encoder in family.text_encoders:
            encoder.module.to("cpu")
    dataset = PRIORS[settings.prior_preservation](settings, context, of_class)
    method_class = SelfDistillation if settings.prior_preservation == "teacher" else DreamBooth
    method = method_class(family, condition, adapters.build(settings.adapter), settings).to(device)
    method.called_by(captions_of(context.examples.instances))
    cast_frozen(method, DTYPES[settings.mixed_precision])
    if settings.gradient_checkpointing:
        for network in method.children():
            enable_checkpointing(network)
    return TrainingSetup(method, dataset, condition, of_class)


PRIORS: dict[str, Callable[..., Dataset]] = {
    "none": lambda settings, context, of_class: samples_of("instance", context, context.examples.instances),
    "images": lambda settings, context, of_class: PriorPreservation(
        samples_of("instance", context, context.examples.instances),
        samples_of("class", context, of_class),
        settings.prior_loss_weight,
    ),
    "teacher": lambda settings, context, of_class: PriorDistillation(
        samples_of("instance", context, context.examples.instances), settings.class_prompt, settings.prior_loss_weight
    ),
}
"""Where the samples of a step come from, by the setting `prior_preservation`."""


def class_examples(settings: DreamBoothSettings, context: RunContext) -> tuple[Example, ...]:
    """The class pictures of prior preservation, generated first where too few are there."""
    if settings.prior_preservation != "images":
        return ()
    dtype = DTYPES[settings.prior_generation_precision or settings.mixed_precision]
    device = context.accelerator.device
    with context.accelerator.main_process_first(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        return class_images.complete(settings, context.family, context.resolution)


def samples_of(stream: str, context: RunContext, examples: Sequence[Example]) -> LatentDataset:
    """Samples of these examples, with the VAE asked once about every crop that the run will draw and that is not kept yet."""
    settings, family = context.settings, context.family
    cuts = [
        variants(example, context.resolution, settings.center_crop, settings.crop_variants, settings.random_flip, settings.seed)
        for example in examples
    ]

    def read_pixels(picture: int, chosen: list[int]) -> Tensor:
        wanted = [cuts[picture][variant] for variant in chosen]
        arrays = all_pixels(examples[picture], wanted, context.resolution, settings.image_interpolation_mode)
        return torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 127.5 - 1

    cache = context.latents_cache
    sampler = EpochSampler(stream, context.sample_config, len(examples), [len(each) for each in cuts])
    keys = {
        (picture, variant): cache.key(examples[picture], cuts[picture][variant], settings.image_interpolation_mode)
        for picture, variant in sampler.needed(context.draws)
    }
    moments = cache.recall(keys)
    family.latents.to(context.accelerator.device)
    for place, found in encode_images(family, keys.keys() - moments.keys(), read_pixels):
        cache.keep(keys[place], found)
        moments[place] = found
    family.latents.to("cpu")
    of_picture: list[dict[int, Tensor]] = [{} for _ in examples]
    for (picture, variant), found in moments.items():
        of_picture[picture][variant] = found
    pictures = [CachedImage(each.name, each.captions, mine) for each, mine in zip(examples, of_picture, strict=True)]
    return LatentDataset(family, context.sample_config, sampler, pictures)


def cast_frozen(method: torch.nn.Module, dtype: torch.dtype) -> None:
    """Casts the modules in which nothing learns: what learns stays in float32, and is never rounded on the way."""
    for module in method.modules():
        parameters = list(module.parameters(recurse=False))
        if not any(parameter.requires_grad for parameter in parameters):
            for parameter in parameters:
                parameter.data = parameter.data.to(dtype)


def enable_checkpointing(network: torch.nn.Module) -> None:
    """Gradient checkpointing: diffusers and transformers have different names for it."""
    of_diffusers = getattr(network, "enable_gradient_checkpointing", None)
    (of_diffusers or network.gradient_checkpointing_enable)()


def captions_of(examples: Iterable[Example]) -> list[str]:
    """Every caption that can be drawn."""
    return sorted({caption for example in examples for caption in example.captions})


def condition_of(family: Family, least: int = 1) -> Condition:
    """Asks the text encoder each time, because it learns. least: chunks of every caption of the run, so that the answer does
    not depend on what else is in the batch."""
    return lambda prompts: family.encode_prompts(prompts, min_chunks=least)


def remembered(family: Family, known: dict[str, Conditioning], device: torch.device) -> Condition:
    """Looks up the output of the frozen text encoder. known: one row for each prompt, and for the empty one."""
    return lambda prompts: family.collate([known[prompt] for prompt in prompts], known[""]).to(device)
