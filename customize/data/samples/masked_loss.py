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
from customize.data.samples.on_demand import BYTES_OF_MASKS, Kept, Variants, nbytes
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
    """The dataset of these examples and their crops with the masks of their variants, each read when a step first needs it; as it
    is if there are none."""
    if not any(example.mask for example in examples):
        return dataset

    def mask(place: tuple[int, int]) -> Tensor:
        image, variant = place
        return latent_mask(examples[image], cuts[image][variant], latents)

    kept = Kept(mask, nbytes, BYTES_OF_MASKS)
    masks = [Variants(kept, image, len(own) if examples[image].mask else 0) for image, own in enumerate(cuts)]
    return MaskedLoss(dataset, sampler, masks, outside)


def latent_mask(example: Example, cut: Variant, latents: LatentSpace) -> Tensor:
    """The mask of a crop [1, H, W], float32 in [0, 1]: for each latent the mean over its pixels.

    Raises KeyError where there is none: a crop that is only measured may show nothing of what the mask selects. Raises
    ResourceError if the mask has changed since it was checked.
    """
    [pixels] = cut_out(open_mask(example), [cut], "box")
    share = torch.from_numpy(pixels)[None].float() / 255
    if not share.any():
        raise KeyError(example.name)
    return F.adaptive_avg_pool2d(share, latents.stored_shape(cut.height, cut.width)[1:])
