"""Saves tensors to safetensors files. Each file is read back and compared bit for bit with the tensors in memory."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from customize import events
from customize.printable import first_few
from customize.storage.atomic import write_bytes

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Values of the setting `save_precision` -> dtype."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], precision: str = "fp32") -> Path:
    """Write tensors to a safetensors file, read it back and compare. Raises OSError if they differ.

    precision: fp32, fp16 or bf16; tensors beyond the range of fp16 stay in fp32, with a note.
    """
    tensors = rounded(
        {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}, precision, path.name
    )
    write_bytes(path, save(tensors, {"format": "pt", **metadata}))
    read = load_file(path)
    if read.keys() != tensors.keys() or not all(torch.equal(read[name], tensors[name]) for name in tensors):
        raise OSError(f"{path} does not contain what was written to it")
    return path


def rounded(tensors: dict[str, Tensor], precision: str, where: str) -> dict[str, Tensor]:
    """The tensors (except scalars) in another format; those that would overflow stay in fp32, with a note."""
    if precision == "fp32":
        return tensors
    dtype = PRECISIONS[precision]
    found = {
        name: tensor.to(dtype) if tensor.dim() and tensor.is_floating_point() else tensor for name, tensor in tensors.items()
    }
    too_large = [name for name, tensor in found.items() if not tensor.isfinite().all()]
    if too_large:
        events.note(f"{where}: too large for {precision}, kept in fp32: {first_few(too_large, 3)}")
    return found | {name: tensors[name] for name in too_large}
