"""Lists a folder of images, and reads the captions beside the images."""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from customize import missing_path
from customize.data.captions.caption_files import TEXTS, Captions, read_captions
from customize.data.findings import Findings
from customize.data.images.image_file import EXTENSIONS, FORMATS
from customize.printable import first_few, printable
from customize.storage.untrusted_files import kind_of, regular_file

OTHER_PICTURES = frozenset(
    ".jxl .jp2 .j2k .psd .eps .svg .ai .tga .ppm .pgm .pbm .pnm .ico .exr .hdr"
    " .dng .cr2 .cr3 .nef .arw .raf .orf .rw2 .raw".split()
)
"""Extensions of unsupported image formats. Such files are problems, since the user meant them to be used."""

OF_DATASETS = ("state.json", "dataset_dict.json", "dataset_info.json")
"""Files of a dataset saved by `datasets`."""
ARCHIVES = (".zip", ".7z", ".rar", ".tar", ".gz", ".tgz")
MOST_FOLDERS, DEPTH = 500, 5
"""Limits of the search in subfolders, for a dataset or for what was meant instead of an empty folder."""
MASK = "-mask"
"""The end of the name of a mask, before its extension."""
MOST_LOOKED_AT = 1000
"""Files without an image extension whose first bytes are read."""


@dataclass(frozen=True)
class Listing:
    """Names of files and folders, each group sorted bytewise, without hidden ones. masks: images that are masks of others."""

    images: tuple[str, ...]
    others: tuple[str, ...]
    folders: tuple[str, ...]
    masks: tuple[str, ...] = ()


def list_folder(folder: Path, setting: str, found: Findings, leave_out: Collection[str] = ()) -> Listing | None:
    """The names in a folder, without those to leave out; None and a problem if it cannot be listed.

    An image may be a link to any file, as in the hub's cache; a text only to one in the folder or in that cache.
    """
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name))
    except (OSError, ValueError) as error:
        what = {FileNotFoundError: "does not exist", NotADirectoryError: "is a file, not a folder"}.get(type(error))
        what = what or f"cannot be listed: {getattr(error, 'strerror', None) or error}"
        found.problem(f"{setting} {folder}", what, missing_path.folder_remedy(str(folder)))
        return None
    images, others, folders = [], [], []
    for entry in entries:
        suffix = os.path.splitext(entry.name)[1].lower()
        if entry.name.startswith(".") or entry.name in leave_out:
            continue
        if os.path.isdir(entry.path):  # unlike entry.is_dir, accepts loops of links
            folders.append(entry.name)
        elif fault := _fault(entry, suffix, folder):
            found.problem(entry.path, *fault)
        else:
            (images if suffix in EXTENSIONS else others).append(entry.name)
    stems = {os.path.splitext(name)[0] for name in images}
    masks = [name for name in images if is_mask(name, stems)]
    if masks:
        use = "used in the evaluation, and with masked_loss in training"
        found.remark(folder, f"masks of images, not images to learn ({len(masks)}): {first_few(masks)}; {use}")
    kept = set(images) - set(masks)
    return Listing(tuple(name for name in images if name in kept), tuple(others), tuple(folders), tuple(masks))


def is_mask(name: str, stems: Collection[str]) -> bool:
    """Whether an image is by its name the mask of another, as `cat-mask.png` of `cat.jpg`. stems: names without extension."""
    stem = os.path.splitext(name)[0]
    return stem.endswith(MASK) and stem.removesuffix(MASK) in stems


def folder_captions(
    folder: Path, listing: Listing, column: str | None, found: Findings, with_subfolders: bool = False
) -> Captions:
    """The captions beside the images (column None: not read), and a line that lists ignored files.

    with_subfolders: the subfolders are not ignored, since their images are read as well.
    """
    captions = Captions()
    if column is not None:
        captions = read_captions(folder, listing.images, listing.others, column, found, listing.folders)
    ignored = [name for name in listing.others if name not in captions.used]
    if renamed := [name for name in ignored[:MOST_LOOKED_AT] if _is_image(folder / name)]:
        what = "images without an image extension, not used"
        found.note(folder, f"{what} ({len(renamed)}): {first_few(renamed)}; rename them, as in photo.jpg")
        ignored = [name for name in ignored if name not in renamed]
    within = {name.split("/")[0] for name in captions.of if "/" in name}
    ignored += [] if with_subfolders else [name for name in listing.folders if name not in within]
    if ignored:
        found.remark(folder, f"ignored, not images ({len(ignored)}): {first_few(ignored)}")
    return captions


def walk_subfolders(folder: Path, depth: int = DEPTH) -> Iterator[str]:
    """The subfolders, as a/b, in order; links are not followed, hidden folders are skipped."""
    for parent, names, _ in os.walk(folder):
        subfolder = os.path.relpath(parent, folder)
        names[:] = sorted((name for name in names if not name.startswith((".", "__"))), key=os.fsencode)
        if subfolder != ".":
            yield subfolder.replace(os.sep, "/")
            if subfolder.count(os.sep) >= depth - 1:
                names.clear()


def is_tree_of_images(folder: Path) -> bool:
    """Whether a folder and its subfolders contain images, and no dataset in another format."""
    if not folder.is_dir():
        return False
    subfolders = ["", *(subfolder for _, subfolder in zip(range(MOST_FOLDERS), walk_subfolders(folder), strict=False))]
    names = [name.lower() for subfolder in subfolders for name in _names(folder / subfolder)]
    if any(name in OF_DATASETS or name.endswith((".parquet", ".arrow", ".py", *ARCHIVES)) for name in names):
        return False
    return any(os.path.splitext(name)[1] in EXTENSIONS for name in names)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def meant_instead(folder: Path, listing: Listing) -> tuple[str, str]:
    """(what is wrong, remedy) for a folder without images: suggests where they are, if they are near."""
    if remedy := missing_path.no_images_remedy(folder, ""):
        return "contains no images", remedy
    subfolders = [subfolder for _, subfolder in zip(range(MOST_FOLDERS), walk_subfolders(folder, depth=3), strict=False)]
    full = sorted(
        ((missing_path.num_images(folder / subfolder), subfolder) for subfolder in subfolders), key=lambda each: -each[0]
    )
    if full and full[0][0]:
        meant = printable(str(folder / full[0][1]))
        others = sum(count > 0 for count, _ in full) - 1
        more = f", or {others} more such folder{'s' * (others > 1)} in it" if others else ""
        return "contains no images", f"did you mean {meant}? ({missing_path.contents(meant)}{more})"
    renamed = [name for name in listing.others[:MOST_LOOKED_AT] if _is_image(folder / name)]
    if renamed:
        return "contains no files with an image extension", f"rename them to end in .jpg or .png: {first_few(renamed, 3)}"
    archives = [name for name in listing.others if name.lower().endswith(ARCHIVES)]
    if archives:
        return "contains no images", f"unpack {first_few(archives, 3)}, and give the unpacked folder"
    return "contains no images", f"put some there ({' '.join(sorted(EXTENSIONS))})"


def _is_image(path: Path) -> bool:
    """Whether the first bytes of a file are those of an image."""
    try:
        with regular_file(path) as file:
            return kind_of(file.read(16)).endswith(" image")
    except (OSError, ValueError):
        return False


def _fault(entry: os.DirEntry[str], suffix: str, folder: Path) -> tuple[str, str] | None:
    """What is wrong with a file that the user meant to be used, and the remedy."""
    if suffix in OTHER_PICTURES:
        remedy = f"save it as one of {', '.join(FORMATS)}, or move it elsewhere"
        return f"is an image in an unsupported format ({suffix})", remedy
    if suffix in TEXTS and entry.is_symlink() and not _stays(entry.path, folder):
        return "is a link to a file outside the folder", "replace it by the file itself, or remove the link"
    return None


def _stays(link: str, folder: Path) -> bool:
    """Whether a link points into the folder, or to the same dataset in the hub's cache (snapshots/... -> blobs/...)."""
    target, here = Path(os.path.realpath(link)), Path(os.path.realpath(folder))
    caches = [parent.parent for parent in here.parents if parent.name == "snapshots"]
    return target.is_relative_to(here) or any(target.is_relative_to(cache / "blobs") for cache in caches)
