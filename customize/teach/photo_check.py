"""Which files of a folder can be learned from, and what is odd about them, by the checks of a training run. No torch."""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from customize.data.captions.caption_tables import DEFAULT_COLUMN
from customize.data.examples import USUAL_RESOLUTION
from customize.data.findings import Findings
from customize.data.folder import Listing, folder_captions, list_folder, meant_instead
from customize.data.images.checked_images import CheckedImages, Facts
from customize.data.images.similarity import SHARP, near_duplicates
from customize.errors import InputError, Problem
from customize.printable import first_few, printable
from customize.settings.texts import text_fault

FEW = 3
"""Fewer photos hardly show what belongs to the subject and what to its surroundings."""


@dataclass(frozen=True)
class Photo:
    """A usable image. size: width and height, upright; remarks: what is odd about it, such as that it is blurred; captions: those
    beside it."""

    name: str
    size: tuple[int, int]
    remarks: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class LeftOut:
    """A file that is not used, and why. remedy: empty where the user left it out."""

    name: str
    reason: str
    remedy: str = ""


@dataclass(frozen=True)
class Photos:
    """The images of a folder, those that are left out, and notes on the whole. leave_out: the names that a run must not read."""

    folder: str
    usable: tuple[Photo, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]

    @property
    def leave_out(self) -> tuple[str, ...]:
        return tuple(each.name for each in self.left_out)

    @property
    def captions(self) -> tuple[str, ...]:
        """All captions that lie beside the images."""
        return tuple(caption for photo in self.usable for caption in photo.captions)


def look(folder: str | Path, leave_out: Collection[str] = ()) -> Photos:
    """Decodes every image of a folder. leave_out: names of files that the user does not want to use.

    Raises InputError for no folder, and for one without a usable image.
    """
    path, listed = Path(os.path.expanduser(folder)), Findings()
    listing = list_folder(path, "FOLDER", listed, leave_out)
    if listing is None:
        raise InputError(listed.problems)
    if strangers := [name for name in leave_out if not os.path.lexists(path / name)]:
        what = f"{first_few(strangers)} {'is' if len(strangers) == 1 else 'are'} not in {printable(str(folder))}"
        raise InputError(Problem("--leave_out", what, "give names of files in the folder"))
    left_out = [LeftOut(name, "you left it out") for name in leave_out]
    shown = {printable(os.path.join(path, name)): name for name in os.listdir(path)}
    left_out += [LeftOut(shown[each.where], each.what, each.remedy) for each in listed.problems]
    facts: dict[str, Facts] = {}
    for name, found in CheckedImages(USUAL_RESOLUTION).check({name: path / name for name in listing.images}):
        if isinstance(found, InputError):
            left_out += [LeftOut(name, each.what, each.remedy) for each in found.problems]
        else:
            facts[name] = found
    if not facts:
        raise InputError(nothing_usable(path, listing, left_out))
    if problems := [*unnameable(path, left_out)]:
        raise InputError(problems)
    captions, notes = captions_and_notes(path, listing, [*facts], [*listed.remarks])
    usable = [Photo(name, each.size, remarks_on(each), captions.get(name, ())) for name, each in facts.items()]
    return Photos(str(folder), tuple(usable), tuple(left_out), (*few(facts), *oddities(facts), *notes))


def unnameable(folder: Path, left_out: Sequence[LeftOut]) -> Iterator[Problem]:
    """The problems of files to leave out whose names settings cannot hold."""
    for each in left_out:
        if fault := text_fault("path", each.name):
            what = f"{each.reason}, and cannot be left out by its name, which {fault}"
            yield Problem(printable(os.path.join(folder, each.name)), what, "rename or remove it")


def nothing_usable(folder: Path, listing: Listing, left_out: Sequence[LeftOut]) -> list[Problem]:
    """The problems of a folder without a usable image: of each image in it, or where images are."""
    if faulty := [each for each in left_out if each.remedy]:
        return [Problem(printable(str(folder / each.name)), each.reason, each.remedy) for each in faulty]
    if left_out:
        return [Problem("--leave_out", "leaves no image to learn from", "leave out fewer")]
    return [Problem(f"FOLDER {printable(str(folder))}", *meant_instead(folder, listing))]


def captions_and_notes(
    folder: Path, listing: Listing, images: list[str], remarks: list[str]
) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """The captions beside the images, and notes on what else is in the folder. Raises InputError for faulty captions."""
    found = Findings(remarks=remarks)
    captions = folder_captions(folder, replace(listing, images=tuple(images)), DEFAULT_COLUMN, found)
    found.raise_problems()
    where = f"{printable(str(folder))}: "
    return (
        {name: tuple(each.text for each in texts) for name, texts in captions.of.items()},
        [line.removeprefix(where) for line in (*found.notes, *found.remarks)],
    )


def few(facts: Mapping[str, Facts]) -> Iterator[str]:
    """A note on too few photos."""
    if len(facts) < FEW:
        number = "there is only one photo" if len(facts) == 1 else f"there are only {len(facts)} photos"
        yield f"{number}, which hardly show what belongs to the subject and what surrounds it; five to ten are better"


def oddities(facts: Mapping[str, Facts]) -> Iterator[str]:
    """Notes on photos that are the same, nearly the same, or blurred."""
    by_digest: dict[str, list[str]] = {}
    for name, each in facts.items():
        by_digest.setdefault(each.digest, []).append(name)
    for names in by_digest.values():
        if len(names) > 1:
            yield f"the same picture: {first_few(names)}; it counts {'twice' if len(names) == 2 else f'{len(names)} times'}"
    measured = [(name, each.features) for name, each in facts.items() if each.features]
    pairs = near_duplicates([features for _, features in measured])
    near = [(measured[i][0], measured[j][0]) for i, j in pairs if facts[measured[i][0]].digest != facts[measured[j][0]].digest]
    if near:
        yield f"nearly the same: {first_few([f'{one} and {other}' for one, other in near], 5)}"
    if soft := [name for name, features in measured if features.sharpness < SHARP]:
        yield f"blurred (no sharp edge at {USUAL_RESOLUTION} pixels): {first_few(soft)}"


def remarks_on(facts: Facts) -> tuple[str, ...]:
    """What is odd about one photo."""
    soft = facts.features is not None and facts.features.sharpness < SHARP
    small = min(facts.size) < USUAL_RESOLUTION
    words = [*facts.remarks, *["blurred"] * soft, *[f"small: {facts.size[0]} x {facts.size[1]} pixels"] * small]
    return tuple(map(printable, words))
