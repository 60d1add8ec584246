"""Files of prompts that were encoded before: safetensors in which the name of each tensor is its prompt. Without torch.

L tokens, D embedding width.
"""

import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from customize.errors import InputError, Problem
from customize.printable import first_few, printable
from customize.storage.safetensors_header import TensorInfo, read_header, refuse_not_finite
from customize.storage.untrusted_files import PICKLES

SETTING = "prompt_embeddings"
AGAIN = "make it with `customize embed-prompts`: a safetensors file whose tensors [L, D] are named by their prompts"
CONVERT = (
    "pickles can run code when they are loaded; convert it once, in Python: import torch, safetensors.torch; "
    "found = torch.load({name!r}, map_location='cpu', weights_only=True); "
    "safetensors.torch.save_file({{text: each.contiguous() for text, each in found.items()}}, {target!r})"
)
MODEL = "prompts_encoded_by"
"""In the metadata: the model whose text encoder was used."""


@dataclass(frozen=True)
class PromptEmbeddings:
    """The prompts of a file, by `key`, with the name of the tensor of each; shape: (L, D) of all of them."""

    path: Path
    names: Mapping[str, str]
    shape: tuple[int, int]


def key(prompt: str) -> str:
    """What counts of a prompt: DeepFloyd IF reads lower case, without space around."""
    return prompt.lower().strip()


def read(path: Path) -> PromptEmbeddings:
    """The prompts of a file, whose tensors are [L, D] or [1, L, D]. Raises InputError for a file that holds anything else."""
    if path.suffix.lower() in PICKLES:
        remedy = CONVERT.format(name=str(path), target=str(path.with_suffix(".safetensors")))
        raise InputError(Problem(SETTING, f"{printable(path)} is a pickle", printable(remedy, 1000)))
    header = read_header(path)
    shapes = {name: shape_of(info) for name, info in header.tensors.items()}
    if wrong := [name for name, shape in shapes.items() if shape is None]:
        what = f"{path} holds tensors that are no embeddings of a prompt: {first_few(wrong, 3)}"
        raise InputError(Problem(SETTING, printable(what), AGAIN))
    if len(different := set(shapes.values())) != 1:
        what = "no prompts" if not different else f"prompts of different shapes: {sorted(filter(None, different))[:3]}"
        raise InputError(Problem(SETTING, printable(f"{path} holds {what}"), AGAIN))
    refuse_not_finite(path, header)
    (shape,) = filter(None, different)
    return PromptEmbeddings(path, {key(name): name for name in shapes}, shape)


def shape_of(info: TensorInfo) -> tuple[int, int] | None:
    """(L, D) of a tensor [L, D] or [1, L, D] of floats; None for any other."""
    shape = info.shape[1:] if info.shape[:1] == (1,) and len(info.shape) == 3 else info.shape
    return (shape[0], shape[1]) if len(shape) == 2 and info.dtype in ("F16", "BF16", "F32", "F64") else None


def missing(path: str, prompts: Iterable[str], base: str) -> list[Problem]:
    """The problem of prompts that a file lacks, with the command that makes a file with all of them. Raises InputError."""
    prompts, known = list(dict.fromkeys(prompts)), read(Path(os.path.expanduser(path))).names
    lacking = [prompt for prompt in prompts if key(prompt) not in known]
    if not lacking:
        return []
    flags = "".join(f" --prompt {shlex.quote(prompt)}" for prompt in prompts if prompt)
    remedy = f"encode them: customize embed-prompts {shlex.quote(base)}{flags} --output FILE.safetensors"
    return [
        Problem(SETTING, printable(f"{path} lacks {first_few([repr(each) for each in lacking], 5)}"), printable(remedy, 5000))
    ]
