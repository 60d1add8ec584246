"""All learned weights of a job: the named files, the base model that they share, and conflicts between them.

Only headers are read; torch is not imported.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any

from customize.errors import InputError, Problem
from customize.families import specs
from customize.families.files.ldm_header import UNET, VAE
from customize.families.source import INCLUDED
from customize.printable import printable
from customize.settings.files.sharing import local_base
from customize.settings.scale import Scale
from customize.storage import run_folder
from customize.storage.safetensors_header import read_header
from customize.storage.untrusted_files import refusing_unreadable
from customize.weights.checkpoint_weights import weights_in
from customize.weights.signatures import prompt_width
from customize.weights.weight_file import (
    SETTING,
    LearnedFile,
    check_file,
    damaged,
    files_of,
    metadata_of,
    parse_metadata,
    summary_line,
)


@dataclass(frozen=True)
class Learned:
    """The base model (None where it is not named) and the files to load into it.

    base_metadata: our own metadata of a complete pipeline that is the base; empty for other models.
    network: fully trained weights, which replace the base model's.
    """

    base: str | None
    files: tuple[LearnedFile, ...]
    base_metadata: dict[str, Any] = field(default_factory=dict)
    network: LearnedFile | None = None

    @property
    def trigger_words(self) -> tuple[str, ...]:
        """The trigger words of the files, and of a complete pipeline that is the base."""
        own = self.base_metadata.get("trigger_words", [])
        files = (*filter(None, [self.network]), *self.files)
        return tuple(dict.fromkeys([*own, *(word for file in files for word in file.trigger_words)]))

    @property
    def summaries(self) -> list[str]:
        """A line for a fine-tuned base and for each file: kind, trigger words, base model."""
        metadata = self.base_metadata
        base = [summary_line(self.base, "complete model", metadata, metadata.get("trigger_words", ()))] if metadata else []
        return base + [file.summary for file in (*filter(None, [self.network]), *self.files)]


def find_learned(base: str | None, weights: Sequence[tuple[str | Path, Scale]]) -> Learned:
    """Finds and checks learned weights, and the base model that they name where none is given.

    weights: (path, scale) of .safetensors files, run folders, or complete pipeline folders (each is a base model).
    Raises InputError with every problem found.
    """
    problems: list[Problem] = []
    pipelines: list[Path] = []
    files: list[LearnedFile] = []
    for name, scale in weights:
        path = Path(os.path.expanduser(name))
        run_folder.settle(path)
        try:
            path = weights_in(path)
            if model := complete_model(path):
                pipelines.append(model)
                if scale != 1:
                    what = f"{path} is a complete model, which has no scale"
                    problems.append(Problem(SETTING, what, "leave the scale out"))
            else:
                files += [check_file(file, scale) for file in files_of(path)]
        except InputError as error:
            problems += error.problems
    if len(pipelines) + (base is not None) > 1:
        what = f"several base models: {', '.join([*([base] if base else []), *map(str, pipelines)])}"
        problems.append(Problem(SETTING, what, "a complete model is a base model itself: give only one"))
    networks = [file for file in files if file.is_network]
    files = [file for file in files if not file.is_network]
    for file in networks:
        if file.scale != 1:
            problems.append(Problem(SETTING, f"{file.path} is a fully trained network, which has no scale", "leave it out"))
    if len(networks) > 1:
        what = f"several fully trained networks: {', '.join(str(file.path) for file in networks)}"
        problems.append(Problem(SETTING, what, "give only one"))
    problems += clashes(files)
    for file in (*networks, *files):
        find_base(file)
    base, found = base_of(base, pipelines, [*networks, *files])
    problems += found
    problems += of_other_families(base, files)
    base_metadata: dict[str, Any] = {}
    try:
        base_metadata = metadata_of_base(base)
    except InputError as error:
        problems += error.problems
    if problems:
        raise InputError(problems)
    return Learned(base, tuple(files), base_metadata, networks[0] if networks else None)


@refusing_unreadable()
def complete_model(path: Path) -> Path | None:
    """The complete model at a path, which is a base model by itself: a folder in diffusers' layout, or a single file in the
    original layout, also in the folder of a run. None for other weights."""
    if path.suffix == ".safetensors" and path.is_file():
        names = read_header(path).tensors
        return path if all(any(map(str.startswith, names, repeat(prefix))) for prefix in (UNET, VAE)) else None
    return run_folder.model_in(run_folder.at_step(path))


def metadata_of_base(base: str | None) -> dict[str, Any]:
    """Our own metadata of a complete model, if it was written here. Raises InputError where that is damaged."""
    if base is None or base in INCLUDED:
        return {}
    path = Path(os.path.expanduser(base))
    model = run_folder.model_in(path) or path
    if model.suffix == ".safetensors" and model.is_file():
        return metadata_of(read_header(model), model)
    beside = path / run_folder.METADATA
    try:
        return parse_metadata(beside.read_text(encoding="utf-8"), beside) if beside.is_file() else {}
    except (InputError, OSError, UnicodeDecodeError) as error:
        raise InputError(damaged(beside)) from error


def base_of(base: str | None, pipelines: Sequence[Path], files: Sequence[LearnedFile]) -> tuple[str | None, list[Problem]]:
    """The base model: the given one, a complete pipeline among the weights, or the one that the files name."""
    problems = [] if base else list(unknown_bases(files))
    named = {file.metadata["base_model"] for file in files if "base_model" in file.metadata}
    if not base and not pipelines and len(named) > 1:
        remedy = "choose one with --pretrained_model_name_or_path"
        problems.append(Problem(SETTING, f"learned on different base models: {', '.join(sorted(named))}", remedy))
    return base or (str(pipelines[0]) if pipelines else next(iter(named), None)), problems


def of_other_families(base: str | None, files: Iterable[LearnedFile]) -> Iterator[Problem]:
    """The problems of files that are known to belong to another family or version of base models than `base`, where that is found
    here."""
    path = INCLUDED.get(base or "", Path(os.path.expanduser(base or "")))
    if not base or not path.exists():
        return
    family = specs.recognised(path)
    names, width = family.prompt_widths, family.prompt_width(path)
    for file in files:
        tensors = file.header.tensors
        others = [spec for spec in specs.every() if spec.learned_on(tensors)]
        theirs = prompt_width(tensors, [name for own in file.placeholders.values() for name in own], family)
        if others and family not in others:
            made_for, ours = others[0].title, family.title
        elif width in names and theirs in names and theirs != width:
            made_for, ours = names[theirs], names[width]
        else:
            continue
        what = printable(f"{file.path} was learned on {made_for}; {base} is {ours}")
        yield Problem(SETTING, what, f"give weights that were learned on {ours}, or another base model")


def find_base(file: LearnedFile) -> None:
    """Replaces the name of the file's base model by its location, where the run that the file belongs to recorded it."""
    name = file.metadata.get("base_model")
    if name and (place := local_base(file.path, name)):
        file.metadata["base_model"] = place


def unknown_bases(files: Iterable[LearnedFile]) -> Iterator[Problem]:
    """The problems of files whose base model is neither a name on the hub nor a local path."""
    for file in files:
        name = file.metadata.get("base_model") or "demo"
        if name not in INCLUDED and "/" not in name and "\\" not in name and not os.path.exists(os.path.expanduser(name)):
            what = printable(f"{file.path} was learned on {name}, whose location is not known")
            yield Problem(SETTING, what, "give its path with --pretrained_model_name_or_path")


def clashes(files: Iterable[LearnedFile]) -> list[Problem]:
    """The problems of placeholders that several files define."""
    origin: dict[str, Path] = {}
    problems = []
    for file in files:
        for placeholder in file.placeholders:
            if placeholder in origin:
                what = f"both {origin[placeholder]} and {file.path} define {placeholder}"
                problems.append(Problem(SETTING, what, "load one of them"))
            origin.setdefault(placeholder, file.path)
    return problems
