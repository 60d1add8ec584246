"""Adapters: which parameters of a network are trained, and how they are saved and loaded. One file per type.

To add a type, put a module here with a class `Adapter` that has the methods of the protocol below, and a pydantic model
`Settings` of its settings. `--adapter NAME` follows from the file's name, and its settings are part of DreamBooth's. Adapter
modules import torch and peft inside their functions, so that `--help` and the checks of a file's header stay fast.

`peft_layers` has the parts that adapters made of peft's layers have in common.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from copy import copy
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel, create_model
from pydantic.fields import FieldInfo

from customize.families.specs.network_names import NetworkNames

if TYPE_CHECKING:
    from torch import Tensor, nn

    from customize.families.base import Family as Family

NONE = "none"
"""The setting's value for training all weights, which is the module `full`."""


class Adapter(Protocol):
    """How a method that fine-tunes networks makes them learn, saves what they learned, and loads it again.

    peft_type: what a file says in its metadata of the kind of adapter it holds, as in peft's configuration ("LORA"); empty
    where the result is no adapter.
    """

    peft_type: str

    def attach(self, networks: "Sequence[nn.Module]", settings, presets: Mapping[str, Sequence[str]]) -> None:
        """Makes those of the networks' parameters that learn require a gradient; they are float32 and stay float32.

        presets: the base model's groups of modules, `Family.lora_targets`."""

    def disabled(self, *networks: "nn.Module") -> AbstractContextManager:
        """A context in which the networks predict as the base model does. Raises InputError where that is impossible."""

    def name_in_files(self, name: str, networks: Mapping[str, NetworkNames]) -> str:
        """The name that a learned parameter, such as `unet.mid_block...`, has in files of weights.

        networks: what files call those of the base model, `FamilySpec.networks`."""

    def description(self, family: "Family") -> dict[str, str]:
        """Metadata without which a file of these weights cannot be loaded: the configuration of each network's adapter."""

    def files(self, settings) -> tuple[str, ...]:
        """The names of what `save` writes."""

    def save(self, folder: Path, family: "Family", metadata: dict[str, str], settings) -> list[Path]:
        """Writes the result into the folder; returns the files."""

    def load(
        self, network: "nn.Module", name: str, tensors: "Mapping[str, Mapping[str, Tensor]]", description: Mapping[str, Any]
    ) -> None:
        """Adds a saved adapter to a network for inference, as the adapter `name`, at scale 1.

        tensors: by module of the network, then by what each is beside it; description: the adapter's configuration in the
        file, {} where it has none. Raises InputError when the two contradict each other.
        """

    def start_from(
        self, network: "nn.Module", tensors: "Mapping[str, Mapping[str, Tensor]]", description: Mapping[str, Any]
    ) -> list[str]:
        """Copies a saved adapter into the attached one, which then learns on; returns the modules that have no place for it."""


def modules() -> Iterator[str]:
    """The names of the modules here that hold an adapter."""
    for module in iter_modules(__path__):
        if hasattr(import_module(f"{__name__}.{module.name}"), "Adapter"):
            yield module.name


def names() -> Iterator[str]:
    """The values of the setting `adapter`; torch is not imported for them."""
    yield NONE
    yield from sorted(name for name in modules() if name != "full")


def build(name: str) -> Adapter:
    """The adapter of that name."""
    return import_module(f"{__name__}.{'full' if name == NONE else name}").Adapter()


def settings_of(name: str) -> Mapping[str, FieldInfo]:
    """The settings of the adapter of that name, as pydantic's fields."""
    return import_module(f"{__name__}.{name}").Settings.model_fields


def settings() -> type[BaseModel]:
    """A model of the settings of all adapters. Each has an effect with those adapters only that declare it."""
    own = {adapter: settings_of(adapter) for adapter in names() if adapter != NONE}
    fields: dict[str, Any] = {name: (field.annotation, copy(field)) for found in own.values() for name, field in found.items()}
    for name, (_, field) in fields.items():
        owners = [adapter for adapter, found in own.items() if name in found]
        only_with = {"setting": "adapter", "values": [] if len(owners) == len(own) else owners}
        field.json_schema_extra = {**field.json_schema_extra, "only_with": only_with}
    return create_model("AdapterSettings", **fields)


@cache
def by_peft_type() -> Mapping[str, str]:
    """The name of the adapter that saves and loads each of peft's types."""
    return {peft_type: name for name in names() if (peft_type := build(name).peft_type)}
