"""What of a network learns: one module each, whose name is the value of the setting `adapter`.

To add one, put a module with a class `Adapter` here that has what `Adapter` below asks for; `--adapter NAME` and its
`--help` follow from the file's name.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import nn

    from customize.families.stable_diffusion import StableDiffusion

NONE = "none"
"""The setting's value for training all weights, which is the module `full`."""


class Adapter(Protocol):
    """How a method that fine-tunes networks makes them learn and saves what they learned."""

    def attach(self, networks: "Sequence[nn.Module]", settings) -> None:
        """Makes those of the networks' parameters that learn require a gradient; they are float32, and so they stay."""

    def off(self, *networks: "nn.Module") -> AbstractContextManager:
        """Within it the networks answer as the base model. Raises InputError where that cannot be."""

    def name_in_files(self, name: str) -> str:
        """What a parameter of the networks is called in files of weights."""

    def description(self, family: "StableDiffusion") -> dict[str, str]:
        """What a file of such weights must say of itself, so that loaders understand it."""

    def save(self, folder: Path, family: "StableDiffusion", metadata: dict[str, str]) -> list[Path]:
        """Writes the result by `weights.save_lora` or `weights.save_pipeline`, whose formats are read back; returns the files."""


def names() -> Iterator[str]:
    """The values of the setting `adapter`; torch is not imported for them."""
    yield NONE
    yield from sorted(module.name for module in iter_modules(__path__) if module.name != "full")


def build(name: str) -> Adapter:
    """The adapter of that name."""
    return import_module(f"{__name__}.{'full' if name == NONE else name}").Adapter()
