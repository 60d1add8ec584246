"""The header of a safetensors file, checked against the file before anything is loaded from it."""

import json
import os
import stat
from dataclasses import dataclass
from math import prod
from pathlib import Path

from customize.errors import InputError, Problem

MAX_HEADER_BYTES = 100_000_000
PICKLES = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # also the start of a fitting length, such as 640
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
}  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of the file: its dtype by safetensors' name and its shape."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """What a safetensors file says about itself."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """Reads and checks the header of a safetensors file. Raises InputError naming the file and the cause.

    Checked: a regular file, the header's length, its JSON, each tensor's dtype, and that the tensors fill the rest of
    the file without gap or overlap.
    """

    def refuse(what: str) -> InputError:
        return InputError(Problem(str(path), what, "get the file again, or save it again as safetensors"))

    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise refuse("is not a regular file")
        with open(path, "rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            size = os.fstat(file.fileno()).st_size
            if len(start) < 8 or length > min(MAX_HEADER_BYTES, size - 8):
                if start.startswith(PICKLES):
                    raise refuse("is a pickle, whatever its name: it can run code when it is loaded, and is not read")
                raise refuse(f"is no whole safetensors file: {size} bytes, header of {length}")
            text = file.read(length)
    except OSError as error:
        raise refuse(f"cannot be read ({error.strerror})") from error
    try:
        entries = json.loads(text)
        metadata = {str(k): str(v) for k, v in entries.pop("__metadata__", {}).items()}
        offsets = {name: entry["data_offsets"] for name, entry in entries.items()}
        spans = sorted((int(begin), int(stop), name) for name, (begin, stop) in offsets.items())
        tensors = {name: TensorInfo(str(entry["dtype"]), tuple(map(int, entry["shape"]))) for name, entry in entries.items()}
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise refuse("has a damaged header") from error
    end = 0
    for begin, stop, name in spans:
        info = tensors[name]
        if info.dtype not in BITS:
            raise refuse(f"holds {name!r} in the unknown dtype {info.dtype!r}")
        if begin != end or min(info.shape, default=0) < 0 or (stop - begin) * 8 != prod(info.shape) * BITS[info.dtype]:
            raise refuse(f"has a damaged header: the bytes of {name!r} do not fit its shape")
        end = stop
    if 8 + length + end != size:
        raise refuse(f"is not whole: {size} bytes, {8 + length + end} expected")
    return Header(tensors, metadata)
