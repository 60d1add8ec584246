"""What a run says of its buckets before it starts: their sizes, and how much of the images is cut off or enlarged. No torch."""

from collections import Counter
from collections.abc import Iterator, Sequence

from customize import units
from customize.data.buckets import MUCH, Size, fits
from customize.data.example import Example
from customize.printable import first_few, printable

MOST_SIZES = 12


def rows(settings, examples: Sequence[Example], resolution: int) -> Iterator[tuple[str, str]]:
    """(title, text) of the buckets, where there are several, and of what is cut off, where something is."""
    every = fits(settings, examples, resolution)
    if len(found := Counter(fit.bucket for fit in every)) > 1:
        named = [f"{in_words(size)} ({units.count(number, 'image')})" for size, number in sorted(found.items())]
        yield "buckets", first_few(named, MOST_SIZES)
    cuts = [fit.cut for fit in every]
    if cuts and max(cuts):
        mean, most = (percent(share) for share in (sum(cuts) / len(cuts), max(cuts)))
        name = printable(examples[cuts.index(max(cuts))].name)
        alike = max(cuts) == min(cuts)
        yield "cut off", f"{most} of each image" if alike else f"{mean} of an image on average, {most} of {name}"


def notes(settings, examples: Sequence[Example], resolution: int) -> list[str]:
    """A line that lists the images that are enlarged, and one with those of which much is cut off."""
    every = list(zip(examples, fits(settings, examples, resolution), strict=True))
    small = [example.name for example, fit in every if fit.enlarges(example.size)]
    found = [f"smaller than {resolution} pixels, will be enlarged: {first_few(small)}"] if small else []
    if much := [f"{example.name} ({percent(fit.cut)})" for example, fit in every if fit.cut > MUCH]:
        remedy = "crop them yourself" + ("" if settings.aspect_ratio_buckets else ", or set aspect_ratio_buckets = auto")
        found.append(f"much is cut off, since their shape is far from that of each bucket: {first_few(much)}; {remedy}")
    return found


def identity(settings, examples: Sequence[Example], resolution: int) -> str | None:
    """The buckets of a run and how many images each has, but for the square of the resolution; None if it has no others."""
    found = Counter(fit.bucket for fit in fits(settings, examples, resolution))
    others = sorted(found.keys() - {(resolution, resolution)})
    return ", ".join(f"{in_words(size)}: {found[size]}" for size in others) or None


def in_words(size: Size) -> str:
    """`640 x 384`."""
    return f"{size[0]} x {size[1]}"


def percent(share: float) -> str:
    """A share in (0, 1), in percent without digits behind the point."""
    return f"{100 * share:.0f} %" if share >= 0.005 else "under 1 %"
