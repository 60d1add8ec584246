"""What frozen networks say about images and captions, computed once; of many images and captions, when a step first needs it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter

import torch
from torch import Tensor

from customize.data.crops import Variant, all_pixels
from customize.data.example import Example
from customize.data.samples.latents_cache import NoCache
from customize.data.samples.on_demand import Kept, Variants, nbytes
from customize.families.base import Family
from customize.families.conditioning import Conditioning

Place = tuple[int, int]
"""(image, variant)."""


@torch.no_grad()
def encode_crops(
    family: Family, needed: Iterable[Place], read_pixels: Callable[[int, list[int]], Tensor]
) -> Iterator[tuple[Place, Tensor]]:
    """Encodes every (image, variant) once; yields each with what is stored of it, float32 on the CPU.

    One at a time: what a network gives for an image can differ in the last bits with what else is in the batch, and a
    resumed run needs fewer of them. read_pixels: (image, variants) -> [V, 3, height, width] in [-1, 1].
    """
    for image, keys in groupby(sorted(needed), key=itemgetter(0)):
        variants = [variant for _, variant in keys]
        for variant, pixels in zip(variants, read_pixels(image, variants), strict=True):
            yield (image, variant), family.latents.encode(pixels[None])[0].float().cpu()


class CropEncoder:
    """Encodes crops of these examples that the cache does not have. cuts: the crops of each."""

    def __init__(
        self, family: Family, examples: Sequence[Example], cuts: Sequence[Sequence[Variant]], interpolation: str,
        cache: NoCache, device: torch.device,
    ):  # fmt: skip
        self.family, self.examples, self.cuts, self.interpolation = family, examples, cuts, interpolation
        self.cache, self.device = cache, device

    def read_pixels(self, image: int, variants: list[int]) -> Tensor:
        """[V, 3, height, width] in [-1, 1]. Raises ResourceError if the image has changed since it was checked."""
        arrays = all_pixels(self.examples[image], [self.cuts[image][variant] for variant in variants], self.interpolation)
        return torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 127.5 - 1

    def now(self, needed: Iterable[Place]) -> list[dict[int, Tensor]]:
        """What is stored of these: by variant, for each image. The autoencoder leaves the device."""
        keys = {place: self.key(place) for place in needed}
        stored = self.cache.recall(keys)
        self.family.latents.to(self.device)
        for place, found in encode_crops(self.family, keys.keys() - stored.keys(), self.read_pixels):
            self.cache.keep(keys[place], found)
            stored[place] = found
        self.family.latents.to("cpu")
        of_image: list[dict[int, Tensor]] = [{} for _ in self.examples]
        for (image, variant), found in stored.items():
            of_image[image][variant] = found
        return of_image

    def on_demand(self) -> list[Variants]:
        """The same of all variants of each image, each when it is asked for; some are kept in memory."""
        kept = Kept(self.one, nbytes, self.cache.memory)
        return [Variants(kept, image, len(own)) for image, own in enumerate(self.cuts)]

    def one(self, place: Place) -> Tensor:
        """What is stored of one. The autoencoder stays on the device."""
        key = self.key(place)
        if (found := self.cache.read(key)) is not None:
            return found
        self.family.latents.to(self.device)
        [(_, found)] = encode_crops(self.family, [place], self.read_pixels)
        self.cache.keep(key, found)
        return found

    def key(self, place: Place) -> str:
        """The name of its entry in the cache."""
        image, variant = place
        return self.cache.key(self.examples[image], self.cuts[image][variant], self.interpolation)


@torch.no_grad()
def encode_each_caption(
    family: Family, captions: Iterable[str], min_chunks: int = 1, clip_skip: int | None = None
) -> dict[str, Conditioning]:
    """Evaluates the frozen text encoder once for every caption; returns one row for each, of `min_chunks` chunks or more."""
    options = {"min_chunks": min_chunks, "clip_skip": clip_skip}
    return {caption: family.encode_prompts([caption], **options) for caption in sorted(set(captions))}


class EncodedInTheStep(dict[str, Conditioning]):
    """The conditioning of captions that were encoded before, and of any other, which is encoded when it is asked for. most: the
    bytes of others that are kept.

    Of captions whose tags are drawn none is kept: 20 tags have 20! orders, so that hardly one comes twice. Each is encoded by
    itself, and not in the number format of the step, so that its bits are those of one that was encoded before.
    """

    def __init__(self, family: Family, known: dict[str, Conditioning], min_chunks: int, clip_skip: int | None, most: int = 0):
        super().__init__(known)
        self.family, self.options = family, {"min_chunks": min_chunks, "clip_skip": clip_skip}
        self.others = Kept(self.encode, bytes_of, most)

    def __missing__(self, caption: str) -> Conditioning:
        return self.others(caption)

    @torch.no_grad()
    def encode(self, caption: str) -> Conditioning:
        """The conditioning of one caption."""
        with torch.autocast(self.family.device.type, enabled=False):
            return self.family.encode_prompts([caption], **self.options)


def bytes_of(conditioning: Conditioning) -> int:
    """The bytes of its tensors."""
    return sum(tensor.nbytes for tensor in conditioning.tensors.values())
