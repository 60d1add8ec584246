"""Rules about augmentation. See `rule.py`."""

from collections.abc import Iterator

from customize.errors import Problem
from customize.settings.rules.rule import rule
from customize.settings.training_parts.augmentation_settings import ALL


@rule("crop_variants", *ALL)
def augmentation_has_crops(crop_variants: int, *reaches: float) -> Iterator[Problem]:
    """The first crop of an image is never augmented."""
    if crop_variants == 1 and (given := [name for name, reach in zip(ALL, reaches, strict=True) if reach]):
        what = f"is 1, and the first crop of an image stays as it is, so {' and '.join(given)} has no effect"
        yield Problem("crop_variants", what, "set it to 4 or more")
