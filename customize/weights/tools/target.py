"""The file that a command on weights writes: nothing is in its way, and nothing of others is replaced."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from customize.errors import InputError, Problem
from customize.printable import first_few, printable
from customize.storage import ownership
from customize.storage.atomic import write_text
from customize.storage.disk import make_folder
from customize.storage.untrusted_files import reason
from customize.weights.peft_config import PEFT_CONFIG, PEFT_FILE

if TYPE_CHECKING:
    from torch import Tensor

FREE = "name another path"
SUFFIX = ".safetensors"


def in_the_way(target: Path, sources: Sequence[Path], overwrite: bool) -> Iterator[Problem]:
    """The problems that prevent writing a .safetensors file. sources: files that are read. Does not import torch."""
    if problem := impossible(target):
        yield problem
        return
    path = Path(os.path.realpath(target))
    blocking = next((each for each in path.parents if os.path.lexists(each) and not each.is_dir()), None)
    if target.suffix.lower() != SUFFIX:
        yield Problem(str(target), f"is not the name of a {SUFFIX} file", f"name it {target.stem.strip('.') or 'out'}{SUFFIX}")
    elif blocking:
        yield Problem(str(target), f"{blocking} is a file", FREE)
    elif any(path == Path(os.path.realpath(source)) for source in sources):
        yield Problem(str(target), "is the file to read", FREE)
    elif path.is_dir():
        yield Problem(str(target), "is a folder", FREE)
    elif os.path.lexists(target) and not path.exists():
        yield Problem(str(target), "is a broken link", FREE)
    elif path.exists() and not path.is_file():
        yield Problem(str(target), "is no regular file", FREE)
    elif path.exists() and ownership.foreign(path, ownership.Record(path.parent)):
        yield Problem(str(target), "was not written by this program, or was changed since", FREE)
    elif target.name == PEFT_FILE and (found := ownership.foreign(path.with_name(PEFT_CONFIG), ownership.Record(path.parent))):
        yield Problem(str(found[0]), "was not written by this program, or was changed since", FREE)
    elif path.exists() and not overwrite:
        yield Problem(str(target), "already exists", f"add --overwrite, or {FREE}")
    elif locked := not_writable(path):
        yield locked


def impossible(target: Path) -> Problem | None:
    """The problem of a path that the system does not allow, such as one with a name that is too long."""
    try:
        os.lstat(target)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        return Problem(printable(target), f"cannot be written ({reason(error)})", FREE)
    return None


def not_writable(path: Path) -> Problem | None:
    """The problem of a path in a folder in which the user must not write."""
    folder = next(each for each in path.parents if each.is_dir())
    if os.access(folder, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        return None
    return Problem(printable(path), f"cannot be written: {printable(folder)} is read-only for you", FREE)


def write_configuration(target: Path, configuration: Mapping[str, Any]) -> None:
    """Writes peft's configuration of an adapter beside its file."""
    with ownership.recording(target.absolute().parent):
        write_text(target, json.dumps(configuration, indent=2, sort_keys=True) + "\n")


def write(target: Path, tensors: "Mapping[str, Tensor]", metadata: Mapping[str, str], precision: str | None = None) -> None:
    """Writes the tensors in a precision of `save_precision`; None: in their own number formats. Raises InputError, with nothing
    written, for numbers beyond the range of float32."""
    from customize.storage.tensor_files import save_tensors

    if wrong := [name for name, tensor in tensors.items() if not tensor.float().isfinite().all()]:
        what = f"would have numbers beyond the range of float32 in {len(wrong)} tensors: {first_few(wrong, 3)}"
        raise InputError(Problem(printable(target), what, "give weights, or scales, that are smaller"))
    make_folder(target.absolute().parent)
    with ownership.recording(target.absolute().parent):
        save_tensors(target, tensors, metadata, precision)
