"""Where a base model lies and whether it can be read: answered from names and headers, before torch is imported."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from customize.errors import InputError, Problem
from customize.families.ldm_header import read_layout
from customize.findings import printable, refusing
from customize.json_files import read_object
from customize.safetensors_header import read_header

DEMO = Path(__file__).parents[1] / "demo" / "model"
PICKLES = (".ckpt", ".bin", ".pt", ".pth")
NETWORKS = ("unet", "vae", "text_encoder")
SETTING = "pretrained_model_name_or_path"
PREDICTIONS = ("epsilon", "v_prediction", "sample")
"""What a network may answer with; see `objective.target`."""
AGAIN = "copy the model again, whole"


def is_count(value: Any) -> bool:
    """Whether it is a whole number of 1 to a million."""
    return type(value) is int and 1 <= value <= 1_000_000


def is_positive(value: Any) -> bool:
    """Whether it is a number above 0; infinity and NaN are not."""
    return type(value) in (int, float) and 0 < value < float("inf")


def or_none(is_fit: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """The same question of a value that may be left empty."""
    return lambda value: value is None or is_fit(value)


READ: dict[str, dict[str, Callable[[Any], bool]]] = {
    "model_index.json": {},
    "scheduler/scheduler_config.json": {
        "num_train_timesteps": is_count,
        "prediction_type": PREDICTIONS.__contains__,
    },
    "unet/config.json": {"sample_size": or_none(is_count)},
    "vae/config.json": {"scaling_factor": is_positive},
    "text_encoder/config.json": {"max_position_embeddings": or_none(is_count)},
    "tokenizer/tokenizer_config.json": {"model_max_length": or_none(is_positive)},
}
"""The configurations of a model, and what those values must be that are read here or by our own code, where they are given."""


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
    path = Path(os.path.expanduser(name))
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
        problems.append(Problem(f"{folder}/tokenizer", "missing", AGAIN))
    needed = {folder / file: values for file, values in READ.items() if not file.startswith("tokenizer/")}
    optional = {path: READ.get(f"tokenizer/{path.name}", {}) for path in sorted((folder / "tokenizer").glob("*.json"))}
    for path, values in {**needed, **optional}.items():
        try:
            said = read_object(path)
            for name, is_fit in values.items():
                if name in said and not is_fit(said[name]):
                    what = printable(f"{name} is {str(said[name])[:80]!r}")
                    problems.append(
                        Problem(str(path), f"{what}, which is not understood here", "set it right, or take another model")
                    )
        except FileNotFoundError:
            problems.append(Problem(str(path), "missing", AGAIN))
        except (OSError, ValueError, TypeError) as error:
            problems.append(Problem(str(path), printable(f"cannot be read ({error})"), AGAIN))
    for part in NETWORKS:
        problems += weights_problems(folder / part, variant)
    if problems:
        raise InputError(problems)
    return folder


def weight_files(folder: Path, variant: str | None) -> list[Path]:
    """The safetensors files of one network of the model."""
    return [
        file for file in sorted(folder.glob("*.safetensors")) if (f".{variant}" in file.stem if variant else "." not in file.stem)
    ]


def files_read(source: Source) -> list[Path]:
    """Every file of the model that is read, of what there is in its folder; none of one that is still on the hub."""
    if not source.folder:
        return [source.file] if source.file else []
    configs = [source.folder / name for name in READ]
    words = [path for path in sorted((source.folder / "tokenizer").iterdir()) if path.suffix in (".json", ".txt")]
    weights = [file for part in NETWORKS for file in weight_files(source.folder / part, source.variant)]
    return list(dict.fromkeys(path for path in (*configs, *words, *weights) if path.is_file()))


def weights_problems(folder: Path, variant: str | None) -> list[Problem]:
    """What is wrong with the safetensors files of one network of the model."""
    files = weight_files(folder, variant)
    if not files:
        all_files = sorted(folder.glob("*.safetensors"))
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

    Raises InputError for files that are no tokenizer.
    """
    if not source.folder:
        return set()
    from tokenizers import Tokenizer
    from tokenizers.models import BPE

    folder = source.folder / "tokenizer"
    whole, added, config = (folder / name for name in ("tokenizer.json", "added_tokens.json", "tokenizer_config.json"))
    with refusing(folder, AGAIN, "holds no vocabulary"):
        if whole.exists():
            words = set(Tokenizer.from_file(str(whole)).get_vocab())
        else:
            words_and_merges = BPE.read_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
            BPE(*words_and_merges)  # refuses merges into what is no word
            words = set(words_and_merges[0])
        if not words:
            raise ValueError("there are none")
        told = read_object(config).get("added_tokens_decoder", {}) if config.exists() else {}
        return words | {token["content"] for token in (told or {}).values()} | set(read_object(added) if added.exists() else ())


def known_token_problems(words: set[str], tokens: Iterable[str]) -> list[Problem]:
    """Tokens that are words already: a tokenizer would take them as new, and they would be trained over."""
    return [
        Problem("placeholder_token", f"{token!r} is a word of the model already", "choose one such as <my-cat>")
        for token in tokens
        if token in words or f"{token.lower()}</w>" in words
    ]
