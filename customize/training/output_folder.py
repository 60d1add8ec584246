"""Checks the folder of a training run before it starts, lists what `overwrite_output_dir` removes, and writes config.toml."""

import os
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

from customize.errors import InputError, Problem
from customize.families import specs
from customize.families.source import INCLUDED
from customize.printable import first_few
from customize.settings.field import table
from customize.settings.files import run_folders
from customize.settings.texts import PATHS
from customize.storage import lock, manifest, ownership
from customize.storage.atomic import write_text
from customize.storage.run_folder import (
    BEFORE_AFTER,
    CARD,
    CHECKPOINTS,
    CONFIG,
    KOHYA_LORA,
    LOG,
    LORA,
    METADATA,
    MODEL,
    SAMPLES,
    SHEET,
    WEIGHTS,
    check_place,
    model_in,
)

WRITTEN = (
    CONFIG, LOG, CARD, CHECKPOINTS, SAMPLES, WEIGHTS, BEFORE_AFTER, "learned_embeds*.safetensors", LORA, KOHYA_LORA,
    MODEL, manifest.NAME, METADATA,
)  # fmt: skip
"""Patterns of the files that a run writes into its folder, without those of a complete pipeline."""


def written() -> tuple[str, ...]:
    """Patterns of all files that a run may write into its folder."""
    return (*WRITTEN, *specs.pipeline_files())


def check(settings) -> Path:
    """The run's folder. Raises InputError when it contains a run and the settings neither resume nor overwrite it, when another
    process is using it, when the user's files are where the run would write, or when it is no folder or not writable."""
    folder = run_folders.place(settings)
    check_place("output_dir", folder)
    lock.check(folder)
    record = ownership.Record(folder)
    for inner in (CHECKPOINTS, SAMPLES, WEIGHTS):
        if (folder / inner).is_dir():
            os.listdir(folder / inner)  # raises where it may not be listed
            check_place("output_dir", folder / inner)
    ours = record.files()
    if settings.resume_from_checkpoint:
        refuse_other_form(settings, folder)
        refuse_left_layout(settings, folder, record)
    blocking = foreign_results(settings, folder, record) if settings.resume_from_checkpoint else foreign_files(folder, record)
    names = first_few([path.relative_to(folder.absolute()).as_posix() for path in blocking])
    resume = "--resume_from_checkpoint latest resumes it"
    if blocking and settings.resume_from_checkpoint:
        what = f"{folder} contains files that the run would overwrite but did not write, or that were changed since: {names}"
        raise InputError(Problem("output_dir", what, "move them away, or start over in another --output_dir"))
    if blocking and ours:
        what = f"{folder} already contains a run, and other files where a run writes: {names}"
        raise InputError(Problem("output_dir", what, f"{resume}; for a new run, name another folder or move those files away"))
    if blocking:
        what = f"{folder} contains no run, but files that a run would overwrite: {names}"
        earlier = f"; if it is a run of an earlier version, {resume}" if (folder / CONFIG).is_file() else ""
        raise InputError(Problem("output_dir", what, f"name another folder{earlier}"))
    if ours and not (settings.resume_from_checkpoint or settings.overwrite_output_dir):
        remedy = "add --resume_from_checkpoint latest, or --overwrite_output_dir, or name another --output_dir"
        raise InputError(Problem("output_dir", f"{folder} already contains a run ({count_of(ours)})", remedy))
    name = os.path.normpath(settings.logging_dir)
    if name.startswith(".") or Path(name).name != name or any(fnmatch(name, pattern) for pattern in written()):
        what = f'"{settings.logging_dir}" is not a plain, unused name for a folder in output_dir'
        raise InputError(Problem("logging_dir", what, "use a name such as logs"))
    if problems := list(removed_inputs(settings, folder, ours)) if settings.overwrite_output_dir else ():
        raise InputError(problems)
    return folder


def refuse_other_form(settings, folder: Path) -> None:
    """Raises InputError if the run to resume has a complete model as its result, in another form than the settings say: two
    models would lie in one folder."""
    if settings.trains_whole_networks and (model := model_in(folder)) and model.is_file() != settings.writes_model_file:
        form = "safetensors" if model.is_file() else "diffusers"
        what = f"would change: {folder} has a result in the form of {form}"
        remedy = f"resume with --save_model_as {form}; customize convert makes the other form of the result"
        raise InputError(Problem("save_model_as", what, remedy))


def refuse_left_layout(settings, folder: Path, record: ownership.Record) -> None:
    """Raises InputError if the run to resume has a LoRA in a layout that the settings leave out: it would stay beside the new
    result, and be loaded instead."""
    new, files = set(settings.result_files), {"diffusers": LORA, "kohya": KOHYA_LORA}
    left = [name for name in files.values() if new & {*files.values()} and name not in new]
    if any(ownership.is_ours(folder / name, record) for name in left):
        found = [layout for layout, name in files.items() if (folder / name).is_file()]
        what = f"would change: {folder} has a result in the layout of {' and of '.join(found)}"
        remedy = f"resume with --lora_format {'both' if len(found) > 1 else found[0]}; customize convert makes other layouts"
        raise InputError(Problem("lora_format", what, remedy))


def count_of(files: list[Path]) -> str:
    """The number of files, in words."""
    return f"{len(files)} file{'s' * (len(files) != 1)}"


def removal(settings, folder: Path) -> str:
    """What `overwrite_output_dir` will remove, in words; empty if nothing."""
    if not settings.overwrite_output_dir or not (files := ownership.Record(folder).files()):
        return ""
    names = first_few([path.relative_to(folder.absolute()).as_posix() for path in files])
    return f"overwrite_output_dir removes {count_of(files)} of an earlier run in {folder}: {names}"


def removed_inputs(settings, folder: Path, ours: list[Path]) -> Iterator[Problem]:
    """The problems of files that the run reads, but `overwrite_output_dir` would remove."""
    doomed = [Path(os.path.realpath(path)) for path in ours]
    for name, line in table(type(settings)).items():
        if line.text in PATHS and name not in ("output_dir", "resume_from_checkpoint"):
            values = getattr(settings, name)
            for value in filter(is_place, values if line.many else [values]):
                path = Path(os.path.realpath(value))
                read = [Path(os.path.realpath(path / part)) for part in written()] if line.text == "model" else [path]
                if any(entry.is_relative_to(each) for each in [*read, path] for entry in doomed):
                    what = f"{value} would be removed by overwrite_output_dir with the earlier run in {folder}"
                    yield Problem(name, what, "move it, or name another --output_dir")


def is_place(value: str | None) -> bool:
    """Whether the value of a setting is an existing local path: not None, the embedded model or a name on the hub."""
    return value is not None and value not in INCLUDED and os.path.exists(value)


def foreign_files(folder: Path, record: ownership.Record) -> list[Path]:
    """Files where a run writes that the program did not write. A foreign config.toml is allowed: settings are saved beside it."""
    found = []
    for path in sorted(path for pattern in written() if pattern != CONFIG for path in folder.glob(pattern)):
        inner = path.name in (CHECKPOINTS, SAMPLES, WEIGHTS) and path.is_dir()
        places = [each for pattern in ("step-*", SHEET) for each in sorted(path.glob(pattern))] if inner else [path]
        found += [each for place in places for each in ownership.foreign(place, record)]
    return found


def foreign_results(settings, folder: Path, record: ownership.Record) -> list[Path]:
    """Files under the names of the run's result that the program did not write."""
    return [
        each for name in (manifest.NAME, METADATA, *settings.result_files) for each in ownership.foreign(folder / name, record)
    ]


def config(settings) -> str:
    """The settings that start the same run again, as TOML, without those that must be given each time."""
    each_time = ("overwrite_output_dir", "resume_from_checkpoint", "change_learning_rate")
    kept = {name: value for name, value in settings.values().items() if name not in each_time}
    return type(settings)(**kept).to_toml()


def write_config(settings, folder: Path) -> Path:
    """Writes the settings into the folder, beside a config.toml of the user; returns the file written."""
    text, path = config(settings), folder / CONFIG
    with suppress(OSError):
        if path.read_bytes() == text.encode():
            return path
    return write_text(path, text)
