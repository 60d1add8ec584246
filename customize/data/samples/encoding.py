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


class EncodedInTheStep(dict[str, Conditioning]):
    """The conditioning of captions that were encoded before, and of any other, which is encoded when it is asked for.

    For captions whose tags are drawn: 20 tags have 20! orders, so that hardly one comes twice, and none is kept. Each is encoded
    by itself, and not in the number format of the step, so that its bits are those of one that was encoded before.
    """

    def __init__(self, family: Family, known: dict[str, Conditioning], min_chunks: int, clip_skip: int | None):
        super().__init__(known)
        self.family, self.options = family, {"min_chunks": min_chunks, "clip_skip": clip_skip}

    @torch.no_grad()
    def __missing__(self, caption: str) -> Conditioning:
        with torch.autocast(self.family.device.type, enabled=False):
            return self.family.encode_prompts([caption], **self.options)
