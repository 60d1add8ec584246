"""Decodes each image of a run once, before a model is loaded, and says what is known of it from then on.

With a folder for that (the latents cache's), what was found is kept there, so that the next run decodes only files of other
bytes. torch is not imported.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from customize import events
from customize.data.example import digest_of, open_source
from customize.data.hub_dataset import Row
from customize.data.images.image_file import MAX_BYTES, open_image
from customize.data.images.similarity import Features, measure
from customize.errors import InputError
from customize.storage.atomic import write_text
from customize.storage.json_files import read_object
from customize.storage.untrusted_files import MIB, read_bytes

NAME, MOST_BYTES = "checked_images.json", 256 * MIB
RULES = 1
"""Number of the rules by which images are decoded and measured; to be raised when one changes."""
WORKERS = min(4, os.cpu_count() or 1)
"""Threads that decode; each may hold an image of 64 million pixels."""
SHOWN = 500
"""Images of which more are shown as progress."""


@dataclass(frozen=True)
class Facts:
    """What is known of an intact image: size (width, height) and hash of the upright image, its features if it is measured, and
    remarks on its colours."""

    size: tuple[int, int]
    digest: str
    features: Features | None
    remarks: tuple[str, ...]

    @classmethod
    def of(cls, source: Path | Row | bytes, name: str, resolution: int | None) -> "Facts":
        """Decodes an image. resolution: at which it is measured; None: it is not. Raises InputError if it is not intact."""
        remarks: list[str] = []
        image = open_image(source, name, remarks=remarks) if isinstance(source, bytes) else open_source(source, remarks)
        return cls(image.size, digest_of(image), measure(image, resolution) if resolution else None, tuple(remarks))

    def as_json(self) -> list[Any]:
        """For `from_json`."""
        seen = self.features and [self.features.fingerprint, self.features.colours.hex(), self.features.sharpness]
        return [*self.size, self.digest, seen, *self.remarks]

    @classmethod
    def from_json(cls, value: Any) -> "Facts":
        """Raises ValueError or TypeError for anything that `as_json` does not return."""
        width, height, digest, seen, *remarks = value
        features = seen and Features(int(seen[0]), bytes.fromhex(seen[1]), float(seen[2]))
        whole = type(width) is type(height) is int and min(width, height) > 0 and len(bytes.fromhex(digest)) == 16
        if not whole or not all(isinstance(each, str) for each in remarks) or (features and len(features.colours) != 48):
            raise ValueError("not facts of an image")
        return cls((width, height), digest, features, tuple(remarks))


@dataclass(frozen=True)
class CheckedImages:
    """The facts of images, by the SHA-256 of their bytes. resolution: at which they are measured; None: they are class images,
    which are not measured; path: of the file in which facts are kept; None: none are; read: the number that it had."""

    resolution: int | None = None
    path: Path | None = None
    known: dict[str, Facts] = field(default_factory=dict)
    read: int = 0

    @classmethod
    def of(cls, folder: str | None, resolution: int | None) -> "CheckedImages":
        """Those that are kept in a folder; None: none."""
        if folder is None:
            return cls(resolution)
        known = read_facts(Path(folder) / NAME)
        return cls(resolution, Path(folder) / NAME, known, len(known))

    def of_class(self) -> "CheckedImages":
        """The same for class images."""
        return replace(self, resolution=None)

    def check(self, sources: Mapping[str, Path | Row]) -> Iterator[tuple[str, Facts | InputError]]:
        """The facts of each image, or what is wrong with it, in order."""

        def one(name: str) -> Facts | InputError:
            try:
                return self.facts(sources[name])
            except InputError as error:
                return error

        total = len(sources)
        with (
            warnings.catch_warnings(action="ignore"),
            ThreadPoolExecutor(WORKERS) as pool,
        ):  # warning filters are global to the process
            for done, (name, found) in enumerate(zip(sources, pool.map(one, sources), strict=True), 1):
                if total > SHOWN:
                    events.emit(events.Progress("images checked", "image", done, total))
                yield name, found

    def facts(self, source: Path | Row) -> Facts:
        """The facts of an image. Raises InputError for one that is not intact."""
        if self.path is None or not (data := bytes_of(source)):
            return Facts.of(source, str(source), self.resolution)
        key = f"{hashlib.sha256(data).hexdigest()} {self.resolution or 0}"
        if key not in self.known:
            self.known[key] = Facts.of(data, str(source), self.resolution)
        return self.known[key]

    def save(self) -> None:
        """Writes the file, if something was found that it lacks."""
        if self.path and len(self.known) > self.read:
            facts = {key: facts.as_json() for key, facts in self.known.items()}
            write_text(self.path, json.dumps({"rules": rules(), "images": facts}))


def bytes_of(source: Path | Row) -> bytes:
    """The bytes of an image; none where there is no file of usual size, which `open_source` reports."""
    if isinstance(source, Row):
        source = source.read()
    try:
        return source if isinstance(source, bytes) else read_bytes(source, MAX_BYTES)
    except OSError:
        return b""


def rules() -> dict[str, str]:
    """What facts depend on besides the bytes of an image."""
    return {"rules": str(RULES), **{name: version(name) for name in ("pillow", "numpy")}}


def read_facts(path: Path) -> dict[str, Facts]:
    """The facts in a file; none if there is no file, or one of other rules, or, with a note, if it is damaged."""
    try:
        found = read_object(path, MOST_BYTES)
        return {key: Facts.from_json(value) for key, value in found["images"].items()} if found["rules"] == rules() else {}
    except (FileNotFoundError, NotADirectoryError):  # a file instead of the folder is reported with the settings
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        events.note(f"{path} is damaged ({error!r}) and will be written again")
        return {}
