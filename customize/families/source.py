"""Where a base model lies and whether it can be read: answered from names and headers, before torch is imported."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from customize.errors import InputError, Problem
from customize.families.files.configurations import READ
from customize.families.files.folder_check import AGAIN, NETWORKS, check_folder, weight_files
from customize.families.files.ldm_header import read_layout
from customize.families.files.model_folder import OTHER_FORMATS
from customize.families.files.recognition import WHOLE
from customize.families.files.tokenizer_files import added_words, tokenizer_files
from customize.families.specs import STABLE_DIFFUSION, spec_of
from customize.missing_path import remedy_for_missing
from customize.printable import printable
from customize.storage.untrusted_files import PICKLES, REMEDIES, START, kind_of, reason, refusing, regular_file

__all__ = ["AGAIN", "NETWORKS", "SETTING", "Source", "check_folder", "locate", "weight_files"]

DEMO = Path(__file__).parents[1] / "demo" / "model"
SETTING = "pretrained_model_name_or_path"


@dataclass(frozen=True)
class Source:
    """A base model: a `folder` in diffusers' layout, a single `file`, or the `name` of a model on the hub.

    revision, variant: as for the hub; prediction_type: "epsilon" or "v_prediction" over what the model itself says; family: the
    name of its `FamilySpec`.
    """

    name: str
    folder: Path | None = None
    file: Path | None = None
    revision: str | None = None
    variant: str | None = None
    prediction_type: str | None = None
    family: str = STABLE_DIFFUSION.name


def locate(name: str, *, revision: str | None = None, variant: str | None = None, prediction_type: str | None = None) -> Source:
    """Finds a base model by name and checks what can be checked without loading it.

    name: "demo", a folder, a single .safetensors file, or OWNER/NAME on the hub. Raises InputError.
    """
    source = Source(name, revision=revision, variant=variant, prediction_type=prediction_type)
    if name == "demo":
        return replace(source, folder=check_folder(DEMO, variant))
    path = Path(os.path.expanduser(name))
    suffix = path.suffix.lower()
    if suffix in PICKLES:
        remedy = "pickles can run code when they are loaded; convert it to .safetensors and give that file"
        raise InputError(Problem(SETTING, f"{name} is a pickle", remedy))
    if suffix == ".safetensors":
        if not os.path.lexists(path):
            raise InputError(Problem(SETTING, f"no file {name}", remedy_for_missing(name, "check the path")))
        read_layout(path, prediction_type)
        return replace(source, file=path)
    if path.is_dir():
        spec = spec_of(path)
        return replace(source, folder=spec.check(path, variant), family=spec.name)
    if os.path.lexists(path):
        raise InputError(other_file(path))
    if name.count("/") > 1 or name.startswith((".", "/", "~")) or "\\" in name:
        remedy = remedy_for_missing(name, "check the path; a name on the hub is OWNER/NAME")
        raise InputError(Problem(SETTING, f"no folder {name}", remedy))
    return source


def other_file(path: Path) -> Problem:
    """The problem of a file that is no model, by its ending and its first bytes."""
    if path.name.endswith(("config.json", "model_index.json")):
        return Problem(printable(path), "is a part of a model's description, not the model", f"give {printable(path.parent)}")
    try:
        with regular_file(path) as file:
            kind = kind_of(file.read(START))
    except OSError as error:
        return Problem(printable(path), f"cannot be read ({reason(error)})", WHOLE)
    name, remedy = OTHER_FORMATS.get(path.suffix.lower(), ("", WHOLE))
    what = f"is {kind or (f'a file of {name}' if name else 'a file')}, not a model that is read here"
    return Problem(printable(path), what, REMEDIES.get(kind, remedy))


def files_read(source: Source) -> list[Path]:
    """Every file of the model that is read, of what there is in its folder; none of one that is still on the hub."""
    if not source.folder:
        return [source.file] if source.file else []
    configs = [source.folder / name for name in READ]
    words = [path for path in sorted((source.folder / "tokenizer").iterdir()) if path.suffix in (".json", ".txt")]
    weights = [file for part in NETWORKS for file in weight_files(source.folder / part, source.variant)]
    return list(dict.fromkeys(path for path in (*configs, *words, *weights) if path.is_file()))


def vocabulary(source: Source) -> set[str]:
    """The words of a folder's tokenizer, read from its files; empty where the model is not in a folder yet.

    Raises InputError for files that are no tokenizer.
    """
    if not source.folder:
        return set()
    folder = source.folder / "tokenizer"
    with refusing(folder, AGAIN, "holds no vocabulary"):
        files = tokenizer_files(folder)
        return set(files.words()) | set(added_words(files))


def known_token_problems(words: set[str], tokens: Iterable[str]) -> list[Problem]:
    """Tokens that are words already: a tokenizer would take them as new, and they would be trained over."""
    return [
        Problem("placeholder_token", f"{token!r} is a word of the model already", "choose one such as <my-cat>")
        for token in tokens
        if token in words or f"{token.lower()}</w>" in words
    ]
