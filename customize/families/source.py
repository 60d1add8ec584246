"""Where a base model lies and whether it can be read: answered from names and headers, before torch is imported."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from customize.errors import InputError, Problem
from customize.families.ldm_header import read_layout
from customize.safetensors_header import read_header

DEMO = Path(__file__).parents[1] / "demo" / "model"
PICKLES = (".ckpt", ".bin", ".pt", ".pth")
NETWORKS = ("unet", "vae", "text_encoder")
SETTING = "pretrained_model_name_or_path"


@dataclass(frozen=True)
class Source:
    """A base model: a `folder` in diffusers' layout, a single `file`, or the `name` of a model on the hub.

    revision, variant: as for the hub; prediction_type: "epsilon" or "v_prediction" over what the model itself says.
    """

    name: str
    folder: Path | None = None
    file: Path | None = None
    revision: str | None = None
    variant: str | None = None
    prediction_type: str | None = None


def locate(name: str, *, revision: str | None = None, variant: str | None = None, prediction_type: str | None = None) -> Source:
    """Finds a base model by name and checks what can be checked without loading it.

    name: "demo", a folder, a single .safetensors file, or OWNER/NAME on the hub. Raises InputError.
    """
    source = Source(name, revision=revision, variant=variant, prediction_type=prediction_type)
    if name == "demo":
        return replace(source, folder=check_folder(DEMO, variant))
    path = Path(name).expanduser()
    if path.suffix in PICKLES:
        remedy = "pickles can run code when they are loaded; convert it to .safetensors and give that file"
        raise InputError(Problem(SETTING, f"{name} is a pickle", remedy))
    if path.suffix == ".safetensors":
        if not path.is_file():
            raise InputError(Problem(SETTING, f"no file {name}", "check the path"))
        read_layout(path, prediction_type)
        return replace(source, file=path)
    if path.is_dir():
        return replace(source, folder=check_folder(path, variant))
    if name.count("/") > 1 or name.startswith((".", "/", "~")) or "\\" in name or path.exists():
        raise InputError(Problem(SETTING, f"no folder {name}", "check the path; a name on the hub is OWNER/NAME"))
    return source


def check_folder(folder: Path, variant: str | None = None) -> Path:
    """The folder, if it holds every part of a Stable Diffusion model as safetensors; otherwise InputError."""
    if not (folder / "model_index.json").is_file():
        remedy = "give the folder that holds model_index.json, unet/, vae/, text_encoder/, tokenizer/ and scheduler/"
        raise InputError(Problem(SETTING, f"{folder} is no diffusers model: it has no model_index.json", remedy))
    problems = []
    if not (folder / "tokenizer").is_dir():
        problems.append(Problem(f"{folder}/tokenizer", "missing", "copy the model again, whole"))
    configs = ("model_index.json", "scheduler/scheduler_config.json", *(f"{part}/config.json" for part in NETWORKS))
    for file in [*(folder / config for config in configs), *sorted((folder / "tokenizer").glob("*.json"))]:
        try:
            if not isinstance(json.loads(file.read_text(encoding="utf-8")), dict):
                raise ValueError("it is no JSON object")
        except FileNotFoundError:
            problems.append(Problem(str(file), "missing", "copy the model again, whole"))
        except (OSError, ValueError, RecursionError) as error:
            problems.append(Problem(str(file), f"cannot be read ({error})", "copy the model again, whole"))
    for part in NETWORKS:
        problems += weights_problems(folder / part, variant)
    if problems:
        raise InputError(problems)
    return folder


def weights_problems(folder: Path, variant: str | None) -> list[Problem]:
    """What is wrong with the safetensors files of one network of the model."""
    all_files = sorted(folder.glob("*.safetensors"))
    files = [file for file in all_files if (f".{variant}" in file.stem if variant else "." not in file.stem)]
    if not files:
        what = f"has no safetensors of variant {variant}" if variant else "has no safetensors"
        if all_files:
            what += f", only {', '.join(file.name for file in all_files)}"
        elif any(folder.glob(f"*{suffix}") for suffix in PICKLES):
            what += ", only pickles, which can run code when they are loaded"
        return [Problem(str(folder), what, "convert the model to safetensors, or name the --variant that is there")]
    problems = []
    for file in files:
        try:
            read_header(file)
        except InputError as error:
            problems += error.problems
    return problems


def vocabulary(source: Source) -> set[str]:
    """The words of a folder's tokenizer, read from its files; empty where the model is not in a folder yet.

    Raises InputError for a file that holds no words.
    """
    words: set[str] = set()
    if source.folder:
        for file in ("tokenizer.json", "vocab.json", "added_tokens.json"):
            path = source.folder / "tokenizer" / file
            content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            try:
                words |= set(content["model"]["vocab"] if "model" in content else content)
                words |= {token["content"] for token in content.get("added_tokens", []) if isinstance(token, dict)}
            except (TypeError, KeyError, AttributeError) as error:
                raise InputError(Problem(str(path), "holds no vocabulary", "copy the model again, whole")) from error
    return words


def known_token_problems(words: set[str], tokens: Iterable[str]) -> list[Problem]:
    """Tokens that are words already: a tokenizer would take them as new, and they would be trained over."""
    return [
        Problem("placeholder_token", f"{token!r} is a word of the model already", "choose one such as <my-cat>")
        for token in tokens
        if token in words or f"{token.lower()}</w>" in words
    ]
