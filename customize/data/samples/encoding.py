"""What frozen networks say about images and captions, computed once."""

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from operator import itemgetter

import torch
from torch import Tensor

from customize.families.base import Family
from customize.families.conditioning import Conditioning


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
