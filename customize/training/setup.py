"""What a run offers a method while it is prepared: frozen networks are evaluated once, for images and captions."""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator

from customize.data.buckets import fits, grouped, uses
from customize.data.crops import Variant, crop_of
from customize.data.examples import Example, Examples
from customize.data.masked_crops import shown_crops
from customize.data.samples.encoding import CropEncoder, EncodedInTheStep, encode_each_caption
from customize.data.samples.latent_dataset import CachedImage, EpochSampler, ImageDataset, LatentDataset, SampleConfig, TurnOf
from customize.data.samples.latents_cache import LatentsCache, NoCache
from customize.data.samples.masked_loss import OutsideWeights, masked
from customize.data.samples.on_demand import BYTES_OF_CAPTIONS
from customize.data.samples.random_masks import MaskedImages
from customize.data.samples.streaming import Streamed
from customize.data.samples.tag_draws import TagDraws
from customize.diffusion.noise import Noise
from customize.diffusion.timestep_sampling import TimestepSampling
from customize.evaluation import probe_loss
from customize.evaluation.choice import spread_over
from customize.evaluation.photos import of_concept
from customize.evaluation.probe_prompts import encoded_texts, probes_of
from customize.evaluation.record import ProbePrompt
from customize.families import Source, load
from customize.families.base import Family, Placement
from customize.families.files.autoencoder import load_autoencoder, locate_autoencoder
from customize.methods.method import Condition, Method, captions_of
from customize.settings import derived
from customize.settings.derived import from_settings
from customize.settings.training import TrainingSettings
from customize.settings.training_parts import validation_prompts as sample_prompts
from customize.training import class_images
from customize.training.evaluating.cost import Cost, cost_of_all, number_of_candidates
from customize.training.nan_guard import IN_ALL

DTYPES = {"no": torch.float32, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

USUAL_VALIDATION_STEPS = 100
LARGE = 200_000_000
"""Parameters of a denoiser above which a step takes about a minute without a GPU; Stable Diffusion's has 860 million."""


@dataclass(frozen=True)
class RunContext:
    """The parts of a run before its first step, and the `MethodContext` of its method.

    first_step: the step to start at, more than 0 when resuming; skipped_draws: the number of draws skipped before it.
    """

    settings: TrainingSettings
    accelerator: Accelerator
    family: Family
    examples: Examples
    first_step: int
    skipped_draws: int = 0

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def resolution(self) -> int:
        return self.settings.resolution or self.family.resolution

    @property
    def global_batch(self) -> int:
        """Samples of one optimizer step, over all processes."""
        return derived.global_batch(self.settings, self.accelerator.num_processes)

    @cached_property
    def uses(self) -> list[int]:
        """The samples of each bucket in an epoch, before `repeats`."""
        return uses(self.settings, self.examples.instances, self.resolution)

    @property
    def steps_per_epoch(self) -> int:
        return derived.steps_per_epoch(self.settings, self.uses, self.accelerator.num_processes)

    @property
    def max_train_steps(self) -> int:
        return derived.max_train_steps(self.settings, self.uses, self.accelerator.num_processes)

    @property
    def draws(self) -> range:
        """The draws that the run may use: one per step, and as many more as may be skipped."""
        most = IN_ALL if self.settings.on_nan == "retry" else self.skipped_draws
        return range(self.first_step + self.skipped_draws, self.max_train_steps + most)

    @cached_property
    def latents_cache(self) -> NoCache:
        """The cache of encoded images, which several runs may share."""
        if self.settings.latents_cache_dir is None:
            return NoCache()
        folder = Path(self.settings.latents_cache_dir)
        if self.accelerator.is_main_process:
            self.examples.checked.save()
        return LatentsCache(folder, self.family.latents, self.device)

    @property
    def validation_steps(self) -> int:
        settings = self.settings
        if settings.validation_steps or settings.validation_epochs:
            return settings.validation_steps or settings.validation_epochs * self.steps_per_epoch
        return math.ceil(self.max_train_steps / 2) if sample_prompts.are_made(settings) else USUAL_VALIDATION_STEPS

    @property
    def sample_prompts(self) -> tuple[str, ...]:
        """The prompts of the validation images; only the first of generated ones where an image takes minutes."""
        prompts = sample_prompts.sample_prompts(self.settings)
        return prompts[:1] if sample_prompts.are_made(self.settings) and self.is_slow else prompts

    @property
    def evaluation(self) -> Literal["pictures", "loss", "none"]:
        """What is measured during the run."""
        if self.settings.evaluation != "auto":
            return self.settings.evaluation
        if self.settings.prompt_embeddings is not None or self.family.super_resolution is not None:
            return "loss"  # encoded prompts lack those of the pictures; an enlarged image shows the smaller one's subject
        return "pictures" if self.sample_prompts and not self.is_slow else "loss"

    @property
    def candidates(self) -> tuple[int, ...]:
        """The steps whose weights are measured by pictures."""
        if self.evaluation != "pictures":
            return ()
        number = number_of_candidates(self.settings, self.cost_of_pictures, self.evaluations_of_training)
        return tuple(spread_over(self.max_train_steps, number))

    @cached_property
    def cost_of_pictures(self) -> Cost:
        """Evaluations of the denoiser for the pictures that are measured."""
        return cost_of_all(self.settings, self.probes, [len(self.photos(place)) for place in range(len(self.probes))])

    def photos(self, place: int) -> list[Example]:
        """The training images of a concept."""
        own = [each for each in self.examples.instances if self.settings.shows(place, each)]
        return of_concept(own, self.settings.concepts[place])

    @property
    def evaluations_of_training(self) -> int:
        """Evaluations of the denoiser for all steps of the run."""
        return self.settings.evaluations_per_sample * self.global_batch * self.max_train_steps

    @property
    def probes(self) -> list[tuple[ProbePrompt, ...]]:
        """The prompts of the pictures that are measured, of each concept; those of the user are among them."""
        if self.evaluation != "pictures":
            return [() for _ in self.settings.concepts]
        return probes_of(self.settings.concepts, self.settings.validation_prompt and self.sample_prompts or ())

    @property
    def probe_prompts(self) -> tuple[ProbePrompt, ...]:
        """The prompts of all pictures that are measured."""
        return tuple(prompt for own in self.probes for prompt in own)

    @property
    def measured_prompts(self) -> list[str]:
        """All prompts of measurements."""
        every = zip(self.settings.concepts, self.probes, strict=True) if self.evaluation != "none" else ()
        return [text for concept, own in every for text in (*encoded_texts(concept, own), concept.plain)]

    @property
    def is_slow(self) -> bool:
        """Whether a step takes about a minute: a denoiser of Stable Diffusion's size without a GPU."""
        parameters = sum(parameter.numel() for parameter in self.family.denoiser.parameters())
        return self.device.type == "cpu" and parameters > LARGE

    @property
    def learning_rate_scale(self) -> int:
        return derived.learning_rate_scale(self.settings, self.accelerator.num_processes)

    @property
    def sample_config(self) -> SampleConfig:
        settings = self.settings
        objective = from_settings(Noise, settings), from_settings(TimestepSampling, settings), settings.weighting
        return SampleConfig(settings.seed, self.global_batch, settings.caption_dropout, *objective, TagDraws.of(settings))

    @cached_property
    def streamed(self) -> Streamed:
        """What is encoded when a step first needs it, instead of all before the first step."""
        return Streamed.of(self.settings, self.examples, self.resolution, self.max_train_steps * self.global_batch)

    def encode_images(self, stream: str, examples: Sequence[Example], turns: TurnOf = int) -> ImageDataset:
        """Samples of these examples. Each crop that the run will draw, and that is not cached, is encoded once; for an inpainting
        model, masked ones are encoded in the steps. So is the first crop of the first images, whatever steps are left: fixed
        samples (`ImageDataset.probe`) are of these, and the same after resuming."""
        settings, in_buckets = self.settings, fits(self.settings, examples, self.resolution)
        cuts = [shown_crops(settings, example, fit) for example, fit in zip(examples, in_buckets, strict=True)]
        images = grouped(in_buckets, [example.repeats for example in examples])
        sampler = EpochSampler(stream, self.sample_config, len(examples), [len(each) for each in cuts], images, turns)
        if self.streamed.images:
            return self.encoded(examples, cuts, sampler, None, self.latents_cache)
        needed = sampler.needed(self.draws) | {(image, 0) for image in range(min(len(examples), probe_loss.MOST_DRAWS))}
        return self.encoded(examples, cuts, sampler, needed, self.latents_cache)

    def encode_crops(self, examples: Sequence[Example], cuts: Sequence[Variant]) -> ImageDataset:
        """One crop of each example, for fixed samples."""
        sampler = EpochSampler("probe", self.sample_config, len(examples), [1] * len(examples))
        every = [(image, 0) for image in range(len(examples))]
        return self.encoded(examples, [(cut,) for cut in cuts], sampler, every, NoCache())

    def encoded(
        self, examples: Sequence[Example], cuts: Sequence[Sequence[Variant]], sampler: EpochSampler,
        needed: Collection[tuple[int, int]] | None, cache: NoCache,
    ) -> ImageDataset:  # fmt: skip
        """Samples of these examples. cuts: the crops of each; needed: the (image, variant) that are encoded now; None: each is
        encoded when it is asked for."""
        family = self.family
        encoder = CropEncoder(family, examples, cuts, self.settings.image_interpolation_mode, cache, self.device)
        stored = encoder.on_demand() if needed is None else encoder.now(needed)
        images = [
            CachedImage(example.name, example.captions, own, [crop_of(example, cut) for cut in its_cuts])
            for example, own, its_cuts in zip(examples, stored, cuts, strict=True)
        ]
        dataset = LatentDataset(family, self.sample_config, sampler, images)
        dataset = MaskedImages(dataset, encoder.read_pixels, self.device) if family.takes_mask else dataset
        outside = OutsideWeights(self.settings.unmasked_weight, self.settings.masked_prior_preservation_weight)
        return masked(dataset, sampler, family.latents, examples, cuts, outside)

    def encode_captions(self, captions: Iterable[str], min_chunks: int) -> Condition:
        """Looks up the conditioning of these captions, of prompts and held-out images that are only measured, and of the empty
        prompt, each encoded once; the text encoders are moved off the device, unless captions are encoded in the steps."""
        family, device, settings = self.family.to(self.device), self.device, self.settings
        prompts = [*self.sample_prompts, *self.measured_prompts, ""]
        if not self.streamed.captions:
            prompts += [*captions, *captions_of(self.examples.held_out)]
        known = encode_each_caption(family, prompts, min_chunks, settings.clip_skip)
        if self.streamed.captions:
            most = 0 if settings.varies_captions else BYTES_OF_CAPTIONS
            known = EncodedInTheStep(family, known, min_chunks, settings.clip_skip, most)
        for name, network in family.components.items():
            if network is not family.denoiser and (name == "vae" or not self.streamed.captions):
                network.to("cpu")
        return lambda prompts: family.collate([known[prompt] for prompt in prompts], known[""]).to(device)

    def complete_class_images(self, settings) -> tuple[Example, ...]:
        """The class images of prior preservation; missing ones are generated first."""
        family = self.family.to(self.device)
        dtype = DTYPES[settings.prior_generation_precision or settings.mixed_precision]
        with self.accelerator.main_process_first(), class_images.computing_in(dtype, family):
            return class_images.complete(settings, family, self.resolution, self.examples.checked.of_class())

    def place(self, method: Method) -> None:
        """Moves the method to the device, and enables gradient checkpointing."""
        method.to(self.device)
        if self.settings.gradient_checkpointing:
            for network in method.children():
                enable_checkpointing(network)


def load_base(settings, source: Source) -> Family:
    """Loads the base model for training, with another autoencoder if the settings name one. Raises InputError."""
    family = load(source, placement_of(settings))
    if settings.vae:
        path = locate_autoencoder(settings.vae)
        family.replace_vae(load_autoencoder(path, family.spec.autoencoder), path)
    return family


def placement_of(settings) -> Placement:
    """Where and how the base model is loaded for training: frozen networks in the precision in which the run computes.

    The autoencoder is in float32, because its encodings are the data of the whole run. A run that trains whole networks has all
    of them in float32, because its result contains them all.
    """
    return Placement() if settings.trains_whole_networks else Placement("cpu", DTYPES[settings.mixed_precision], ("vae",))


def release_unused(context: RunContext, method: Method) -> None:
    """Frees the memory of the networks that the rest of a run does not need: those that are in neither its steps nor its sample
    images nor its result. They keep their names and shapes, on the meta device."""
    settings, family = context.settings, context.family
    if settings.leaves_out_text_encoder:
        family.leave_out_text_encoder()
    if settings.trains_whole_networks:  # and saves the others with them
        return
    needed = list(method.children())
    draws = settings.validation_prompt != () or settings.evaluation == "pictures"
    if draws or context.streamed.images or family.takes_mask:
        needed.append(family.components.get("vae"))
    if context.streamed.captions:
        needed += [network for name, network in family.components.items() if name != "vae"]
    for network in family.components.values():
        if network not in needed:
            network.to("meta")


def enable_checkpointing(network: torch.nn.Module) -> None:
    """Enables gradient checkpointing by its name in diffusers, in transformers since 5.24, or before."""
    names = ("enable_gradient_checkpointing", "activation_checkpointing_enable", "gradient_checkpointing_enable")
    next(filter(None, (getattr(network, name, None) for name in names)))()
