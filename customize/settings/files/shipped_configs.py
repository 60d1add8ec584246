"""The configurations that come with the program. CONFIG.toml on a command line may be the name of one."""

import os
from pathlib import Path

PLACES = (Path(__file__).parents[2] / "configs", Path(__file__).parents[3] / "configs")
"""In an installed program, and in a copy of its sources."""


def folder() -> Path | None:
    """Where they lie, if they are there."""
    return next((place for place in PLACES if place.is_dir()), None)


def config_names() -> list[str]:
    """The names of the configurations of jobs, without .toml; those of the gallery are in gallery/."""
    found = folder()
    return sorted(path.stem for path in found.glob("*.toml")) if found else []


def config_path(name: str) -> Path | None:
    """The file of a configuration that comes with the program, by its name, with or without configs/ and .toml."""
    found = folder()
    stem = name.replace("\\", "/").removeprefix("configs/").removesuffix(".toml")
    if not found or not stem or ".." in stem or stem.startswith(("/", "~")):
        return None
    path = found / f"{stem}.toml"
    return path if path.is_file() else None


def located(path: str) -> str:
    """Where an example lies that the configurations name from the top of the sources; any other path as it is."""
    if path.startswith("customize/demo/") and not os.path.lexists(path):
        return str(PLACES[0].parents[1] / path)
    return path
