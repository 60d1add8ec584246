"""The images of the workspace: folders of infer.py, also those made in a terminal, the newest first, and the settings in each."""

import os
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from customize.storage.json_files import json_object
from customize.storage.untrusted_files import read_text

IMAGE = re.compile(r"([0-9]{3,6})\.(?:png|jpg|webp)")
BESIDE = {"trace": "-trace.html", "strip": "-trace.png", "attention": "-attention.png", "turning": "-illusion.gif"}
"""What may lie beside an image, by the end of its name after the image's number."""
MOST_CONFIG, MOST_LISTING = 1_000_000, 20_000_000
INPUTS = "inputs"
"""The folder of input images and masks that the page writes; it is not listed."""


@dataclass(frozen=True)
class ImageOfFolder:
    """An image file, the prompt of its folder's newest job, and the files beside it by kind."""

    path: Path
    prompt: str
    beside: dict[str, Path] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The folder and the file, which name the image within the workspace."""
        return f"{self.path.parent.name}/{self.path.name}"


@dataclass(frozen=True)
class FolderOfImages:
    """A folder that infer.py wrote. sheets: contact sheets of its jobs; changed: unix seconds."""

    path: Path
    changed: float
    prompt: str
    images: tuple[ImageOfFolder, ...]
    sheets: tuple[Path, ...]


def folders(images: Path, most: int = 20) -> list[FolderOfImages]:
    """The newest folders with at least one image. images: the folder images/ of the workspace, which may be missing."""
    found: list[FolderOfImages] = []
    for changed, path in _newest(images):
        if (folder := _read(path, changed)).images:
            found.append(folder)
        if len(found) == most:
            break
    return found


def state(images: Path) -> tuple[tuple[str, float], ...]:
    """A value that changes whenever an image is added to or removed from a folder."""
    return tuple((path.name, changed) for changed, path in _newest(images))


def find(images: Path, name: str) -> ImageOfFolder | None:
    """The image of this name (`FOLDER/FILE`); None for any other text, such as a path that leaves the folder."""
    folder, slash, file = name.partition("/")
    if not slash or folder in ("", ".", "..") or "/" in file or not IMAGE.fullmatch(file) or set("\\\0") & set(name):
        return None
    path = images / folder / file
    if path.parent.is_symlink() or path.is_symlink() or not path.is_file():
        return None
    return next((each for each in _read(path.parent, 0).images if each.path == path), None)


def beside(image: ImageOfFolder) -> tuple[ImageOfFolder, ...]:
    """All images of its folder."""
    return _read(image.path.parent, 0).images


def trace_rows(image: ImageOfFolder) -> list[dict]:
    """The recorded evaluations of an image: its lines of trace.jsonl, those of its last recording where there are several."""
    number, rows = int(image.path.stem), []
    for listing in sorted(image.path.parent.glob("trace*.jsonl")):
        try:
            text = read_text(listing, MOST_LISTING)
        except (OSError, ValueError):
            continue
        own = [row for line in text.splitlines() if (row := _object(line)).get("image") == number]
        starts = [at for at, row in enumerate(own) if row.get("step") == 0 and (at == 0 or own[at - 1].get("step") != 0)]
        rows = own[starts[-1] :] if starts else rows
    return rows


def _newest(images: Path) -> list[tuple[float, Path]]:
    try:
        with os.scandir(images) as entries:
            own = [entry for entry in entries if entry.name != INPUTS and not entry.name.startswith(".")]
            found = [(entry.stat().st_mtime, Path(entry.path)) for entry in own if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    return sorted(found, reverse=True)


def _read(path: Path, changed: float) -> FolderOfImages:
    try:
        names = sorted(os.listdir(path))
    except OSError:
        names = []
    prompt, here = _prompt(path, names), set(names)
    images = []
    for name in names:
        if found := IMAGE.fullmatch(name):
            beside = {kind: path / f"{found[1]}{end}" for kind, end in BESIDE.items() if f"{found[1]}{end}" in here}
            images.append(ImageOfFolder(path / name, prompt, beside))
    sheets = tuple(path / name for name in names if re.fullmatch(r"sheet(-[0-9]{3,6})?\.png", name))
    return FolderOfImages(path, changed, prompt, tuple(images), sheets)


def _prompt(path: Path, names: list[str]) -> str:
    """The prompts of the newest config.toml of a folder, joined; empty where there is none."""
    configs = [name for name in names if re.fullmatch(r"config(-[0-9]{3,6})?\.toml", name)]
    for name in sorted(configs, key=lambda name: (name != "config.toml", name), reverse=True):
        try:
            return " / ".join(_prompts(tomllib.loads(read_text(path / name, MOST_CONFIG))))
        except (OSError, ValueError):
            continue
    return ""


def _prompts(document: dict) -> Iterator[str]:
    for table in (document, *(value for value in document.values() if isinstance(value, dict))):
        own = table.get("prompt", ())
        yield from (
            each for each in ([own] if isinstance(own, str) else own if isinstance(own, list) else []) if str is type(each)
        )


def _object(line: str) -> dict:
    try:
        return json_object(line)
    except ValueError:
        return {}
