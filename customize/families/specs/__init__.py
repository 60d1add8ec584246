"""The list of families of base models."""

from pathlib import Path

from customize.families.specs.deepfloyd_if_spec import DEEPFLOYD_IF
from customize.families.specs.digits_spec import DIGITS
from customize.families.specs.family_spec import FamilySpec, Source
from customize.families.specs.network_names import NetworkNames
from customize.families.specs.stable_diffusion_spec import STABLE_DIFFUSION
from customize.families.specs.stable_diffusion_xl_spec import STABLE_DIFFUSION_XL
from customize.families.specs.upscaler_spec import UPSCALER

SPECS: dict[str, FamilySpec] = {spec.name: spec for spec in (STABLE_DIFFUSION_XL, DEEPFLOYD_IF, UPSCALER, DIGITS)}
"""Families by name, except Stable Diffusion. A model that none of them recognises is checked as Stable Diffusion; that check
names the kinds of other models."""


def every() -> tuple[FamilySpec, ...]:
    """All families."""
    return (STABLE_DIFFUSION, *SPECS.values())


def recognised(path: Path) -> FamilySpec:
    """The family of a model's folder or file."""
    return next((spec for spec in SPECS.values() if spec.matches(path)), STABLE_DIFFUSION)


def spec_of(source: Source) -> FamilySpec:
    """The family of a base model that was located."""
    return SPECS.get(source.family, STABLE_DIFFUSION)


def networks() -> dict[str, NetworkNames]:
    """The names in files of the networks of all families, by folder name: for files that do not name their family."""
    return {name: own for spec in reversed(every()) for name, own in spec.networks.items()}


def pipeline_files() -> tuple[str, ...]:
    """The files and folders of complete pipelines of every family."""
    return tuple(dict.fromkeys(name for spec in every() for name in spec.pipeline_files))


def denoisers() -> set[str]:
    """The names of the denoisers' folders of every family."""
    return {next(iter(spec.networks)) for spec in every()}
