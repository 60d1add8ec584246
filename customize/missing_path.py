"""Suggestions for paths that do not exist or are not what they should be."""

import os
import re
import unicodedata
from collections.abc import Iterator
from difflib import SequenceMatcher, get_close_matches
from pathlib import Path

from customize.printable import first_few, printable

IMAGES = frozenset(".png .jpg .jpeg .jpe .jfif .pjpeg .pjp .webp .bmp .dib .tif .tiff .avif .heic .heif .hif .mpo".split())
MOST = 2000  # entries of a folder that are read
DEEPEST = 40  # parts of a path


def remedy_for_missing(path: str, otherwise: str) -> str:
    """The remedy for a path that does not exist: the most similar one, or another likely cause."""
    if re.match(r"[a-z]{2,}:/+", path, re.IGNORECASE):
        return "it is a web address: download it first, then give the file or folder"
    if variable := re.search(r"\$\{?(\w+)\}?|%(\w+)%", path):
        name = variable[1] or variable[2]
        return f"the shell did not replace {variable[0]}: write the folder itself, or set {name} and use double quotes"
    if found := similar(path):
        about = contents(found)
        return f"did you mean {printable(found)}?" + (f" ({about})" if about else "")
    if re.match(r"[A-Za-z]:[\\/]", path) and os.sep == "/":
        return f"it is a Windows path; in WSL it is /mnt/{path[0].lower()}/{path[3:]}".replace("\\", "/")
    parent = os.path.dirname(path)
    existing = names(Path(os.path.expanduser(parent))) if parent else []
    return f"{otherwise}; in {printable(parent)}: {first_few(existing, 5)}" if existing else otherwise


def similar(path: str) -> str | None:
    """An existing path that was likely meant, if any."""
    text = os.path.expanduser(path)
    return next((each for each in _others(text) if each and each != text and os.path.exists(each)), None)


def _others(text: str) -> Iterator[str | None]:
    yield text.strip(" \t\r\n'\"`,;\u201c\u201d\u2018\u2019")
    slashes = text.replace("\\", "/")
    if drive := re.match(r"([A-Za-z]):/(.*)", slashes):
        yield f"/mnt/{drive[1].lower()}/{drive[2]}"
    yield slashes
    yield walked(slashes)
    if not drive:
        yield f"/{slashes}" if not slashes.startswith("/") else slashes.lstrip("/")
        parts = [part for part in slashes.split("/") if part not in ("", ".")][:DEEPEST]
        yield from ("/".join(parts[start:]) for start in range(1, len(parts)))
        yield "/".join(["..", *parts]) if not slashes.startswith(("/", "..")) else None


def walked(text: str) -> str | None:
    """The existing path whose parts are each the most similar to the given ones."""
    here = Path("/" if text.startswith("/") else ".")
    for part in [part for part in text.split("/") if part not in ("", ".")][:DEEPEST]:
        if part == ".." or os.path.lexists(here / part):
            here = here / part
            continue
        found = most_similar(part, names(here))
        if not found:
            return None
        here = here / found
    return str(here)


def most_similar(name: str, known: list[str]) -> str | None:
    """The known name that differs only in case, Unicode form, blanks, - and _, or extension; otherwise the most similar."""
    stem = _plain(os.path.splitext(name)[0])
    same = [each for each in known if _plain(each) == _plain(name)]
    same = same or [each for each in known if stem and _plain(os.path.splitext(each)[0]) == stem]
    if not same:
        stems = {_plain(os.path.splitext(each)[0]) for each in known}
        close = get_close_matches(stem, sorted(stems), 1, 0.8 if len(stem) < 5 else 0.7)
        same = [each for each in known if close and _plain(os.path.splitext(each)[0]) == close[0]]
    return max(same, key=lambda each: SequenceMatcher(None, name, each).ratio(), default=None)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", unicodedata.normalize("NFKC", name[:300]).casefold())


def names(folder: Path) -> list[str]:
    """The first `MOST` names in a folder that are not hidden; none if it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            found = [entry.name for entry, _ in zip(entries, range(MOST), strict=False) if not entry.name.startswith(".")]
    except (OSError, ValueError):  # a path with a null byte
        return []
    return sorted(found)


def num_images(folder: Path) -> int:
    """The number of images in a folder, by extension."""
    return sum(os.path.splitext(name)[1].lower() in IMAGES for name in names(folder))


def is_image_name(path: str) -> bool:
    """Whether a path has the extension of an image."""
    return os.path.splitext(path)[1].lower() in IMAGES


def is_run(folder: Path) -> bool:
    """Whether a folder is a run folder."""
    return (folder / "config.toml").is_file() and any(
        (folder / name).exists() for name in ("checkpoints", "customize.json", "log.jsonl")
    )


def contents(path: str) -> str:
    """What a folder contains, in a few words; may be empty."""
    folder = Path(path)
    if not folder.is_dir():
        return ""
    if is_run(folder):
        return "it is a run folder"
    if (folder / "model_index.json").is_file():
        return "it is a base model"
    count = num_images(folder)
    if count:
        return f"it contains {count} image{'s' * (count > 1)}"
    return "" if names(folder) else "it is empty"


def folders_below(folder: Path) -> list[str]:
    """The folders in a folder that contain images, the one with most images first."""
    counts = {name: num_images(folder / name) for name in names(folder)[:200] if (folder / name).is_dir()}
    return sorted((name for name, count in counts.items() if count), key=lambda name: -counts[name])


def folder_remedy(path: str) -> str:
    """The remedy for a path that should be a folder of images, but does not exist or is a file."""
    otherwise = "give the folder that contains the images"
    if not os.path.isfile(path):
        return remedy_for_missing(path, otherwise)
    parent = os.path.dirname(path) or "."
    if is_image_name(path):
        return f"did you mean its folder, {printable(parent)}? ({contents(parent)})"
    if path.lower().endswith(".toml"):
        return "a configuration comes first, without a flag: COMMAND CONFIG.toml --setting value"
    if path.lower().endswith((".zip", ".rar", ".7z", ".tar", ".gz", ".tgz")):
        return "unpack it, and give the unpacked folder"
    return otherwise


def image_remedy(path: str) -> str:
    """The remedy for a path that should be an image, but does not exist or is a folder."""
    if not os.path.isdir(path):
        return remedy_for_missing(path, "give an existing image")
    inside = [name for name in names(Path(path)) if is_image_name(name)]
    return f"give one image, such as {printable(os.path.join(path, inside[0]))}" if inside else "give an image"


def weights_remedy(folder: Path) -> str:
    """The remedy for a folder without learned weights."""
    runs = [name for name in names(folder)[:200] if (folder / name).is_dir() and _has_weights(folder / name)]
    if runs:
        return f"did you mean {printable(os.path.join(folder, runs[0]))}?"
    files = [name for name in names(folder) if name.endswith(".safetensors")]
    if files:
        return f"give the file: {printable(os.path.join(folder, files[0]))}"
    if count := num_images(folder):
        return f"it contains {count} images: learned weights are a run folder or a .safetensors file"
    return "has the run finished? otherwise give the file"


def _has_weights(folder: Path) -> bool:
    marks = ("learned_embeds", "pytorch_lora_weights", "model_index.json", "model.safetensors")
    return any(name.startswith(marks) for name in names(folder))


def no_images_remedy(folder: Path, otherwise: str) -> str:
    """The remedy for a folder without images: a folder in it, or the one that contains it."""
    below = folders_below(folder)
    if below:
        others = f", or {len(below) - 1} more such folder{'s' * (len(below) > 2)} in it" if len(below) > 1 else ""
        inner = os.path.join(folder, below[0])
        return f"did you mean {printable(inner)}? ({contents(inner)}{others})"
    above = folder.parent
    if str(folder) not in (".", "..") and num_images(above) and not names(folder):
        return f"did you mean {printable(str(above))}? ({contents(str(above))})"
    return otherwise
