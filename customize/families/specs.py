"""Which families there are, and how a model of each is recognised and checked before torch is imported."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from customize.families.files.folder_check import check_folder


@dataclass(frozen=True)
class FamilySpec:
    """The side of a family that needs no torch.

    matches: whether a folder holds a model of the family; check: (folder, variant) -> the folder of the model, or raises
    InputError with everything that is wrong with it; load: "module:function" of (Source, Placement) -> Family.
    """

    name: str
    matches: Callable[[Path], bool]
    check: Callable[[Path, str | None], Path]
    load: str


STABLE_DIFFUSION = FamilySpec("stable_diffusion", lambda folder: True, check_folder, "customize.families.loading:load")
SPECS: dict[str, FamilySpec] = {}
"""Further families by name. What none of them recognises is checked as Stable Diffusion, whose check names other models."""


def spec_of(folder: Path) -> FamilySpec:
    """The family of a model's folder."""
    return next((spec for spec in SPECS.values() if spec.matches(folder)), STABLE_DIFFUSION)


def named(family: str) -> FamilySpec:
    """The family of that name."""
    return SPECS.get(family, STABLE_DIFFUSION)
