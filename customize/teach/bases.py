"""The base models that a run may learn on: configured, on this machine, or to be downloaded. No torch."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from customize.errors import InputError
from customize.families import Source, locate
from customize.families.files.model_folder import inside_cache
from customize.families.specs import spec_of
from customize.machine.hardware import Hardware, hardware
from customize.machine.hub_check import cache
from customize.printable import printable
from customize.teach import memory
from customize.units import size

VARIABLE = "CUSTOMIZE_BASE"
"""Environment variable with the base model of runs that name none."""
Place = Literal["configured", "cache", "folder", "hub", "included"]
FOLDERS = (
    "ComfyUI/models/checkpoints", "Documents/ComfyUI/models/checkpoints", "stable-diffusion-webui/models/Stable-diffusion",
    "stable-diffusion-webui-forge/models/Stable-diffusion", "StabilityMatrix/Data/Models/StableDiffusion",
)  # fmt: skip
"""Where other programs keep base models, below the user's home and the current folder."""
SMALL = 400_000_000
"""Bytes of a model up to which its need of memory is not looked at."""
MOST_FILES = 50
"""Files of such a folder whose headers are read."""
HUB = (
    ("stabilityai/stable-diffusion-xl-base-1.0", "stable_diffusion_xl", "fp16", 6_940_000_000),
    ("stable-diffusion-v1-5/stable-diffusion-v1-5", "stable_diffusion", "fp16", 2_740_000_000),
)
"""Base models to download: name, family, variant of the files, and bytes, by the numbers of parameters at 2 bytes each."""


@dataclass(frozen=True)
class Base:
    """A base model. name: for --base; title: for people; kind: name of its family; size: bytes on the disk or to download;
    place: where it is; variant: of its files; offered: whether a run on this machine may take it; why: the reason, either way."""

    name: str
    title: str
    kind: str
    size: int | None
    place: Place
    offered: bool
    why: str
    variant: str | None = None

    @property
    def is_download(self) -> bool:
        """Whether it would have to be downloaded first."""
        return self.place == "hub"


def found(machine: Hardware | None = None) -> list[Base]:
    """The base models, best first: the configured one, those on this machine, those on the hub, and the toy."""
    machine = machine or hardware()
    local = [*configured(machine), *cached(machine), *in_folders(machine)]
    known = {base.name for base in local}
    return [*sorted(local, key=rank), *(base for base in on_the_hub(machine) if base.name not in known), toy()]


def chosen(machine: Hardware | None = None) -> Base | None:
    """The first base model of `found` that is on this machine and fits it; None if there is none. The toy is never chosen."""
    machine = machine or hardware()
    local = [*configured(machine), *cached(machine), *in_folders(machine)]
    return next((base for base in sorted(local, key=rank) if base.offered), None)


def rank(base: Base) -> tuple[bool, bool, str, str]:
    """The order of base models on this machine: the configured one, those that fit, SDXL before Stable Diffusion, by name."""
    families = ("stable_diffusion_xl", "stable_diffusion")
    place = families.index(base.kind) if base.kind in families else len(families)
    return base.place != "configured", not base.offered, str(place), base.name


def configured(machine: Hardware) -> Iterator[Base]:
    """The base model that the environment names. One that does not exist is not offered."""
    if name := os.environ.get(VARIABLE, "").strip():
        yield named(name, machine, "configured")


def named(name: str, machine: Hardware | None = None, place: Place = "folder") -> Base:
    """The base model of this name, folder or file. One that cannot be trained is not offered; one that may not fit is."""
    machine = machine or hardware()
    if name == "demo":
        return toy(place if place == "configured" else "included")
    if (snapshot := in_cache(name)) is not None:
        return asked_for(of_snapshot(name, snapshot, machine, place if place == "configured" else "cache"), machine)
    if Path(os.path.expanduser(name)).is_dir():
        return asked_for(of_snapshot(name, Path(os.path.expanduser(name)), machine, place), machine)
    try:
        source = locate(name)
    except InputError as error:
        return unusable(name, place, error)
    if source.is_remote:
        found = next((base for base in on_the_hub(machine) if base.name == name), remote(source))
        return asked_for(found, machine)
    return asked_for(of_source(name, source, None, machine, place), machine)


def asked_for(base: Base, machine: Hardware) -> Base:
    """The base model, offered although it may not fit: its need of memory is an estimate, and the user asks for it."""
    problem = memory.problem(base.kind, machine)
    return replace(base, offered=True) if problem and base.why == problem.what else base


def unusable(name: str, place: Place, error: InputError) -> Base:
    """A base model that is none, or is damaged."""
    problem = error.problems[0]
    return Base(name, printable(name), "", None, place, False, f"{problem.what}: {problem.remedy}")


def remote(source: Source) -> Base:
    """A model on the hub of which nothing is known but its name."""
    why = "on the hub; its size is not known before it is asked"
    return Base(source.name, printable(source.name), source.family, None, "hub", True, why)


def of_source(name: str, source: Source, variant: str | None, machine: Hardware, place: Place) -> Base:
    """A base model whose files are on this machine. A small one of its family fits every machine."""
    spec = spec_of(source)
    number = sum(file.stat().st_size for file in spec.files(source))
    fault = spec.not_trainable(source) or (memory.problem(source.family, machine) if number > SMALL else None)
    if fault:
        return Base(name, printable(name), source.family, number, place, False, fault.what, variant)
    where = {"configured": f"{VARIABLE} names it", "cache": "in the hub's cache"}.get(place, "on this machine")
    return Base(name, printable(name), source.family, number, place, True, f"{where}; {spec.title}", variant)


def in_cache(name: str) -> Path | None:
    """The snapshot of a model in the hub's cache; None if it is not there."""
    if name.count("/") != 1 or name.startswith((".", "~", "/")):
        return None
    folder = cache() / f"models--{name.replace('/', '--')}"
    with suppress(InputError, OSError):
        snapshot = inside_cache(folder)
        return snapshot if (snapshot / "model_index.json").is_file() else None
    return None


def cached(machine: Hardware) -> Iterator[Base]:
    """The base models in the hub's cache, by name."""
    with suppress(OSError):
        for folder in sorted(cache().glob("models--*--*")):
            name = folder.name.removeprefix("models--").replace("--", "/", 1)
            if snapshot := in_cache(name):
                yield of_snapshot(name, snapshot, machine, "cache")


def of_snapshot(name: str, folder: Path, machine: Hardware, place: Place) -> Base:
    """A model in a folder, with the variant of its files that is complete there."""
    first: InputError | None = None
    for variant in (None, "fp16"):
        try:
            return of_source(name, locate(str(folder), variant=variant), variant, machine, place)
        except InputError as error:
            first = first or error
    assert first
    return unusable(name, place, first)


def in_folders(machine: Hardware) -> Iterator[Base]:
    """The base models in the usual folders of other programs."""
    folders = [top / folder for top in dict.fromkeys((Path(os.path.expanduser("~")), Path.cwd())) for folder in FOLDERS]
    files = [file for folder in folders if folder.is_dir() for file in sorted(folder.glob("*.safetensors"))]
    for file in files[:MOST_FILES]:
        with suppress(InputError, OSError):  # some file that is no base model
            yield of_source(str(file), locate(str(file)), None, machine, "folder")


def on_the_hub(machine: Hardware) -> Iterator[Base]:
    """The usual base models of the hub, with what each would need."""
    for name, family, variant, number in HUB:
        problem = memory.problem(family, machine)
        why = problem.what if problem else f"a download of {size(number)}; {memory.in_words(family, machine)}"
        yield Base(name, name, family, number, "hub", not problem, why, variant)


def toy(place: Place = "included") -> Base:
    """The embedded model."""
    why = "a toy of 64 x 64 pixels that comes with the program: to try how it goes, not for photos"
    return Base("demo", "demo, a toy", "stable_diffusion", None, place, True, why)
