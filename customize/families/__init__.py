"""Base models. `load` returns a family object for any base model: demo, a folder, a file, a hub model."""

from importlib import import_module
from typing import TYPE_CHECKING

from customize.families.source import Source, in_folder, locate
from customize.families.specs import spec_of

if TYPE_CHECKING:
    from customize.families.base import Family, Placement

__all__ = ["Source", "load", "locate"]


def load(source: Source, placement: "Placement | None" = None) -> "Family":
    """Loads a base model that `locate` found, with the function of its family. A hub model is downloaded and checked first.

    placement: by default the CPU, in float32. Raises InputError."""
    from customize.families.base import Placement

    if source.is_remote:
        from customize.families.loading import download

        source = in_folder(source, download(source))
    module, _, function = spec_of(source).load.partition(":")
    return getattr(import_module(module), function)(source, placement or Placement())
