"""From examples to the samples of a step: which image, which crop, which caption, which noise, which noise level.

Each choice is a function of (seed, step, position in the global batch); see `customize.diffusion.rng`.

B positions, C latent channels, H W latent height and width.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from customize.data.samples.batches import Batch, Dataset
from customize.data.samples.bucket_order import batch_of
from customize.data.samples.tag_draws import TagDraws
from customize.diffusion import rng
from customize.diffusion.loss_weights import Weighting
from customize.diffusion.noise import Noise
from customize.diffusion.timestep_sampling import TimestepSampling
from customize.families.base import Family
from customize.families.conditioning import Crop


@dataclass(frozen=True)
class SampleConfig:
    """The settings that decide on noise, timesteps, captions and loss weights of samples. weighting: by noise level; None: all
    samples weigh the same; tags: None: captions as they are written."""

    seed: int
    global_batch: int
    caption_dropout: float = 0.0
    noise: Noise = Noise()
    timesteps: TimestepSampling = TimestepSampling()
    weighting: Weighting | None = None
    tags: TagDraws | None = None


@dataclass(frozen=True)
class CachedImage:
    """An image as the loop needs it. stored: `LatentSpace.encode` of each variant (crop, flip) that the run draws, or of any
    variant, encoded when it is asked for (`on_demand.Variants`); crops: of all variants."""

    name: str
    captions: tuple[str, ...]
    stored: Mapping[int, Tensor]
    crops: Sequence[Crop]

    @property
    def first(self) -> int:
        """The first variant that is stored."""
        return min(self.stored)


TurnOf = Callable[[int], int | None]


class EpochSampler:
    """Infinite sampler of image indices, reshuffled in each epoch. stream: separates the draws of two samplers.

    buckets: the images of each bucket; one that is used more often than others is listed several times. All samples of a step are
    of one bucket (`bucket_order`). None: one bucket of all images. turns: the number of each step of the run among those whose
    samples are of these images, None for a step of others (`concept_turns.Turns`).
    """

    def __init__(
        self, stream: str, config: SampleConfig, num_images: int, num_variants: Sequence[int],
        buckets: Sequence[Sequence[int]] | None = None, turns: TurnOf = int,
    ):  # fmt: skip
        self.stream, self.config = stream, config
        self.num_images, self.num_variants = num_images, num_variants
        self.buckets, self.turns = [range(num_images)] if buckets is None else buckets, turns
        self.sizes = tuple(map(len, self.buckets))

    def draw(self, step: int, position: int) -> tuple[int, int]:
        """(image, variant) of a sample."""
        seed, size, own = self.config.seed, self.config.global_batch, self.turns(step)
        assert own is not None, "the step is of other images"
        bucket, batch = batch_of(own, self.sizes, size, seed, self.stream)
        stream = f"{self.stream}/order" + (f"/{bucket}" if bucket else "")
        image = self.buckets[bucket][rng.shuffled(batch * size + position, self.sizes[bucket], seed, stream)]
        variant = rng.integers(self.num_variants[image], seed, f"{self.stream}/variant", step, [position])
        return image, int(variant)

    def needed(self, steps: Iterable[int]) -> set[tuple[int, int]]:
        """Every (image, variant) that is drawn in these steps: what has to be encoded."""
        found: set[tuple[int, int]] = set()
        for step in steps:
            if self.turns(step) is None:
                continue
            found.update(self.draw(step, position) for position in range(self.config.global_batch))
            if len(found) == sum(self.num_variants):
                break
        return found


class ImageDataset(Dataset, Protocol):
    """Samples of images: `LatentDataset`, or one that adds to its samples. probe: fixed samples, see there."""

    images: Sequence[CachedImage]

    def probe(self, number: int) -> Batch: ...


class LatentDataset:
    """Samples of images whose latents are cached. Images may have different sizes: each shape is a batch of its own."""

    def __init__(self, family: Family, config: SampleConfig, sampler: EpochSampler, images: Sequence[CachedImage]):
        self.family, self.config, self.sampler, self.images = family, config, sampler, images

    def deal(self, step: int, positions: Sequence[int]) -> list[Batch]:
        """The samples at these positions of the step's global batch, one batch for each shape of latents."""
        of_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for position in positions:
            index, variant = self.sampler.draw(step, position)
            of_shape[self.stored_shape(self.images[index], variant)].append(position)
        return [self.batch(step, alike) for alike in of_shape.values()]

    def batch(self, step: int, positions: Sequence[int]) -> Batch:
        """The samples at these positions, whose latents have one shape."""
        seed, stream = self.config.seed, self.sampler.stream
        drawn = [self.sampler.draw(step, position) for position in positions]
        images = [self.images[index] for index, _ in drawn]
        stored = torch.stack([self.images[index].stored[variant] for index, variant in drawn])
        shape = self.family.latents.shape(stored)
        noise = self.config.noise.draw(shape, seed, stream, step, positions)
        timesteps = self.timesteps(step, positions)
        return Batch(
            latents=self.family.latents.sample(stored, rng.normal(shape, seed, f"{stream}/latent", step, positions)),
            noise=noise,
            perturbation=self.config.noise.perturbation(shape, seed, stream, step, positions),
            timesteps=timesteps,
            prompts=self.prompts(images, step, positions),
            loss_weights=self.loss_weights(timesteps),
            loss_mask=torch.ones_like(noise[:, :1]),
            taught=torch.zeros_like(noise[:, :1]),
            is_prior=torch.zeros(len(positions), dtype=torch.bool),
            crops=tuple(self.images[index].crops[variant] for index, variant in drawn),
            extra_channels=noise[:, :0],
            names=tuple(image.name for image in images),
            positions=tuple(positions),
        )

    def probe(self, number: int) -> Batch:
        """Fixed samples that do not depend on the draws of the steps: noise levels and images are spread evenly; of each image
        the first crop, and the first caption. All are of the shape that most of the first `number` images have."""
        places, alike = range(number), self.alike(number)
        images = [alike[place % len(alike)] for place in places]
        stored = torch.stack([image.stored[image.first] for image in images])
        shape = self.family.latents.shape(stored)
        return Batch(
            latents=self.family.latents.sample(stored, rng.normal(shape, self.config.seed, "probe/latent", 0, places)),
            noise=rng.normal(shape, self.config.seed, "probe/noise", 0, places),
            perturbation=torch.zeros(number, 1, 1, 1),
            timesteps=self.family.schedule.timesteps((torch.arange(number) + 0.5) / number),
            prompts=tuple(image.captions[0] for image in images),
            loss_weights=torch.ones(number),
            loss_mask=torch.ones(number, 1, *shape[1:]),
            taught=torch.zeros(number, 1, *shape[1:]),
            is_prior=torch.zeros(number, dtype=torch.bool),
            crops=tuple(image.crops[image.first] for image in images),
            extra_channels=torch.zeros(number, 0, *shape[1:]),
            names=tuple(image.name for image in images),
            positions=tuple(places),
        )

    def alike(self, number: int) -> list[CachedImage]:
        """Those of the first images, of which a crop is always cached, that have the most frequent shape; of equal ones the
        first."""
        of_shape: dict[tuple[int, ...], list[CachedImage]] = defaultdict(list)
        for image in filter(lambda image: image.stored, self.images[:number]):
            of_shape[self.stored_shape(image, image.first)].append(image)
        return max(of_shape.values(), key=len)

    def stored_shape(self, image: CachedImage, variant: int) -> tuple[int, ...]:
        """The shape of what is stored of a variant, which need not be encoded for it."""
        return self.family.latents.stored_shape(*image.crops[variant].target_size)

    def timesteps(self, step: int, positions: Sequence[int]) -> Tensor:
        """The timesteps [B], by the base model's own distribution over noise levels, and by what the settings make of it."""
        schedule, sampling = self.family.schedule, self.config.timesteps
        draw = self.config.seed, f"{self.sampler.stream}/timestep", step, positions
        if sampling.stratified_timesteps:
            uniform = rng.stratified(self.config.global_batch, *draw)
        else:
            uniform = rng.uniform(*draw, schedule.num_levels if sampling.is_plain else None)
        return schedule.timesteps(sampling.mapped(uniform, schedule.num_levels))

    def prompts(self, images: Sequence[CachedImage], step: int, positions: Sequence[int]) -> tuple[str, ...]:
        """A caption of each image, its tags as they are drawn, or none at the rate of `caption_dropout` (Ho & Salimans 2022)."""
        seed, stream = self.config.seed, self.sampler.stream
        captions = [
            image.captions[rng.integers(len(image.captions), seed, f"{stream}/caption", step, [position])]
            for image, position in zip(images, positions, strict=True)
        ]
        if tags := self.config.tags:
            captions = [tags.drawn(each, seed, stream, step, place) for each, place in zip(captions, positions, strict=True)]
        kept = rng.uniform(seed, f"{stream}/caption_dropout", step, positions) >= self.config.caption_dropout
        return tuple(caption if keep else "" for caption, keep in zip(captions, kept, strict=True))

    def loss_weights(self, timesteps: Tensor) -> Tensor:
        """The weight of each sample by its noise level [B]."""
        if self.config.weighting is None:
            return torch.ones(len(timesteps))
        return self.config.weighting.weights(self.family.schedule.snr(timesteps), self.family.prediction_type)
