"""What a path that is not there, or is something else than it should be, was meant to be."""

import os
import re
import unicodedata
from collections.abc import Iterator
from difflib import SequenceMatcher, get_close_matches
from pathlib import Path

from customize.printable import first_few, printable

IMAGES = frozenset(".png .jpg .jpeg .jpe .jfif .pjpeg .pjp .webp .bmp .dib .tif .tiff .avif .heic .heif .hif .mpo".split())
MOST = 2000  # entries of a folder that are looked at
DEEPEST = 40  # parts of a path


def remedy_for_missing(path: str, otherwise: str) -> str:
    """What to do about a path that is not there: the one that is written most like it, or what else is likely."""
    if re.match(r"[a-z]{2,}:/+", path, re.IGNORECASE):
        return "it is an address on the web: download it first, then name the file or folder"
    if variable := re.search(r"\$\{?(\w+)\}?|%(\w+)%", path):
        name = variable[1] or variable[2]
        return f"{variable[0]} was not replaced by the shell: write the folder itself, or set {name} and use double quotes"
    if found := similar(path):
        about = described(found)
        return f"did you mean {printable(found)}?" + (f" ({about})" if about else "")
    if re.match(r"[A-Za-z]:[\\/]", path) and os.sep == "/":
        return f"it is a path of Windows; in WSL it is /mnt/{path[0].lower()}/{path[3:]}".replace("\\", "/")
    parent = os.path.dirname(path)
    there = names(Path(os.path.expanduser(parent))) if parent else []
    return f"{otherwise}; in {printable(parent)}: {first_few(there, 5)}" if there else otherwise


def similar(path: str) -> str | None:
    """A path that is there and was likely meant, if there is one."""
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
    """The path whose every part is the one that is written most like the given one."""
    here = Path("/" if text.startswith("/") else ".")
    for part in [part for part in text.split("/") if part not in ("", ".")][:DEEPEST]:
        if part == ".." or os.path.lexists(here / part):
            here = here / part
            continue
        found = alike(part, names(here))
        if not found:
            return None
        here = here / found
    return str(here)


def alike(name: str, known: list[str]) -> str | None:
    """The known name that is the same but for case, accents' encoding, blanks, - and _, or ending; else the nearest one."""
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
    """The names in a folder that are not hidden, the first `MOST`; none where it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            found = [entry.name for entry, _ in zip(entries, range(MOST), strict=False) if not entry.name.startswith(".")]
    except OSError:
        return []
    return sorted(found)


def num_images(folder: Path) -> int:
    """How many images lie in a folder, by their names."""
    return sum(os.path.splitext(name)[1].lower() in IMAGES for name in names(folder))


def is_image_name(path: str) -> bool:
    """Whether a path is called as an image."""
    return os.path.splitext(path)[1].lower() in IMAGES


def is_run(folder: Path) -> bool:
    """Whether a folder is one of a training run."""
    return (folder / "config.toml").is_file() and any(
        (folder / name).exists() for name in ("checkpoints", "customize.json", "log.jsonl")
    )


def described(path: str) -> str:
    """What a path holds, in a few words; empty where there is nothing to say."""
    folder = Path(path)
    if not folder.is_dir():
        return ""
    if is_run(folder):
        return "it is the folder of a run"
    if (folder / "model_index.json").is_file():
        return "it is a base model"
    count = num_images(folder)
    if count:
        return f"it holds {count} image{'s' * (count > 1)}"
    return "" if names(folder) else "it is empty"


def folders_below(folder: Path) -> list[str]:
    """The folders in a folder that hold images, the fullest first."""
    counts = {name: num_images(folder / name) for name in names(folder)[:200] if (folder / name).is_dir()}
    return sorted((name for name, count in counts.items() if count), key=lambda name: -counts[name])


def folder_remedy(path: str) -> str:
    """What to do about a path that is no folder of images, because it is not there or is a file."""
    otherwise = "name the folder that holds the images"
    if not os.path.isfile(path):
        return remedy_for_missing(path, otherwise)
    parent = os.path.dirname(path) or "."
    if is_image_name(path):
        return f"did you mean its folder, {printable(parent)}? ({described(parent)})"
    if path.lower().endswith(".toml"):
        return "a configuration stands first, without a flag: COMMAND CONFIG.toml --setting value"
    if path.lower().endswith((".zip", ".rar", ".7z", ".tar", ".gz", ".tgz")):
        return "unpack it, and name the folder that comes out"
    return otherwise


def image_remedy(path: str) -> str:
    """What to do about a path that is no image, because it is not there or is a folder."""
    if not os.path.isdir(path):
        return remedy_for_missing(path, "name an image that is there")
    inside = [name for name in names(Path(path)) if is_image_name(name)]
    return f"name one image, such as {printable(os.path.join(path, inside[0]))}" if inside else "name an image"


def weights_remedy(folder: Path) -> str:
    """What to do about a folder that holds no learned weights."""
    runs = [name for name in names(folder)[:200] if (folder / name).is_dir() and _has_weights(folder / name)]
    if runs:
        return f"did you mean {printable(os.path.join(folder, runs[0]))}?"
    files = [name for name in names(folder) if name.endswith(".safetensors")]
    if files:
        return f"name the file: {printable(os.path.join(folder, files[0]))}"
    if count := num_images(folder):
        return f"it holds {count} images: learned weights are in the folder of a training run, or a .safetensors file"
    return "has the run finished? or name the file"


def _has_weights(folder: Path) -> bool:
    marks = ("learned_embeds", "pytorch_lora_weights", "model_index.json")
    return any(name.startswith(marks) for name in names(folder))


def no_images_remedy(folder: Path, otherwise: str) -> str:
    """What to do about a folder without images: those of a folder in it, or of the one that it is in."""
    below = folders_below(folder)
    if below:
        others = f", or {len(below) - 1} more such folder{'s' * (len(below) > 2)} in it" if len(below) > 1 else ""
        inner = os.path.join(folder, below[0])
        return f"did you mean {printable(inner)}? ({described(inner)}{others})"
    above = folder.parent
    if str(folder) not in (".", "..") and num_images(above) and not names(folder):
        return f"did you mean {printable(str(above))}? ({described(str(above))})"
    return otherwise
