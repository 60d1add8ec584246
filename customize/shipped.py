"""The configurations that come with the program: `customize configs` lists them, and CONFIG.toml may be one's name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

PLACES = (Path(__file__).parent / "configs", Path(__file__).parents[1] / "configs")
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


def in_place(config: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a configuration; in one of ours, examples of the package are named where they lie."""
    found = folder()
    if not found or not Path(config).absolute().is_relative_to(found.absolute()):
        return dict(values)
    return {name: _located(value) for name, value in values.items()}


def _located(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("customize/demo/") and not Path(value).exists():
        return str(PLACES[0].parents[1] / value)
    return value
