"""How often a run uses each of its images."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from customize import units
from customize.data.buckets import fits, grouped
from customize.data.example import Example
from customize.data.examples import Examples
from customize.data.samples.bucket_order import batch_of
from customize.data.samples.concept_turns import Turns, stream_of


@dataclass(frozen=True)
class ImageUses:
    """How often each image of a role (subject or class) is used, at least and at most."""

    role: str
    images: int
    least: int
    most: int

    def __str__(self) -> str:
        least = "" if self.least == self.most else f"{self.least:,} {'or' if self.most == self.least + 1 else 'to'} "
        return f"{self.images:,} of the {self.role}, each shown {least}{units.count(self.most, 'time')}"


def uses_of_run(settings, examples: Examples, resolution: int, steps: int, global_batch: int) -> tuple[ImageUses, ...]:
    """How often each image is used in a whole run, by concept. Class images that are missing are generated as squares."""
    square = Example("", (), "class", Path(), (resolution,) * 2, "")
    turns = Counter(whose for whose, _ in map(Turns.of(settings, examples.instances).at, range(steps)))
    found = []
    for place, part in enumerate(settings.parts):
        for role, name, every in (("subject", "instance", examples.instances), ("class", "class", examples.classes)):
            own = [example for example in every if example.concept == place]
            own += [square] * max(0, part.class_images - len(own)) if role == "class" else []
            title = f"{role} of {part.subject}" if settings.parts[1:] else role
            if own:
                found.append(image_uses(title, stream_of(name, place), settings, own, resolution, turns[place], global_batch))
    return tuple(found)


def image_uses(
    role: str, stream: str, settings, examples: Sequence[Example], resolution: int, steps: int, global_batch: int
) -> ImageUses:
    """The uses in the first steps of a run. stream: as that of the samples (`latent_dataset.EpochSampler`)."""
    buckets = grouped(fits(settings, examples, resolution), [example.repeats for example in examples])
    sizes = tuple(map(len, buckets))
    dealt = Counter(batch_of(step, sizes, global_batch, settings.seed, stream)[0] for step in range(steps))
    found = []
    for bucket, images in enumerate(buckets):
        in_a_pass, samples = Counter(images).values(), dealt[bucket] * global_batch
        found.append((samples // len(images) * min(in_a_pass), -(-samples // len(images)) * max(in_a_pass)))
    return ImageUses(role, len(examples), min(least for least, _ in found), max(most for _, most in found))
