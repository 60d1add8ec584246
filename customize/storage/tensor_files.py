"""Saves tensors to safetensors files: small ones at once, read back and compared bit for bit; a whole model one tensor at a
time."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from customize import events
from customize.printable import first_few
from customize.storage.atomic import write_bytes
from customize.storage.safetensors_header import PENDING

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Values of the setting `save_precision` -> dtype."""
NOTATION = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}
"""What safetensors calls the number formats of a model."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], precision: str | None = "fp32") -> Path:
    """Write tensors to a safetensors file, read it back and compare. Raises OSError if they differ.

    precision: fp32, fp16 or bf16; tensors beyond the range of fp16 stay in fp32, with a note. None: the tensors' own.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    if precision:
        tensors = rounded({name: tensor.float() for name, tensor in tensors.items()}, precision, path.name)
    data = save(tensors, {"format": "pt", **metadata})
    start = 8 + int.from_bytes(data[:8], "little")
    write_bytes(path, with_hash(data[:start], hashlib.sha256(memoryview(data)[start:])) + data[start:])
    read = load_file(path)
    if read.keys() != tensors.keys() or not all(torch.equal(read[name], tensors[name]) for name in tensors):
        raise OSError(f"{path} does not contain what was written to it")
    return path


def with_hash(header: bytes, digest: Any) -> bytes:
    """The header with the SHA-256 of all bytes after it where the metadata has `PENDING`."""
    return header.replace(PENDING.encode(), digest.hexdigest().encode())


def rounded(tensors: dict[str, Tensor], precision: str, where: str) -> dict[str, Tensor]:
    """The tensors in another format; those that would overflow stay in fp32, with a note, and so do scalars that would change."""
    if precision == "fp32":
        return tensors
    dtype = PRECISIONS[precision]
    found = {
        name: tensor.to(dtype) if tensor.dim() or tensor.to(dtype).float() == tensor else tensor
        for name, tensor in tensors.items()
    }
    too_large = [name for name, tensor in found.items() if not tensor.isfinite().all()]
    if too_large:
        events.note(f"{where}: too large for {precision}, kept in fp32: {first_few(too_large, 3)}")
    return found | {name: tensors[name] for name in too_large}


@dataclass(frozen=True)
class Plan:
    """A safetensors file to write: its header, and the dtype and first byte of each tensor; size: of the file, in bytes."""

    header: bytes
    places: Mapping[str, tuple[torch.dtype, int]]
    size: int


def plan_of(tensors: Iterable[tuple[str, Tensor]], metadata: Mapping[str, str], precision: str, where: str) -> Plan:
    """Places the tensors in a file; those with the largest numbers come first, so that each number is aligned.

    Tensors beyond the range of fp16 stay in fp32, with a note.
    """
    found = {name: (format_of(tensor, precision), tuple(tensor.shape)) for name, tensor in tensors}
    if large := [name for name, (dtype, shape) in found.items() if precision != "fp32" and dtype == torch.float32 and shape]:
        events.note(f"{where}: too large for {precision}, kept in fp32: {first_few(large, 3)}")
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    begins, end = {}, 0
    for name, (dtype, shape) in sorted(found.items(), key=lambda item: (-item[1][0].itemsize, item[0])):
        begins[name], end = end, end + prod(shape) * dtype.itemsize
        header[name] = {"dtype": NOTATION[dtype], "shape": shape, "data_offsets": [begins[name], end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    start = 8 + len(text)
    places = {name: (dtype, start + begins[name]) for name, (dtype, _) in found.items()}
    return Plan(len(text).to_bytes(8, "little") + text, places, start + end)


def format_of(tensor: Tensor, precision: str) -> torch.dtype:
    """The dtype of a tensor in a file of this precision: its own for whole numbers and scalars, fp32 where it would overflow."""
    if not tensor.is_floating_point() or not tensor.dim():
        return tensor.dtype
    dtype = PRECISIONS[precision]
    return dtype if dtype == torch.float32 or tensor.is_meta or tensor.to(dtype).isfinite().all() else torch.float32


def write_tensors(path: Path, planned: Plan, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Writes the planned tensors into a new file, one at a time; no other copy is in memory."""
    with open(path, "wb") as file:
        file.write(planned.header)
        for name, tensor in tensors:
            dtype, begin = planned.places[name]
            file.seek(begin)
            file.write(tensor.detach().to("cpu", dtype).contiguous().flatten().view(torch.uint8).numpy())
        file.truncate(planned.size)
    with open(path, "r+b") as file:
        file.seek(len(planned.header))
        digest = hashlib.file_digest(file, "sha256")
        file.seek(0)
        file.write(with_hash(planned.header, digest))
