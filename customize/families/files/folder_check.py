"""Checks a folder in diffusers' layout: a complete model that is safe to load. No torch."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from customize.errors import InputError, Problem
from customize.families.files.configurations import (
    OF_NETWORKS,
    SCHEDULER,
    TOKENIZER,
    Check,
    contradictions,
    faults,
    kind_of,
    scheduler_faults,
)
from customize.families.files.model_folder import INDEX, OTHER_FORMATS, inside_cache, names_in, no_model
from customize.families.files.recognition import MOST_TENSORS, other_network, other_pipeline, other_unet, refusal
from customize.printable import first_few, printable
from customize.storage.json_files import read_object
from customize.storage.safetensors_header import read_header
from customize.storage.untrusted_files import MIB, reason, regular_file

LEFT_ALONE = {
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
}
"""Parts of a base model that no method loads, and their classes."""
SCHEDULER_FILE = "scheduler/scheduler_config.json"
AGAIN = "copy the model again, whole"
SET_RIGHT = "set it right, or take another model"
DTYPES = {"F16", "BF16", "F32", "F64", "I64", "I32"}
MOST_WORDS = 32 * MIB
"""Bytes of a tokenizer's file; CLIP's largest has 4 million."""


@dataclass(frozen=True)
class Parts:
    """The folders of a model: its networks and its tokenizers. kinds: of the networks whose folder's name does not tell it."""

    networks: tuple[str, ...] = ("unet", "vae", "text_encoder")
    tokenizers: tuple[str, ...] = ("tokenizer",)
    kinds: Mapping[str, str] = field(default_factory=dict)

    @property
    def configurations(self) -> list[str]:
        """The files with configurations that are read."""
        of_tokenizers = [f"{part}/tokenizer_config.json" for part in self.tokenizers]
        return [INDEX, SCHEDULER_FILE, *(f"{part}/config.json" for part in self.networks), *of_tokenizers]


def check_folder(
    folder: Path,
    variant: str | None = None,
    parts: Parts = Parts(),  # noqa: B008
    refuse_others: Callable[[Path], None] | None = None,
) -> Path:
    """Returns the folder if it holds every part of a model as safetensors. Raises InputError otherwise.

    Configurations are compared with the tensors' headers, and every file that a library will open has to be a regular file.
    refuse_others: raises InputError, by its name, for a model of another family; None: for all but Stable Diffusion 1.x and 2.x.
    """
    folder = inside_cache(folder)
    if not os.path.lexists(folder / INDEX):
        raise InputError(no_model(folder))
    (refuse_others or refuse_other)(folder)
    problems = [Problem(f"{folder}/{part}", "missing", AGAIN) for part in parts.tokenizers if not (folder / part).is_dir()]
    problems += configuration_problems(folder / INDEX, {})[0]
    found, config = configuration_problems(folder / SCHEDULER_FILE, SCHEDULER)
    problems += found or [Problem(printable(folder / SCHEDULER_FILE), fault, SET_RIGHT) for fault in scheduler_faults(config)]
    for part in parts.tokenizers:
        if os.path.lexists(file := folder / part / "tokenizer_config.json"):
            problems += configuration_problems(file, TOKENIZER)[0]
    for part in parts.networks:
        problems += network_problems(folder / part, parts.kinds.get(part, part), variant)
    problems += other_files(folder, parts.tokenizers)
    if problems:
        raise InputError(problems)
    return folder


def network_problems(folder: Path, part: str, variant: str | None) -> list[Problem]:
    """What is wrong with the configuration and the files of a network in a folder of its own, as the `part` of a model, or a
    network of that kind."""
    values = OF_NETWORKS[kind_of(part)]
    problems, config = configuration_problems(folder / "config.json", values)
    found, shapes = weights_problems(folder, variant)
    if not found and not problems:
        problems += [Problem(printable(folder / "config.json"), fault, AGAIN) for fault in contradictions(part, config, shapes)]
    return problems + found


def configuration_problems(path: Path, values: dict[str, Check]) -> tuple[list[Problem], dict[str, Any]]:
    """What is wrong with a configuration, and its values."""
    problems: list[Problem] = []
    config = read_configuration(path, problems)
    return problems + [Problem(printable(path), printable(fault), SET_RIGHT) for fault in faults(values, config)], config


def refuse_other(folder: Path) -> None:
    """Raises InputError where the configurations in a folder are those of a model other than Stable Diffusion 1.x or 2.x."""
    index, unet = (read_configuration(folder / file, []) for file in (INDEX, "unet/config.json"))
    kind = other_pipeline(index) or other_unet(unet)
    if not kind and not (folder / "unet").is_dir():
        parts = [part for part in ("transformer", "prior", "decoder", "vqvae") if (folder / part).is_dir()]
        kind = next((other_network(read_configuration(folder / part / "config.json", [])) for part in parts), None)
        kind = kind or (f"a model with {parts[0]}/ in place of unet/" if parts else None)
    if kind:
        raise InputError(refusal(folder, kind))


def read_configuration(path: Path, problems: list[Problem]) -> dict[str, Any]:
    """The object in a configuration; {} and a problem where there is none."""
    try:
        return read_object(path)
    except FileNotFoundError:
        problems.append(Problem(printable(path), "missing", AGAIN))
    except (OSError, ValueError, TypeError) as error:
        problems.append(Problem(printable(path), printable(f"cannot be read ({reason(error)})", 300), AGAIN))
    return {}


def other_files(folder: Path, tokenizers: tuple[str, ...]) -> list[Problem]:
    """What is wrong with the files that are copied or read beside the networks: each must be a regular one."""
    problems = []
    for part in (*tokenizers, *LEFT_ALONE):
        names = names_in(folder / part)[0] if (folder / part).is_dir() else ()
        for path in (folder / part / name for name in names):
            try:
                regular_file(path, MOST_WORDS if part in tokenizers else None).close()
            except OSError as error:
                problems.append(Problem(printable(path), f"cannot be read ({reason(error)})", AGAIN))
    words = [path for part in tokenizers for path in sorted((folder / part).glob("*.json"))]
    for path in words if not problems else ():
        if path.name != "tokenizer_config.json":
            read_words(path, problems)
    return problems


def read_words(path: Path, problems: list[Problem]) -> None:
    """Adds a problem where a file of a tokenizer holds no object."""
    try:
        read_object(path, MOST_WORDS)
    except (OSError, ValueError) as error:
        problems.append(Problem(printable(path), printable(f"cannot be read ({reason(error)})", 300), AGAIN))


def weight_files(folder: Path, variant: str | None) -> list[Path]:
    """The safetensors files of one network: the one with the usual name, else all."""
    files = [
        file for file in sorted(folder.glob("*.safetensors")) if (f".{variant}" in file.stem if variant else "." not in file.stem)
    ]
    usual = ("diffusion_pytorch_model", "model")
    return next(([file] for name in usual for file in files if file.stem in (name, f"{name}.{variant}")), files)


def weights_problems(folder: Path, variant: str | None) -> tuple[list[Problem], dict[str, tuple[int, ...]]]:
    """What is wrong with the safetensors files of one network, and the shapes of its tensors by name."""
    files = weight_files(folder, variant)
    shapes: dict[str, tuple[int, ...]] = {}
    if not files:
        return [no_weights(folder, variant)], shapes
    problems = []
    for file in files:
        try:
            tensors = read_header(file).tensors
        except InputError as error:
            problems += error.problems
            continue
        if twice := sorted(shapes.keys() & tensors.keys()):
            problems.append(Problem(printable(file), printable(f"{twice[0][:100]} is in another file, too"), AGAIN))
        shapes |= {name: info.shape for name, info in tensors.items()}
        unknown = sorted({info.dtype for info in tensors.values()} - DTYPES)
        if unknown:
            what = f"holds weights as {', '.join(unknown)}: they are quantised, or no weights"
            problems.append(Problem(printable(file), what, "give the model in float32, float16 or bfloat16"))
    if len(shapes) > MOST_TENSORS:
        problems.append(Problem(printable(folder), f"holds {len(shapes):,} tensors, more than {MOST_TENSORS:,}", AGAIN))
    for index in sorted(folder.glob("*.safetensors.index.json")):
        named = read_configuration(index, problems).get("weight_map", {})
        named = set(map(str, named.values())) if isinstance(named, dict) else {str(named)}
        if strange := sorted(named - {path.name for path in folder.glob("*.safetensors")}):
            what = printable(f"names files that are not beside it: {first_few(strange, 3)}")
            problems.append(Problem(printable(index), what, AGAIN))
    return problems, shapes


def no_weights(folder: Path, variant: str | None) -> Problem:
    """The problem of a network whose safetensors files are missing; it names what was found instead."""
    files, _ = names_in(folder)
    what = f"has no safetensors of variant {variant}" if variant else "has no safetensors"
    remedy = "convert the model to safetensors, or name the --variant that is there"
    if there := [name for name in files if name.endswith(".safetensors")]:
        return Problem(printable(folder), f"{what}, only {first_few(there)}", remedy)
    if not folder.is_dir():
        return Problem(printable(folder), f"{what}: there is no such folder", AGAIN)
    for suffix, (kind, other) in OTHER_FORMATS.items():
        if any(name.endswith(suffix) for name in files):
            if kind == "pickles":
                return Problem(printable(folder), f"{what}, only pickles, which can run code when they are loaded", remedy)
            return Problem(printable(folder), f"{what}, only {kind}", other)
    return Problem(printable(folder), what, AGAIN if not files else remedy)
