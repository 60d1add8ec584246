"""What is odd about the images of a run: identical, nearly identical and blurred ones. No torch."""

from collections.abc import Sequence

from customize.data.example import Example
from customize.data.findings import Findings
from customize.data.images.similarity import SHARP, near_duplicates
from customize.printable import first_few

MANY = 5
"""Groups of identical images, and pairs of nearly identical ones, up to which each is named."""


def blurred(instances: Sequence[Example]) -> list[Example]:
    """The examples without a sharp edge at the resolution of the run."""
    return [example for example in instances if example.features and example.features.sharpness < SHARP]


def near_duplicate_pairs(instances: Sequence[Example]) -> list[tuple[Example, Example]]:
    """Pairs of images that are nearly but not exactly the same, most similar first."""
    measured = [example for example in instances if example.features]
    pairs = near_duplicates([example.features for example in measured if example.features])
    return [(measured[i], measured[j]) for i, j in pairs if measured[i].digest != measured[j].digest]


def note_peculiarities(instances: Sequence[Example], resolution: int, found: Findings) -> None:
    """A note on each kind of odd images. resolution: of the run."""
    if len(instances) == 1:
        found.notes.append("there is only one image; three to ten different ones work better")
    by_digest: dict[str, list[str]] = {}
    for example in instances:
        by_digest.setdefault(example.digest, []).append(example.name)
    identical = [names for names in by_digest.values() if len(names) > 1]
    if len(identical) <= MANY:
        found.notes.extend(f"these images are identical: {first_few(names)}" for names in identical)
    else:
        named = first_few([f"{names[0]} and {first_few(names[1:], 1)}" for names in identical], MANY)
        found.notes.append(f"identical images, in {len(identical):,} groups: {named}")
    if pairs := near_duplicate_pairs(instances):
        named = first_few([f"{one.name} and {other.name}" for one, other in pairs], MANY)
        found.notes.append(f"these images are nearly identical: {named}")
    if soft := blurred(instances):
        found.notes.append(f"blurred (no sharp edge at {resolution} pixels): {first_few([one.name for one in soft])}")
