"""Base models. `load` gives a family object whatever the user named: demo, a folder, a file, a hub model."""

from customize.families.source import Source, locate

__all__ = ["Source", "load", "locate"]


def load(source: Source):
    """Loads what `locate` found, in float32 on the CPU; returns a `StableDiffusion`. Raises InputError."""
    from customize.families.loading import load

    return load(source)
