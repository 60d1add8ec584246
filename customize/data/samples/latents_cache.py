"""A cache of encoded images (`LatentSpace.encode`) in a folder, shared by runs and keyed by content.

An entry's name is a hash of everything that determines its values, so an edited image, another crop or another
autoencoder gets a new entry, and runs can share the folder. A damaged entry is recomputed. Nothing is ever removed.
"""

import hashlib
import json
from collections.abc import Hashable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from customize import events
from customize.data.crops import Variant
from customize.data.examples import Example
from customize.data.samples.on_demand import BYTES, BYTES_BESIDE_FILES
from customize.errors import InputError
from customize.families.latents import LatentSpace, hash_of
from customize.storage.atomic import write_bytes
from customize.storage.manifest import sha256

Place = TypeVar("Place", bound=Hashable)


class NoCache:
    """A cache that stores nothing. memory: the bytes that are worth keeping in memory beside it."""

    memory = BYTES

    def key(self, example: Example, cut: Variant, interpolation: str) -> str:
        """The name of an entry."""
        return ""

    def recall(self, keys: Mapping[Place, str]) -> dict[Place, Tensor]:
        """The stored moments of each image that has an intact entry."""
        return {}

    def read(self, key: str) -> Tensor | None:
        """The stored moments of an intact entry, if there is one."""
        return None

    def keep(self, key: str, moments: Tensor) -> None:
        """Write an entry atomically."""


class LatentsCache(NoCache):
    """A folder of entries. device: the device on which images are encoded."""

    memory = BYTES_BESIDE_FILES

    def __init__(self, folder: Path, latents: LatentSpace, device: torch.device):
        self.folder, self.latents = folder, latents
        self.hashes: dict[object, str] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.facts = {
            **latents.identity(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "tf32": torch.backends.cuda.matmul.allow_tf32,
            "versions": {name: version(name) for name in ("torch", "diffusers", "pillow")},
        }

    def key(self, example: Example, cut: Variant, interpolation: str) -> str:
        if example.source not in self.hashes:
            self.hashes[example.source] = content(example)
        image = {"sha256": self.hashes[example.source], "pixels": example.digest, "interpolation": interpolation}
        key = hashlib.sha256(json.dumps({**self.facts, **image, **asdict(cut)}, sort_keys=True).encode()).hexdigest()
        self.shapes[key] = self.latents.stored_shape(cut.height, cut.width)
        return key

    def recall(self, keys: Mapping[Place, str]) -> dict[Place, Tensor]:
        found = {place: self.read(key) for place, key in keys.items()}
        return {place: moments for place, moments in found.items() if moments is not None}

    def read(self, key: str) -> Tensor | None:
        """The moments of an entry; None if there is none, or, with a note, if it is damaged."""
        path = self.path(key)
        try:
            with safe_open(path, "pt") as file:
                about, moments = file.metadata() or {}, file.get_tensor("moments")
            sound = moments.shape == self.shapes[key] and moments.is_floating_point() and bool(moments.isfinite().all())
            if sound and about == {"key": key, "sha256": hash_of({"moments": moments})}:
                return moments
            fault = "it has changed since it was written"
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError) as error:
            fault = str(error)
        events.note(f"{path} is damaged ({fault}) and will be recomputed")
        return None

    def keep(self, key: str, moments: Tensor) -> None:
        write_bytes(self.path(key), save({"moments": moments}, {"key": key, "sha256": hash_of({"moments": moments})}))

    def path(self, key: str) -> Path:
        """The file of an entry, in one of 256 subfolders, since a write looks through the folder for leftovers."""
        return self.folder / key[:2] / f"{key}.safetensors"


def content(example: Example) -> str:
    """SHA-256 of the image file's bytes; empty if it cannot be read, which `Example.open` reports."""
    try:
        source = example.source if isinstance(example.source, Path) else example.source.read()
        return sha256(source) if isinstance(source, Path) else hashlib.sha256(source).hexdigest()
    except (OSError, InputError):
        return ""
