"""From examples to the samples of a step: which image, which crop, which caption, which noise, which noise level.

Each choice is a function of (seed, step, position in the global batch); see `customize.diffusion.rng`. A dataset deals the
samples of a step as batches in which all latents have one shape; datasets are made of datasets.

B positions, C latent channels, H W latent height and width.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain, groupby
from operator import itemgetter
from typing import Any, Protocol

import torch
from torch import Tensor

from customize.diffusion import rng
from customize.diffusion.losses import min_snr_weights
from customize.diffusion.process import offset_noise
from customize.families.base import Family
from customize.families.conditioning import Conditioning, Crop


@dataclass(frozen=True)
class Batch:
    """Samples of one shape; each row is a function of (seed, step, position).

    latents, noise: [B, C, H, W]; timesteps: [B]; loss_weights: [B], float32, the factor of each sample's loss;
    is_prior: [B], bool, true for the samples of prior preservation; crops: the part of its image that each sample shows;
    extra_channels: [B, K, H, W], further channels of the denoiser's input, K = 0 for none; names: the image behind each sample,
    for messages; positions: that of each sample in the step's global batch.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    prompts: tuple[str, ...]
    loss_weights: Tensor
    is_prior: Tensor
    crops: tuple[Crop, ...]
    extra_channels: Tensor
    names: tuple[str, ...]
    positions: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device) -> "Batch":
        """The same batch with its tensors on the device."""
        return self._map(lambda values: values.to(device) if isinstance(values, Tensor) else values)

    def part(self, rows: slice | Tensor) -> "Batch":
        """Some of the samples. rows: a slice, or bool [B]."""
        chosen = torch.arange(len(self))[rows if isinstance(rows, slice) else rows.cpu()]
        return self._map(
            lambda values: values[chosen.to(values.device)] if isinstance(values, Tensor) else tuple(values[i] for i in chosen)
        )

    @staticmethod
    def cat(batches: "Sequence[Batch]") -> "Batch":
        """One batch of all samples, in this order. Their latents have one shape."""
        columns = {f.name: [getattr(batch, f.name) for batch in batches] for f in fields(Batch)}
        return Batch(**{k: torch.cat(v) if isinstance(v[0], Tensor) else tuple(chain(*v)) for k, v in columns.items()})

    def _map(self, change: Callable) -> "Batch":
        return replace(self, **{f.name: change(getattr(self, f.name)) for f in fields(self)})


class Dataset(Protocol):
    """Where the batches of a step come from."""

    def deal(self, step: int, positions: Sequence[int]) -> Sequence[Any]:
        """The samples at these positions of the step's global batch, as batches that each fit one forward pass.

        step: the number of the draw, which is the step as long as no draw was skipped. A batch has `to(device)`, `names`
        and `positions`, one for each of its samples; a position may occur more than once.
        """
        ...


class ImageDataset(Dataset, Protocol):
    """Samples of images: `LatentDataset`, or one that adds to its samples. probe: fixed samples, see there."""

    images: Sequence["CachedImage"]

    def probe(self, number: int) -> Batch: ...


@dataclass(frozen=True)
class SampleConfig:
    """The settings that decide on noise, timesteps, captions and loss weights of samples."""

    seed: int
    global_batch: int
    caption_dropout: float = 0.0
    noise_offset: float = 0.0
    snr_gamma: float | None = None


@dataclass(frozen=True)
class CachedImage:
    """An image as the loop needs it. stored: `LatentSpace.encode` of each variant (crop, flip) that the run draws; crops: of
    all variants."""

    name: str
    captions: tuple[str, ...]
    stored: dict[int, Tensor]
    crops: Sequence[Crop]

    @property
    def first(self) -> int:
        """The first variant that is stored."""
        return min(self.stored)


class EpochSampler:
    """Infinite sampler of image indices, reshuffled in each epoch. stream: separates the draws of two samplers."""

    def __init__(self, stream: str, config: SampleConfig, num_images: int, num_variants: Sequence[int]):
        self.stream, self.config = stream, config
        self.num_images, self.num_variants = num_images, num_variants

    def draw(self, step: int, position: int) -> tuple[int, int]:
        """(image, variant) of a sample."""
        number = step * self.config.global_batch + position
        image = rng.shuffled(number, self.num_images, self.config.seed, f"{self.stream}/order")
        variant = rng.integers(self.num_variants[image], self.config.seed, f"{self.stream}/variant", step, [position])
        return image, int(variant)

    def needed(self, steps: Iterable[int]) -> set[tuple[int, int]]:
        """Every (image, variant) that is drawn in these steps: what has to be encoded."""
        found: set[tuple[int, int]] = set()
        for step in steps:
            found.update(self.draw(step, position) for position in range(self.config.global_batch))
            if len(found) == sum(self.num_variants):
                break
        return found


class LatentDataset:
    """Samples of images whose latents are cached. Images may have different sizes: each shape is a batch of its own."""

    def __init__(self, family: Family, config: SampleConfig, sampler: EpochSampler, images: Sequence[CachedImage]):
        self.family, self.config, self.sampler, self.images = family, config, sampler, images

    def deal(self, step: int, positions: Sequence[int]) -> list[Batch]:
        """The samples at these positions of the step's global batch, one batch for each shape of latents."""
        of_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for position in positions:
            index, variant = self.sampler.draw(step, position)
            of_shape[tuple(self.images[index].stored[variant].shape)].append(position)
        return [self.batch(step, alike) for alike in of_shape.values()]

    def batch(self, step: int, positions: Sequence[int]) -> Batch:
        """The samples at these positions, whose latents have one shape."""
        seed, stream = self.config.seed, self.sampler.stream
        drawn = [self.sampler.draw(step, position) for position in positions]
        images = [self.images[index] for index, _ in drawn]
        stored = torch.stack([self.images[index].stored[variant] for index, variant in drawn])
        shape = self.family.latents.shape(stored)
        noise = rng.normal(shape, seed, f"{stream}/noise", step, positions)
        if self.config.noise_offset:
            shift = rng.normal(shape[:1], seed, f"{stream}/noise_offset", step, positions)
            noise = offset_noise(noise, shift, self.config.noise_offset)
        timesteps = self.timesteps(step, positions)
        return Batch(
            latents=self.family.latents.sample(stored, rng.normal(shape, seed, f"{stream}/latent", step, positions)),
            noise=noise,
            timesteps=timesteps,
            prompts=self.prompts(images, step, positions),
            loss_weights=self.loss_weights(timesteps),
            is_prior=torch.zeros(len(positions), dtype=torch.bool),
            crops=tuple(self.images[index].crops[variant] for index, variant in drawn),
            extra_channels=noise[:, :0],
            names=tuple(image.name for image in images),
            positions=tuple(positions),
        )

    def probe(self, number: int) -> Batch:
        """Fixed samples of one shape that do not depend on the draws of the steps: noise levels and images are spread evenly;
        of each image the first crop that is cached, and the first caption."""
        places, shown = range(number), self.shown
        images = [image if is_alike(image := self.images[place % len(self.images)], shown) else shown for place in places]
        stored = torch.stack([image.stored[image.first] for image in images])
        shape = self.family.latents.shape(stored)
        return Batch(
            latents=self.family.latents.sample(stored, rng.normal(shape, self.config.seed, "probe/latent", 0, places)),
            noise=rng.normal(shape, self.config.seed, "probe/noise", 0, places),
            timesteps=self.family.schedule.timesteps((torch.arange(number) + 0.5) / number),
            prompts=tuple(image.captions[0] for image in images),
            loss_weights=torch.ones(number),
            is_prior=torch.zeros(number, dtype=torch.bool),
            crops=tuple(image.crops[image.first] for image in images),
            extra_channels=torch.zeros(number, 0, *shape[1:]),
            names=tuple(image.name for image in images),
            positions=tuple(places),
        )

    @property
    def shown(self) -> CachedImage:
        """The first image with a cached crop."""
        return next(image for image in self.images if image.stored)

    def timesteps(self, step: int, positions: Sequence[int]) -> Tensor:
        """The timesteps [B], by the base model's own distribution over noise levels."""
        schedule, stream = self.family.schedule, f"{self.sampler.stream}/timestep"
        return schedule.timesteps(rng.uniform(self.config.seed, stream, step, positions, schedule.num_levels))

    def prompts(self, images: Sequence[CachedImage], step: int, positions: Sequence[int]) -> tuple[str, ...]:
        """A caption of each image, or none at the rate of `caption_dropout` (Ho & Salimans 2022)."""
        seed, stream = self.config.seed, self.sampler.stream
        captions = [
            image.captions[rng.integers(len(image.captions), seed, f"{stream}/caption", step, [position])]
            for image, position in zip(images, positions, strict=True)
        ]
        kept = rng.uniform(seed, f"{stream}/caption_dropout", step, positions) >= self.config.caption_dropout
        return tuple(caption if keep else "" for caption, keep in zip(captions, kept, strict=True))

    def loss_weights(self, timesteps: Tensor) -> Tensor:
        """The weight of each sample [B]: 1, or that of min-SNR."""
        if self.config.snr_gamma is None:
            return torch.ones(len(timesteps))
        return min_snr_weights(self.family.schedule.snr(timesteps), self.config.snr_gamma, self.family.prediction_type)


def is_alike(image: CachedImage, other: CachedImage) -> bool:
    """Whether a crop of the image is cached, of the shape of the other's."""
    return bool(image.stored) and image.stored[image.first].shape == other.stored[other.first].shape


class PriorPreservation:
    """Prior preservation (DreamBooth, equation 2): beside each sample of the subject one of the class, weighted."""

    def __init__(self, subject: ImageDataset, of_class: ImageDataset, prior_loss_weight: float):
        self.subject, self.of_class, self.prior_loss_weight = subject, of_class, prior_loss_weight

    def probe(self, number: int) -> Batch:
        """Fixed samples of the subject."""
        return self.subject.probe(number)

    def deal(self, step: int, positions: Sequence[int]) -> list[Batch]:
        """The samples of the subject and of the class; those of one shape are one batch, the subject first."""
        of_class = [as_prior(batch, self.prior_loss_weight) for batch in self.of_class.deal(step, positions)]
        return by_shape([*self.subject.deal(step, positions), *of_class])


class PriorDistillation:
    """Prior preservation by the base model as teacher: the same noisy latents once more, under the class prompt, weighted."""

    def __init__(self, subject: ImageDataset, class_prompt: str, prior_loss_weight: float):
        self.subject, self.class_prompt, self.prior_loss_weight = subject, class_prompt, prior_loss_weight

    def probe(self, number: int) -> Batch:
        """Fixed samples of the subject."""
        return self.subject.probe(number)

    def deal(self, step: int, positions: Sequence[int]) -> list[Batch]:
        """The samples of the subject, then the same under the class prompt, in one batch for each shape."""
        batches = self.subject.deal(step, positions)
        of_class = [replace(batch, prompts=(self.class_prompt,) * len(batch)) for batch in batches]
        return by_shape([*batches, *(as_prior(batch, self.prior_loss_weight) for batch in of_class)])


def as_prior(batch: Batch, prior_loss_weight: float) -> Batch:
    """The batch as samples of prior preservation, with their share of the loss."""
    return replace(batch, loss_weights=prior_loss_weight * batch.loss_weights, is_prior=torch.ones_like(batch.is_prior))


def by_shape(batches: Iterable[Batch]) -> list[Batch]:
    """One batch for each shape of latents, the samples in their order."""
    of_shape: dict[tuple[int, ...], list[Batch]] = defaultdict(list)
    for batch in batches:
        of_shape[tuple(batch.latents.shape[1:])].append(batch)
    return [Batch.cat(alike) for alike in of_shape.values()]


@torch.no_grad()
def encode_crops(
    family: Family, needed: Iterable[tuple[int, int]], read_pixels: Callable[[int, list[int]], Tensor]
) -> Iterator[tuple[tuple[int, int], Tensor]]:
    """Encodes every (image, variant) once; yields each with what is stored of it, float32 on the CPU.

    One at a time: what a network gives for an image can differ in the last bits with what else is in the batch, and a
    resumed run needs fewer of them. read_pixels: (image, variants) -> [V, 3, height, width] in [-1, 1].
    """
    for image, keys in groupby(sorted(needed), key=itemgetter(0)):
        variants = [variant for _, variant in keys]
        for variant, pixels in zip(variants, read_pixels(image, variants), strict=True):
            yield (image, variant), family.latents.encode(pixels[None])[0].float().cpu()


@torch.no_grad()
def encode_each_caption(
    family: Family, captions: Iterable[str], min_chunks: int = 1, clip_skip: int | None = None
) -> dict[str, Conditioning]:
    """Evaluates the frozen text encoder once for every caption; returns one row for each, of `min_chunks` chunks or more."""
    options = {"min_chunks": min_chunks, "clip_skip": clip_skip}
    return {caption: family.encode_prompts([caption], **options) for caption in sorted(set(captions))}
