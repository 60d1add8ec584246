"""The configurations included in the package. CONFIG.toml on a command line may be the name of one."""

import os
from pathlib import Path

PLACES = (Path(__file__).parents[2] / "configs", Path(__file__).parents[3] / "configs")
"""In an installed package, and in a source checkout."""


def folder() -> Path | None:
    """The folder of the configurations, if it exists."""
    return next((place for place in PLACES if place.is_dir()), None)


def config_names() -> list[str]:
    """The names of the configurations, without .toml and without those in gallery/."""
    found = folder()
    return sorted(path.stem for path in found.glob("*.toml")) if found else []


def config_path(name: str) -> Path | None:
    """The file of an included configuration by its name, with or without configs/ and .toml."""
    found = folder()
    stem = name.replace("\\", "/").removeprefix("configs/").removesuffix(".toml")
    if not found or not stem or ".." in stem or stem.startswith(("/", "~")):
        return None
    path = found / f"{stem}.toml"
    return path if path.is_file() else None


def located(path: str) -> str:
    """The path of an example image folder that a configuration gives relative to the sources; other paths are unchanged."""
    if path.startswith("customize/demo/") and not os.path.lexists(path):
        return str(PLACES[0].parents[1] / path)
    return path
