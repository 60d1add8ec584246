"""Which packages are installed, and whether they are those that this program was made for. Nothing is imported."""

import re
import sys
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from customize.machine.finding import Finding

SHOWN = (
    "torch", "diffusers", "transformers", "accelerate", "peft", "safetensors", "pillow", "pillow-heif", "bitsandbytes", "gradio",
)  # fmt: skip
"""Those whose versions matter most, in the order of `customize --version`."""
SOURCES = Path(__file__).parents[2] / "pyproject.toml"


def requirements() -> list[Requirement]:
    """What the program needs, with its extras: of the installed package, or of the sources beside it."""
    with suppress(PackageNotFoundError):
        return [Requirement(line) for line in requires("customize") or ()]
    with suppress(OSError, ValueError):
        project = tomllib.loads(SOURCES.read_text(encoding="utf-8"))["project"]
        extras = [(name, line) for name, lines in project["optional-dependencies"].items() for line in lines]
        lines = [*project["dependencies"], *(f'{line}; extra == "{name}"' for name, line in extras)]
        return [Requirement(line) for line in lines]
    return []


def installed(name: str) -> str | None:
    """The installed version of a package; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """The versions of Python and of the most important packages; those that are missing are left out."""
    found = {name: installed(name) for name in SHOWN}
    python = ".".join(map(str, sys.version_info[:3]))
    return {"python": python, **{name: number for name, number in found.items() if number}}


def findings() -> Iterator[Finding]:
    """Each package that is needed, where it is missing or of another version; one line for all others."""
    good = 0
    for need in requirements():
        if need.marker and not need.marker.evaluate():
            continue
        number = installed(need.name)
        remedy = f'pip install "{re.sub(r";.*", "", str(need)).strip()}"'
        if number is None:
            yield Finding(need.name, "not installed", "error", remedy)
        elif not need.specifier.contains(number, prereleases=True):
            yield Finding(need.name, f"{number}, but {need.specifier} is needed", "warning", remedy)
        else:
            good += 1
    if good:
        shown = ", ".join(f"{name} {number}" for name, number in versions().items() if name != "python")
        yield Finding("packages", f"{good} as needed: {shown}")


def extras() -> Iterator[Finding]:
    """What an extra adds, where it is not installed."""
    if installed("gradio") is None:
        yield Finding("page", "customize web needs gradio, which is not installed", "ok", 'pip install "customize[web]"')
