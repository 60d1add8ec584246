"""Finds a base model by its name and checks it with its family's spec. torch is not imported."""

import os
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from customize.errors import InputError, Problem
from customize.families.files import prompt_embeddings
from customize.families.files.model_folder import OTHER_FORMATS
from customize.families.files.recognition import WHOLE
from customize.families.specs import STABLE_DIFFUSION, every, recognised, spec_of
from customize.families.specs.family_spec import SETTING, FamilySpec, Source
from customize.missing_path import remedy_for_missing
from customize.printable import printable
from customize.storage.run_folder import model_in
from customize.storage.untrusted_files import PICKLES, REMEDIES, START, kind_of, reason, refusing_unreadable, regular_file

__all__ = ["SETTING", "Source", "locate"]

DEMO = Path(__file__).parents[1] / "demo" / "model"
INCLUDED = {"demo": DEMO, "digits": DEMO.parent / "digits"}
"""The base models that come with the package, by name."""
HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
HUB_ADDRESS = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/(\w[\w.-]*/\w[\w.-]*)", re.ASCII | re.IGNORECASE)
SDXL, SD15 = "stabilityai/stable-diffusion-xl-base-1.0", "stable-diffusion-v1-5/stable-diffusion-v1-5"
SHORT_NAMES = {
    "demo": "demo",
    **dict.fromkeys("sdxl xl sdxl10 sdxlbase stablediffusionxl stablediffusionxlbase10".split(), SDXL),
    **dict.fromkeys("sd sd1 sd15 v15 stablediffusion stablediffusion15 stablediffusionv15".split(), SD15),
}  # fmt: skip
"""What people call base models, in letters and digits -> what they are called here."""


@refusing_unreadable()
def locate(name: str, **options: Any) -> Source:
    """Finds a base model by name, and checks everything that can be checked without loading it.

    name: one of `INCLUDED`, a folder, a single .safetensors file, or OWNER/NAME on the hub; options: revision, variant,
    prediction_type and rescale_betas_zero_snr of the `Source`. Raises InputError.
    """
    source = Source(name, **options)
    if name in INCLUDED:
        return in_folder(source, INCLUDED[name])
    path = Path(os.path.expanduser(name))
    suffix = path.suffix.lower()
    if suffix in PICKLES:
        remedy = "pickles can run code when they are loaded; convert it to .safetensors and give that file"
        raise InputError(Problem(SETTING, f"{name} is a pickle", remedy))
    if suffix == ".safetensors":
        if not os.path.lexists(path):
            raise InputError(Problem(SETTING, f"no file {name}", remedy_for_missing(name, "check the path")))
        spec = recognised(path)
        return checked(spec, replace(source, file=path, family=spec.name))
    model = model_in(path)
    if model is not None and model != path:  # the result of a run
        spec = recognised(model)
        return checked(spec, replace(source, file=model, family=spec.name))
    if path.is_dir():
        return in_folder(source, path)
    if os.path.lexists(path):
        raise InputError(other_file(path))
    if not HUB_NAME.fullmatch(name):
        remedy = hub_name_meant(name) or remedy_for_missing(name, "check the path; a name on the hub is OWNER/NAME")
        raise InputError(Problem(SETTING, f"no folder {name}", remedy))
    source = replace(source, family=family_of(name))
    refuse_prompt_embeddings(spec_of(source), source)
    return source


def hub_name_meant(text: str) -> str | None:
    """The remedy for an address or a short name of a model on the hub; None for anything else."""
    if address := HUB_ADDRESS.match(text):
        return f"a name on the hub is OWNER/NAME: {address[1]}"
    if meant := SHORT_NAMES.get(re.sub(r"[\W_]", "", text.casefold())):
        return f"did you mean {meant}?"
    return None


def checked(spec: FamilySpec, source: Source) -> Source:
    """The source, checked by its family. Raises InputError."""
    refuse_prompt_embeddings(spec, source)
    return spec.check(source)


def refuse_prompt_embeddings(spec: FamilySpec, source: Source) -> None:
    """Raises InputError for encoded prompts that the family does not take, and for a file of anything else."""
    if source.prompt_embeddings is None:
        return
    if not spec.load_prompts:
        what = f"{source.name} is {spec.title}, whose text encoder is always loaded"
        raise InputError(Problem(prompt_embeddings.SETTING, what, "leave it out"))
    prompt_embeddings.read(Path(os.path.expanduser(source.prompt_embeddings)))


def family_of(name: str) -> str:
    """The family of a base model by its folder, file or name on the hub, which need not be valid."""
    path = Path(os.path.expanduser(name))
    if path.is_dir() or path.suffix.lower() == ".safetensors":
        return recognised(model_in(path) or path).name
    return next((spec.name for spec in every() if spec.hub_names and re.search(spec.hub_names, name)), STABLE_DIFFUSION.name)


def in_folder(source: Source, folder: Path) -> Source:
    """The model in a folder, checked by its family. Raises InputError."""
    spec = recognised(folder)
    return checked(spec, replace(source, folder=folder, family=spec.name))


def other_file(path: Path) -> Problem:
    """The problem of a file that is not a model, by its suffix and first bytes."""
    if path.name.endswith(("config.json", "model_index.json")):
        return Problem(printable(path), "is a config file of a model, not the model", f"give {printable(path.parent)}")
    try:
        with regular_file(path) as file:
            kind = kind_of(file.read(START))
    except OSError as error:
        return Problem(printable(path), f"cannot be read ({reason(error)})", WHOLE)
    name, remedy = OTHER_FORMATS.get(path.suffix.lower(), ("", WHOLE))
    what = f"is {kind or (f'a file of {name}' if name else 'a file')}, not a supported model"
    return Problem(printable(path), what, REMEDIES.get(kind, remedy))


def known_token_problems(words: set[str], tokens: Iterable[str]) -> list[Problem]:
    """The problems of new tokens that are already in the vocabulary, which training would overwrite."""
    return [
        Problem("placeholder_token", f"{token!r} is already a word of the model", "choose one such as <my-cat>")
        for token in tokens
        if token in words or f"{token.lower()}</w>" in words
    ]


def refuse_clip_skip(clip_skip: int, most: int | None) -> None:
    """Raises InputError for more layers than can be skipped. most: how many can, None if unknown."""
    if most is not None and clip_skip > most:
        what = f"{clip_skip} is too many: of the {most + 1} layers of a text encoder {most} can be skipped"
        raise InputError(Problem("clip_skip", what, f"use at most {most}; 1 is usual (A1111's Clip skip 2)"))


def refuse_noise_weighting(prediction_type: str | None) -> None:
    """Raises InputError if a model of this prediction type is trained as if it predicted the noise anyway."""
    if prediction_type == "epsilon":
        remedy = "leave it out, or add --v_pred_like_loss 0.5 for a loss of the velocity beside that of the noise"
        raise InputError(Problem("loss_weighting", "noise has no effect: the model predicts the noise", remedy))


def refuse_zero_snr(prediction_type: str | None) -> None:
    """Raises InputError if a model of this prediction type cannot begin at pure noise."""
    if prediction_type == "epsilon":
        what = "needs a model that predicts v: a prediction of the noise says nothing of an image that is nothing but noise"
        remedy = "add --prediction_type v_prediction if the model was trained that way, or leave it out"
        raise InputError(Problem("rescale_betas_zero_snr", what, remedy))
