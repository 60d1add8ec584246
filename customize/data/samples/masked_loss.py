"""Samples that learn what masks of their images select: the weight of each place in the loss, and its target outside.

A mask shares crop and flip of its image, and is averaged over the pixels of each latent.

B positions, H W latent height and width, V variants.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from customize.data.crops import Variant, cut_out
from customize.data.example import Example
from customize.data.mask_files import open_mask
from customize.data.samples.batches import Batch
from customize.data.samples.latent_dataset import EpochSampler, ImageDataset
from customize.diffusion.losses import masked_prior_weights, masked_weights
from customize.families.latents import LatentSpace


@dataclass(frozen=True)
class OutsideWeights:
    """The weight of the loss outside of masks. unmasked: with the image as target; prior: with the base model's prediction."""

    unmasked: float = 0.0
    prior: float = 0.0


class MaskedLoss:
    """A dataset whose samples have the masks of their images. masks: of each image, by variant, [1, H, W] in [0, 1]; {} for an
    image that is learned as a whole."""

    def __init__(
        self, dataset: ImageDataset, sampler: EpochSampler, masks: Sequence[Mapping[int, Tensor]], outside: OutsideWeights
    ):
        self.dataset, self.sampler, self.masks, self.outside = dataset, sampler, masks, outside
        self.images = dataset.images

    def deal(self, step: int, positions: Sequence[int]) -> list[Batch]:
        """The samples at these positions, one batch for each shape of latents."""
        return [self.with_masks(batch, step) for batch in self.dataset.deal(step, positions)]

    def with_masks(self, batch: Batch, step: int) -> Batch:
        """The batch with the masks of its samples."""
        mask = self.mask(batch, [self.sampler.draw(step, position) for position in batch.positions])
        if not self.outside.prior:
            return replace(batch, loss_mask=masked_weights(mask, self.outside.unmasked))
        return replace(batch, loss_mask=masked_prior_weights(mask, self.outside.prior), taught=1 - mask)

    def probe(self, number: int) -> Batch:
        """Fixed samples, whose loss is that inside of the masks, whatever is learned outside."""
        batch = self.dataset.probe(number)
        index = {image.name: place for place, image in enumerate(self.images)}
        mask = self.mask(batch, [(index[name], self.images[index[name]].first) for name in batch.names])
        return replace(batch, loss_mask=masked_weights(mask))

    def mask(self, batch: Batch, drawn: Sequence[tuple[int, int]]) -> Tensor:
        """The masks [B, 1, H, W] of samples. drawn: (image, variant) of each."""
        whole = torch.ones_like(batch.loss_mask[0])
        return torch.stack([self.masks[image].get(variant, whole) for image, variant in drawn])


def masked(
    dataset: ImageDataset, sampler: EpochSampler, latents: LatentSpace, examples: Sequence[Example],
    cuts: Sequence[Sequence[Variant]], outside: OutsideWeights,
) -> ImageDataset:  # fmt: skip
    """The dataset of these examples and their crops with the masks of those variants that it stores; as it is if there are none.
    Raises ResourceError."""
    if not any(example.mask for example in examples):
        return dataset
    masks = [
        latent_masks(example, own, {variant: latents.shape(each) for variant, each in image.stored.items()})
        for example, own, image in zip(examples, cuts, dataset.images, strict=True)
    ]
    return MaskedLoss(dataset, sampler, masks, outside)


def latent_masks(example: Example, cuts: Sequence[Variant], shapes: Mapping[int, Sequence[int]]) -> dict[int, Tensor]:
    """The masks of some variants [1, H, W], float32 in [0, 1]: for each latent the mean over its pixels. {} without a mask.

    A crop that is only measured, and shows nothing of what the mask selects, has none. shapes: (C, H, W) of these. Raises
    ResourceError.
    """
    if example.mask is None or not shapes:
        return {}
    pixels = cut_out(open_mask(example), [cuts[variant] for variant in shapes], "box")
    shares = torch.from_numpy(pixels)[:, None].float() / 255
    return {
        variant: F.adaptive_avg_pool2d(share, tuple(shape[1:]))
        for (variant, shape), share in zip(shapes.items(), shares, strict=True)
        if share.any()
    }
