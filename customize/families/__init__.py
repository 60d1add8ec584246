"""Base models. `load` gives a family object whatever the user named: demo, a folder, a file, a hub model."""

from importlib import import_module
from typing import TYPE_CHECKING

from customize.families.source import Source, locate
from customize.families.specs import named

if TYPE_CHECKING:
    from customize.families.base import Family, Placement

__all__ = ["Source", "load", "locate"]


def load(source: Source, placement: "Placement | None" = None) -> "Family":
    """Loads what `locate` found, by its family's own function. placement: float32 on the CPU if none. Raises InputError."""
    from customize.families.base import Placement

    module, _, function = named(source.family).load.partition(":")
    return getattr(import_module(module), function)(source, placement or Placement())
