"""Complete models as a folder in diffusers' layout or as a single file in the original layout, each made of the other."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from customize import events
from customize.errors import InputError, Problem
from customize.families import load, locate
from customize.families.specs import spec_of
from customize.families.specs.family_spec import Source
from customize.printable import printable
from customize.storage import ownership
from customize.storage.atomic import new_folder
from customize.storage.disk import make_folder
from customize.storage.safetensors_header import read_header
from customize.storage.untrusted_files import PICKLES
from customize.weights import model_spec
from customize.weights.learned_weights import metadata_of_base
from customize.weights.tools import target as output

DTYPES = {"F16": "fp16", "BF16": "bf16"}
"""Number formats that a model is kept in if all of its weights have them; otherwise it is written in fp32."""


def convert_model(model: str, target: Path, precision: str | None = None, overwrite: bool = False) -> None:
    """Writes a base model as a single file, if `target` ends with .safetensors, or as a folder, with its metadata.

    precision: a value of `save_precision`, None: that of the model. Raises InputError before anything is loaded or written.
    """
    source, to_file = locate(model), target.suffix == output.SUFFIX
    files = [file for file in spec_of(source).files(source) if file.suffix == output.SUFFIX]
    problems = list(output.in_the_way(target, files, overwrite) if to_file else folder_in_the_way(target, source, overwrite))
    try:
        metadata = metadata_of_base(model)
        if to_file:
            spec_of(source).refuse_single_file(source)
    except InputError as error:
        problems += [Problem(printable(model), each.what, "convert it into a folder") for each in error.problems]
    if problems:
        raise InputError(problems)
    precision = precision or precision_of(files)
    from customize.families.base import Placement
    from customize.families.whole_models.model_file import save_model_file
    from customize.families.whole_models.pipeline_folder import save_pipeline
    from customize.storage.tensor_files import PRECISIONS

    family = load(source, Placement(dtype=PRECISIONS[precision]))
    own = {"customize": json.dumps(metadata)} if metadata else {}
    if to_file:
        make_folder(target.absolute().parent)
        with ownership.recording(target.absolute().parent):
            save_model_file(target, family, own | model_spec.entries(own, family, ""), precision)
    else:
        with new_folder(target.absolute()) as unfinished:
            save_pipeline(unfinished, family, own, precision)
            ownership.sign(unfinished)
    events.info(f"{target}: {spec_of(source).title} in {precision}, as {'one file' if to_file else 'a folder'}")


def precision_of(files: list[Path]) -> str:
    """The number format that all weights of a model have, as a value of `save_precision`."""
    found = {info.dtype for file in files for info in read_header(file).tensors.values() if info.dtype[0] not in "IU"}
    return DTYPES.get(next(iter(found)), "fp32") if len(found) == 1 else "fp32"


def folder_in_the_way(target: Path, source: Source, overwrite: bool) -> Iterator[Problem]:
    """The problems that prevent writing a model's folder."""
    if problem := output.impossible(target):
        yield problem
        return
    path, own = Path(os.path.realpath(target)), Path(os.path.realpath(source.folder or source.file or ""))
    blocking = next((each for each in path.parents if os.path.lexists(each) and not each.is_dir()), None)
    present = sorted(path.iterdir()) if path.is_dir() else []
    if target.suffix.lower() in PICKLES:
        yield Problem(
            printable(target), "is the name of a pickle, which is not written", "end OUT with .safetensors for one file"
        )
    elif blocking or (os.path.lexists(target) and not path.is_dir()):
        yield Problem(str(target), f"{blocking or target} is a file", output.FREE)
    elif own.is_relative_to(path) or Path.cwd().is_relative_to(path):
        yield Problem(str(target), "is or contains the model to read, or the current folder", output.FREE)
    elif present and ownership.foreign(path, ownership.Record(path)):
        yield Problem(str(target), "was not written by this program, or was changed since", output.FREE)
    elif present and not overwrite:
        yield Problem(str(target), "already exists", f"add --overwrite, or {output.FREE}")
    elif locked := output.not_writable(path):
        yield locked
