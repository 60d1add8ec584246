"""One image of a training run, with its captions: decoded once when it is checked, and read again when it is used."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Literal

from PIL import Image

from customize.data.hub_dataset import Row
from customize.data.images.image_file import open_image
from customize.data.images.similarity import Features
from customize.errors import InputError, ResourceError
from customize.printable import printable

Role = Literal["instance", "class"]


@dataclass(frozen=True)
class Mask:
    """Which part of an image the loss is about: see `data.mask_files`. source: where it is read from, that of the image if its
    transparency is the mask; digest: hash of its pixels."""

    source: Path | Row | Image.Image
    digest: str


@dataclass(frozen=True)
class Example:
    """One image and its captions."""

    name: str
    """Unique among the examples of its role, across folders."""
    captions: tuple[str, ...]
    """One of them is drawn per use."""
    role: Role
    source: Path | Row | Image.Image
    """Where the image is read from; an image is in memory."""
    size: tuple[int, int]
    """(width, height) of the upright image."""
    digest: str
    """Hash of the upright image's pixels."""
    features: Features | None = None
    """None for class images."""
    mask: Mask | None = None
    """None where the whole image is learned."""
    repeats: int = 1
    """How often an epoch uses it, before the setting `repeats`."""
    concept: int = 0
    """Which of the concepts of a run it is of."""

    def open(self) -> Image.Image:
        """The upright image, mode RGB, read from its source. Raises ResourceError if it changed since it was checked."""
        try:
            image = open_source(self.source)
            what = "" if digest_of(image) == self.digest else f"{printable(str(self.source))}: is a different image now"
        except InputError as error:
            what = "; ".join(f"{problem.where}: {problem.what}" for problem in error.problems)
        if what:
            remedy = "start again, and do not change images while they are in use"
            raise ResourceError(f"an image has changed since it was checked\n    {what}\n    -> {remedy}")
        return image


def of_folder(name: str, index: int, num_folders: int) -> str:
    """The name of an example of one of the folders of a run, from that of its file."""
    return f"{index + 1}/{name}" if num_folders > 1 else name


def of_concept(example: Example, place: int, count: int) -> Example:
    """The example as one of a concept, of the `count` concepts of a run."""
    return replace(example, name=of_folder(example.name, place, count), concept=place)


def in_turn_of_concepts(examples: Sequence[Example]) -> list[Example]:
    """The examples, the first of each concept before the second of any."""
    count: Counter[int] = Counter()
    numbered = []
    for example in examples:
        numbered.append((count[example.concept], example.concept))
        count[example.concept] += 1
    return [examples[place] for place in sorted(range(len(examples)), key=numbered.__getitem__)]


def open_source(source: Path | Row | Image.Image, remarks: list[str] | None = None) -> Image.Image:
    """The upright image, mode RGB. remarks: receives lines on its colours. Raises InputError."""
    if isinstance(source, Image.Image):
        return source.convert("RGB")
    return open_image(source if isinstance(source, Path) else source.read(), str(source), remarks=remarks)


def digest_of(image: Image.Image) -> str:
    """A hash of the pixels."""
    return blake2b(image.tobytes(), key=str(image.size).encode(), digest_size=16).hexdigest()
