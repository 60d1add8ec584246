"""The file that a command on weights writes: nothing is in its way, and nothing of others is replaced."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from customize.errors import Problem
from customize.storage import ownership
from customize.storage.atomic import write_text
from customize.storage.disk import make_folder
from customize.weights.weight_file import PEFT_CONFIG, PEFT_FILE

if TYPE_CHECKING:
    from torch import Tensor

FREE = "name another path"
SUFFIX = ".safetensors"


def in_the_way(target: Path, sources: Sequence[Path], overwrite: bool) -> Iterator[Problem]:
    """The problems that prevent writing a .safetensors file. sources: files that are read. Does not import torch."""
    path = Path(os.path.realpath(target))
    blocking = next((each for each in path.parents if os.path.lexists(each) and not each.is_dir()), None)
    if target.suffix.lower() != SUFFIX:
        yield Problem(str(target), f"is not the name of a {SUFFIX} file", f"name it {target.with_suffix(SUFFIX).name}")
    elif blocking:
        yield Problem(str(target), f"{blocking} is a file", FREE)
    elif any(path == Path(os.path.realpath(source)) for source in sources):
        yield Problem(str(target), "is the file to read", FREE)
    elif path.is_dir():
        yield Problem(str(target), "is a folder", FREE)
    elif os.path.lexists(target) and not path.exists():
        yield Problem(str(target), "is a broken link", FREE)
    elif path.exists() and ownership.foreign(path, ownership.Record(path.parent)):
        yield Problem(str(target), "was not written by this program, or was changed since", FREE)
    elif target.name == PEFT_FILE and (found := ownership.foreign(path.with_name(PEFT_CONFIG), ownership.Record(path.parent))):
        yield Problem(str(found[0]), "was not written by this program, or was changed since", FREE)
    elif path.exists() and not overwrite:
        yield Problem(str(target), "already exists", f"add --overwrite, or {FREE}")


def write_configuration(target: Path, configuration: Mapping[str, Any]) -> None:
    """Writes peft's configuration of an adapter beside its file."""
    with ownership.recording(target.absolute().parent):
        write_text(target, json.dumps(configuration, indent=2, sort_keys=True) + "\n")


def write(target: Path, tensors: "Mapping[str, Tensor]", metadata: Mapping[str, str], precision: str | None = None) -> None:
    """Writes the tensors in a precision of `save_precision`; None: in their own number formats."""
    from customize.storage.tensor_files import save_tensors

    make_folder(target.absolute().parent)
    with ownership.recording(target.absolute().parent):
        save_tensors(target, tensors, metadata, precision)
