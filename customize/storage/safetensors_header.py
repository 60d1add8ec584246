"""Reads the header of a safetensors file and checks it against the file before anything is loaded."""

import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, NoReturn

from customize.errors import InputError, Problem
from customize.printable import printable
from customize.storage.untrusted_files import REMEDIES, START, kind_of, reason, regular_file

MAX_HEADER_BYTES = 25_000_000
"""A quarter of safetensors' own limit; the largest known headers, with the tags of a whole dataset, have a tenth."""
PICKLES = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # also the start of a valid length, such as 640
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
}  # fmt: skip

EXPONENTS = {"F8_E4M3": 0x7F, "F8_E5M2": 0x7C, "F16": 0x7C00, "BF16": 0x7F80, "F32": 0x7F80_0000, "F64": 0x7FF0_0000_0000_0000}
"""The bits of a number that are all set only in NaN and infinity."""
CHUNK = 1 << 20
MAX_AXES = 32
PENDING = "0" * 64
"""Stands in metadata for the SHA-256 of the file's tensors, which is known once they are written."""
GET_AGAIN = "get the file again, or save it again as safetensors"


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of the file: its dtype in safetensors' notation, its shape, and the position of its first byte."""

    dtype: str
    shape: tuple[int, ...]
    begin: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """Read and check the header of a safetensors file. Raises InputError with the file and the cause.

    Checks that the file is regular, the header's length, its JSON (unique names), each tensor's dtype, and that the tensors
    fill the rest of the file without gap or overlap.
    """
    try:
        with regular_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(START)
            file.seek(8)
            text = file.read(_header_length(start, size))
        return _header(_parsed(text), len(text), size)
    except _Fault as fault:
        raise InputError(Problem(printable(str(path)), printable(str(fault)), fault.remedy)) from None
    except OSError as error:
        remedy = "fix its permissions, or give another one" if isinstance(error, PermissionError) else GET_AGAIN
        raise InputError(Problem(printable(str(path)), f"cannot be read ({reason(error)})", remedy)) from error


def refuse_not_finite(path: Path, header: Header) -> None:
    """Raise InputError if a tensor of the file contains NaN or infinity."""
    broken = [name for name, info in header.tensors.items() if info.dtype in EXPONENTS and not _is_finite(path, info)]
    if broken:
        what = f"contains NaN or infinity in {len(broken)} of {len(header.tensors)} tensors, such as {_quoted(broken[0])}"
        remedy = "get the file again; if it was trained like this, train it again with a lower learning rate"
        raise InputError(Problem(printable(str(path)), printable(what), remedy))


def scalars(path: Path, header: Header, names: Iterable[str]) -> dict[str, float]:
    """The values of tensors of one element, by name; those of other shapes or number formats are left out."""
    import numpy as np

    kinds = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1", "U8": "<u1"}
    found = {}
    with regular_file(path) as file:
        for name in names:
            info = header.tensors[name]
            file.seek(info.begin)
            if prod(info.shape) != 1:
                continue
            if info.dtype == "BF16":  # the upper half of a float32
                found[name] = float(np.frombuffer(b"\0\0" + file.read(2), "<f4")[0])
            elif kind := kinds.get(info.dtype):
                found[name] = float(np.frombuffer(file.read(np.dtype(kind).itemsize), kind)[0])
    return found


class _Fault(ValueError):
    """What is wrong with the file, and the remedy."""

    def __init__(self, what: str, remedy: str = GET_AGAIN):
        self.remedy = remedy
        super().__init__(what)


def _header_length(start: bytes, size: int) -> int:
    """The length of the header in bytes, from the file's first bytes `start` and its size."""
    length = int.from_bytes(start[:8], "little")
    if size >= 8 and length <= min(MAX_HEADER_BYTES, size - 8):
        return length
    if start.startswith(PICKLES):
        raise _Fault("is a pickle, despite its name: pickles can run code when loaded and are not read")
    if kind := kind_of(start):
        raise _Fault(f"is {kind}, not a safetensors file", REMEDIES.get(kind, GET_AGAIN))
    if size >= 8 and length <= size - 8:
        raise _Fault(f"has a header of {length:,} bytes, more than {MAX_HEADER_BYTES:,}")
    raise _Fault(f"is not a complete safetensors file: {size} bytes, header of {length}")


def _parsed(text: bytes) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries = dict(pairs)
        if len(entries) < len(pairs):
            (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
            _damaged(f"{_quoted(name)} occurs twice")
        return entries

    def number(digits: str) -> float:
        return -0.0 if digits == "-0" else int(digits)  # safetensors does not accept -0 as a whole number either

    try:
        entries = json.loads(text.decode(), object_pairs_hook=once, parse_int=number)
    except UnicodeDecodeError:
        raise _Fault("has a damaged header: it is not UTF-8") from None
    except RecursionError:
        raise _Fault("has a damaged header: brackets are nested too deeply") from None
    except _Fault:
        raise
    except ValueError as error:
        raise _Fault(f"has a damaged header: it is not JSON ({error})") from None
    return entries if isinstance(entries, dict) else _damaged("it is not a JSON object")


def _header(entries: dict[str, Any], length: int, size: int) -> Header:
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        _damaged("its metadata is not an object of strings")
    spans, tensors = [], {}
    for name, entry in entries.items():
        match entry:
            case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, stop]}:
                numbers = [*shape, begin, stop]
                if not all(type(number) is int and 0 <= number < 1 << 63 for number in numbers):
                    _damaged(f"the shape or offsets of {_quoted(name)} are not whole numbers of at least 0")
                if len(shape) > MAX_AXES:
                    _damaged(f"{_quoted(name)} has {len(shape):,} axes")
                if dtype not in BITS:
                    raise _Fault(f"contains {_quoted(name)} in the unknown dtype {_quoted(dtype)}")
                tensors[name] = TensorInfo(dtype, tuple(shape), 8 + length + begin)
                spans.append((begin, stop, name))
            case _:
                _damaged(f"{_quoted(name)} has no dtype, shape and data_offsets")
    end = 0
    for begin, stop, name in sorted(spans):
        info = tensors[name]
        if begin != end:
            _damaged(f"the bytes of {_quoted(name)} {'overlap those of another' if begin < end else 'come after a gap'}")
        if (stop - begin) * 8 != prod(info.shape) * BITS[info.dtype]:
            _damaged(f"the bytes of {_quoted(name)} do not fit its shape")
        end = stop
    if 8 + length + end != size:
        raise _Fault(f"has the wrong size: {size} bytes, {8 + length + end} expected")
    return Header(tensors, metadata)


def _damaged(what: str) -> NoReturn:
    raise _Fault(f"has a damaged header: {what}")


def _quoted(name: str) -> str:
    return repr(name if len(name) <= 100 else f"{name[:97]}...")


def _is_finite(path: Path, info: TensorInfo) -> bool:
    import numpy as np  # not needed for --help

    kind, mask = np.dtype(f"<u{BITS[info.dtype] // 8}"), EXPONENTS[info.dtype]
    left = prod(info.shape)
    with regular_file(path) as file:
        file.seek(info.begin)
        while left > 0:
            bits = np.fromfile(file, kind, min(left, CHUNK)) & kind.type(mask)
            if not bits.size or (bits == mask).any():
                return False
            left -= bits.size
    return True
