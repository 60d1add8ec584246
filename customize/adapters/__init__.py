"""Adapters: which parameters of a network are trained, and how the result is saved, loaded and merged. One module per type.

To add a type, add a module with a class `Adapter`, which implements the protocol below, and a pydantic model `Settings`.
`--adapter NAME` follows from the module's name; its settings join those of DreamBooth. A type that peft implements is a
subclass of `peft_layers.PeftAdapter` and needs little more than peft's configuration. Adapter modules import torch and peft
inside their functions, so that `--help` and checks of a file's header stay fast.

W is a weight [out, in, ...] of the base model.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel

from customize.families.specs.network_names import NetworkNames
from customize.settings.field import Setting, table, united
from customize.storage.safetensors_header import Header

if TYPE_CHECKING:
    from torch import Tensor, nn

    from customize.families.base import Family as Family

NONE = "none"
"""The value of the setting `adapter` that trains all weights; its module is `full`."""


class Adapter(Protocol):
    """How networks are made trainable, and how the result is saved, loaded, scaled and measured.

    Where the result is a complete model (`full`), nothing below `save` is called.

    peft_type: the type in the metadata of files that `load` reads, as in peft's configuration ("LORA"); empty without such files.
    title: its name in messages, such as "LoRA"; empty: that of its module.
    is_converted: whether the result holds other tensors than the trained ones.
    kinds: the kinds of tensors (`lora_keys.KINDS`) that mark its files where no type does.
    learning_rate: the default of the setting `learning_rate`.
    read_by_others: whether other programs (ComfyUI, A1111; diffusers for a complete model) read the files.
    """

    peft_type: str
    title: str
    learning_rate: float
    read_by_others: bool
    kinds: Collection[str]
    is_converted: bool

    def attach(self, networks: "Sequence[nn.Module]", settings, presets: Mapping[str, Sequence[str]]) -> None:
        """Makes the parameters that are trained require a gradient, in float32. presets: `Family.lora_targets`."""

    def notes(self, settings, num_images: int) -> Iterable[str]:
        """What the user should know of these settings with so many images."""

    def disabled(self, *networks: "nn.Module") -> AbstractContextManager:
        """A context in which the networks compute what the base model does. Raises InputError where that is impossible."""

    def name_in_files(self, name: str, networks: Mapping[str, NetworkNames]) -> str:
        """The name of a trained parameter, such as `unet.mid_block...`, in files. networks: `FamilySpec.networks`."""

    def description(self, family: "Family") -> dict[str, str]:
        """Metadata that `load` needs: the adapter's configuration in each network."""

    def files(self, settings) -> tuple[str, ...]:
        """The names of the files that `save` writes."""

    def save(self, folder: Path, family: "Family", metadata: dict[str, str], settings) -> list[Path]:
        """Writes the result into the folder; returns the files."""

    def load(
        self, network: "nn.Module", name: str, tensors: "Mapping[str, Mapping[str, Tensor]]", description: Mapping[str, Any]
    ) -> None:
        """Adds a saved adapter to a network for inference, under the name `name` and at scale 1.

        tensors: by module of the network, then by what follows the module in their names; description: the adapter's
        configuration in the file, {} if there is none. Raises InputError if the two contradict each other.
        """

    def start_from(
        self, network: "nn.Module", tensors: "Mapping[str, Mapping[str, Tensor]]", description: Mapping[str, Any]
    ) -> list[str]:
        """Copies a saved adapter into the attached one, to continue its training; returns the modules that do not fit."""

    def settings_in(
        self, path: Path, header: Header, description: Mapping[str, Any], recorded: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The adapter's settings that fit a file, without torch. recorded: those in its metadata, {} if there are none.

        Raises InputError, without naming the file, if such an adapter cannot be trained on from the file.
        """

    def set_scale(self, layer: Any, name: str, scale: float) -> None:
        """Scales the loaded adapter `name` in one layer. At 0 the layer computes exactly what the base model does, at 1 what
        was learned."""

    def delta_weight(self, layer: Any, name: str) -> "Tensor | None":
        """The change [out, in, ...] of the layer's W at the present scale; None if the adapter does not change W."""

    def factors(self, layer: Any, name: str) -> "tuple[Tensor, Tensor] | None":
        """The change of W at the present scale as a product: float64 [out, rank, ...] and [rank, in, ...]; None if it is not
        of low rank."""

    def not_low_rank(self, names: Collection[str]) -> str:
        """Why the tensors of a file with these names have no `factors`, as the end of a sentence; empty if they have."""


def modules() -> Iterator[str]:
    """The names of the modules that define an adapter."""
    for module in iter_modules(__path__):
        if hasattr(import_module(f"{__name__}.{module.name}"), "Adapter"):
            yield module.name


def names() -> Iterator[str]:
    """The values of the setting `adapter`. Does not import torch."""
    yield NONE
    yield from sorted(name for name in modules() if name != "full")


def build(name: str) -> Adapter:
    """The adapter of that name."""
    return import_module(f"{__name__}.{'full' if name == NONE else name}").Adapter()


def settings_model(name: str) -> type[BaseModel]:
    """The settings that the adapter of that name declares; `NONE` has none."""
    return import_module(f"{__name__}.{name}").Settings if name != NONE else BaseModel


def settings_of(name: str) -> Mapping[str, Setting]:
    """The settings of the adapter of that name, with its own defaults and ranges."""
    return table(settings_model(name))


def learning_rates() -> dict[str, float]:
    """The default learning rate with each value of the setting `adapter`."""
    return {name: build(name).learning_rate for name in names()}


def settings() -> type[BaseModel]:
    """A model of the settings of all adapters. Each has an effect only with the adapters that declare it.

    Defaults and ranges may differ between adapters; `settings_of` has those of one.
    """
    return united({name: settings_model(name) for name in names() if name != NONE}, "adapter", may_be_none=True)


@cache
def by_peft_type() -> Mapping[str, str]:
    """The name of the adapter that saves and loads each of peft's types."""
    return {peft_type: name for name in names() if (peft_type := build(name).peft_type)}
