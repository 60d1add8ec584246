"""What an inpainting UNet is given besides the noisy latents: a mask, and the image without what it hides.

B positions, C latent channels, H W latent height and width, `factor` pixels per latent along each side.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from customize.data.samples.batches import Batch
from customize.data.samples.latent_dataset import LatentDataset
from customize.diffusion import rng

WHOLE = 0.5
"""The share of samples in which all of the image is hidden."""


class MaskedImages:
    """A dataset in which a random part of each image is hidden, for base models that fill it in.

    Adds to each sample the channels that inpainting UNets have [B, 1 + C, H, W]: the mask, 1 where the image is hidden, and the
    latents of the image with that part grey. Both are a function of (seed, step, position). The autoencoder is evaluated in
    every step, because every mask is another one. read_pixels: (image, variants) -> [V, 3, height, width] in [-1, 1].
    """

    def __init__(self, dataset: LatentDataset, read_pixels: Callable[[int, list[int]], Tensor], device: torch.device):
        self.dataset, self.read_pixels, self.device = dataset, read_pixels, device
        self.images = dataset.images

    def deal(self, step: int, positions: Sequence[int]) -> list[Batch]:
        """The samples at these positions, one batch for each shape of latents."""
        sampler = self.dataset.sampler
        return [
            self.masked(batch, [sampler.draw(step, position) for position in batch.positions], sampler.stream, step)
            for batch in self.dataset.deal(step, positions)
        ]

    def probe(self, number: int) -> Batch:
        """Fixed samples that do not depend on the draws of the steps."""
        batch = self.dataset.probe(number)
        index = {image.name: place for place, image in enumerate(self.images)}
        return self.masked(batch, [(index[name], self.images[index[name]].first) for name in batch.names], "probe", 0)

    @torch.no_grad()
    def masked(self, batch: Batch, drawn: Sequence[tuple[int, int]], stream: str, step: int) -> Batch:
        """The batch with the channels of its masks. drawn: (image, variant) of each sample."""
        space, seed = self.dataset.family.latents, self.dataset.config.seed
        space.to(self.device)
        pixels = torch.cat([self.read_pixels(image, [variant]) for image, variant in drawn])
        generators = (rng.generator(seed, f"{stream}/mask", step, position) for position in batch.positions)
        masks = torch.stack([random_mask(*pixels.shape[2:], generator) for generator in generators])
        stored = torch.cat([space.encode(each[None]).float().cpu() for each in pixels * (masks < 0.5)])
        noise = rng.normal(space.shape(stored), seed, f"{stream}/masked_latent", step, batch.positions)
        known = space.sample(stored, noise)
        return replace(batch, extra_channels=torch.cat([F.interpolate(masks, size=known.shape[2:]), known], 1))


def random_mask(height: int, width: int, generator: torch.Generator) -> Tensor:
    """[1, height, width] of 0 and 1: all 1 in half of the cases, else a rectangle or an ellipse in it, of any size at any place
    within the image, as in diffusers' train_dreambooth_inpaint."""
    whole, ellipse, *draws = torch.rand(6, generator=generator).tolist()
    if whole < WHOLE:
        return torch.ones(1, height, width)
    axes = []
    for length, size, place in zip((height, width), draws[:2], draws[2:], strict=True):
        extent = 1 + int(size * length)
        start = int(place * (length - extent + 1))
        axes.append((torch.arange(length) + 0.5 - start - extent / 2) / (extent / 2))  # -1 and 1 at its borders
    y, x = axes[0][:, None], axes[1][None]
    inside = y**2 + x**2 <= 1 if ellipse < 0.5 else torch.maximum(y.abs(), x.abs()) <= 1
    return inside.float()[None]
