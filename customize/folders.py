"""A folder of pictures: what lies in it, told by name, and the captions beside the pictures."""

import os
from dataclasses import dataclass
from pathlib import Path

from customize import near
from customize.caption_files import read_captions
from customize.captions import Caption
from customize.findings import Findings, first_few
from customize.images import EXTENSIONS, FORMATS

OTHER_PICTURES = frozenset(
    ".gif .apng .jxl .jp2 .j2k .psd .eps .svg .ai .tga .ppm .pgm .pbm .pnm .ico .exr .hdr"
    " .dng .cr2 .cr3 .nef .arw .raf .orf .rw2 .raw".split()
)
"""Extensions of pictures that are not read. They are problems: who has them in the folder means them to be used."""


@dataclass(frozen=True)
class Listing:
    """Names of files and folders, each group sorted bytewise; hidden ones are in none."""

    pictures: tuple[str, ...]
    others: tuple[str, ...]
    folders: tuple[str, ...]


def list_folder(folder: Path, setting: str, found: Findings) -> Listing | None:
    """The names in a folder; None and a problem where it cannot be listed. Links must stay inside the folder."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name))
    except (OSError, ValueError) as error:
        what = {FileNotFoundError: "does not exist", NotADirectoryError: "is a file, not a folder"}.get(type(error))
        what = what or f"cannot be listed: {getattr(error, 'strerror', None) or error}"
        found.problem(f"{setting} {folder}", what, near.folder_remedy(str(folder)))
        return None
    inside = os.path.realpath(folder)
    pictures, others, folders = [], [], []
    for entry in entries:
        suffix = os.path.splitext(entry.name)[1].lower()
        if entry.name.startswith("."):
            continue
        if os.path.isdir(entry.path):  # unlike entry.is_dir, at peace with loops of links
            folders.append(entry.name)
        elif fault := _fault(entry, suffix, inside):
            found.problem(entry.path, *fault)
        else:
            (pictures if suffix in EXTENSIONS else others).append(entry.name)
    return Listing(tuple(pictures), tuple(others), tuple(folders))


def folder_captions(folder: Path, listing: Listing, column: str | None, found: Findings) -> dict[str, tuple[Caption, ...]]:
    """The captions beside the pictures (column None: not looked for), and a note on the files that are of no use."""
    captions: dict[str, tuple[Caption, ...]] = {}
    used: set[str] = set()
    if column is not None:
        captions, used = read_captions(folder, listing.pictures, listing.others, column, found)
    ignored = [*(name for name in listing.others if name not in used), *listing.folders]
    if ignored:
        found.remark(folder, f"ignored, not pictures ({len(ignored)}): {first_few(ignored)}")
    return captions


def _fault(entry: os.DirEntry[str], suffix: str, inside: str) -> tuple[str, str] | None:
    """What is wrong with a file that the user meant to be used, and the remedy."""
    if suffix in OTHER_PICTURES:
        remedy = f"save it as one of {', '.join(FORMATS)}, or move it away"
        return f"is a picture of a kind that is not read ({suffix})", remedy
    meant = suffix in EXTENSIONS or suffix in (".txt", ".jsonl", ".csv")
    if meant and entry.is_symlink() and not Path(os.path.realpath(entry.path)).is_relative_to(inside):
        return "is a link that leads out of the folder", "put the file itself there, or move the link away"
    return None
