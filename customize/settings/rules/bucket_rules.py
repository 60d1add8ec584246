"""Rules about aspect-ratio buckets, and how their sizes are written. See `rule.py`."""

import re
from collections.abc import Iterator

from customize.errors import Problem
from customize.settings.rules.rule import rule

AUTO = "auto"
"""The value of `aspect_ratio_buckets` that computes them from the resolution."""
LATENT = 8
"""Pixels that the sides of a bucket are a multiple of: those of a latent of the usual autoencoders."""
SHORTEST, LONGEST = 16, 4096


def parsed(text: str) -> tuple[tuple[int, int], ...]:
    """The sizes (width, height) in a text such as `832,1216;1216,832`, which has heights and widths, as diffusers' scripts take.

    Raises ValueError.
    """
    found = set()
    for pair in text.split(";"):
        match = re.fullmatch(r"\s*(\d{1,6})\s*,\s*(\d{1,6})\s*", pair)
        if not match:
            raise ValueError(f'"{pair.strip()}" is not a height and a width')
        height, width = map(int, match.groups())
        if height % LATENT or width % LATENT or min(height, width) < SHORTEST or max(height, width) > LONGEST:
            raise ValueError(f"{height},{width}: sides are multiples of {LATENT}, from {SHORTEST} to {LONGEST}")
        found.add((width, height))
    return tuple(sorted(found))


@rule("aspect_ratio_buckets")
def buckets_are_sizes(aspect_ratio_buckets: str | None) -> Iterator[Problem]:
    """Buckets are computed, or a list of sizes."""
    if aspect_ratio_buckets not in (None, AUTO):
        try:
            parsed(aspect_ratio_buckets)
        except ValueError as error:
            remedy = "give auto, none, or heights and widths as in 832,1216;1216,832"
            yield Problem("aspect_ratio_buckets", str(error), remedy)


@rule("resolution", "min_bucket_reso", "max_bucket_reso")
def square_is_between(resolution: int | None, min_bucket_reso: int | None, max_bucket_reso: int | None) -> Iterator[Problem]:
    """The square of a given resolution is among the buckets; `preflight` checks that of the base model."""
    if resolution is not None:
        yield from bound_problems(resolution, min_bucket_reso, max_bucket_reso)


def bound_problems(resolution: int, min_bucket_reso: int | None, max_bucket_reso: int | None) -> Iterator[Problem]:
    """The problems of bounds between which the resolution is not."""
    if min_bucket_reso is not None and min_bucket_reso > resolution:
        what = f"is {min_bucket_reso}, above the resolution of {resolution}"
        yield Problem("min_bucket_reso", what, "give less, or leave it out")
    if max_bucket_reso is not None and max_bucket_reso < resolution:
        what = f"is {max_bucket_reso}, below the resolution of {resolution}"
        yield Problem("max_bucket_reso", what, "give more, or leave it out")


RULES = (buckets_are_sizes, square_is_between)
