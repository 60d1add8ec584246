"""Base models. `load` gives a family object whatever the user named: demo, a folder, a file, a hub model."""

from importlib import import_module
from typing import TYPE_CHECKING

from customize.families.source import Source, in_folder, locate
from customize.families.specs import spec_of

if TYPE_CHECKING:
    from customize.families.base import Family, Placement

__all__ = ["Source", "load", "locate"]


def load(source: Source, placement: "Placement | None" = None) -> "Family":
    """Loads what `locate` found, by its family's own function; a model on the hub is downloaded, and checked, first.

    placement: float32 on the CPU if none. Raises InputError."""
    from customize.families.base import Placement

    if not (source.folder or source.file):
        from customize.families.loading import download

        source = in_folder(source, download(source.name, source.revision, source.variant))
    module, _, function = spec_of(source).load.partition(":")
    return getattr(import_module(module), function)(source, placement or Placement())
