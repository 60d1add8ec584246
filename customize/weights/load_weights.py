"""Learned weights from files into the networks of a family.

N vectors of a word, D embedding width.
"""

from collections.abc import Sequence

from safetensors.torch import load_file
from torch import Tensor

from customize.errors import InputError, Problem
from customize.families.base import Family
from customize.families.token_table import token_table
from customize.weights.loaded import Loaded, LoadedAdapter, LoadedTogether, LoadedWords
from customize.weights.weight_file import SETTING, LearnedFile, listed, other_base


def joined(files: Sequence[LearnedFile], words: Sequence[LoadedWords | None], adapters: Sequence[LoadedAdapter]) -> list[Loaded]:
    """What each file holds: words, an adapter, or both."""
    left, found = list(adapters), []
    for file, own in zip(files, words, strict=True):
        members: list[Loaded] = [left.pop(0)] if file.is_adapter else []
        members += [own] if own else []
        found.append(members[0] if len(members) == 1 else LoadedTogether(tuple(members)))
    return found


def read_tensors(file: LearnedFile) -> dict[str, Tensor]:
    """The tensors of a file. Raises InputError for NaN and infinity."""
    tensors = load_file(file.path)
    broken = sorted(name for name, tensor in tensors.items() if not tensor.float().isfinite().all())
    if broken:
        what = f"{file.path}: NaN or infinity in {listed(broken)}"
        raise InputError(Problem(SETTING, what, "the training went wrong: use earlier weights"))
    return tensors


def add_embeddings(family: Family, file: LearnedFile, tensors: dict[str, Tensor]) -> LoadedWords | None:
    """Teaches the family the words of a file, each with its vectors [N, D]; None for a file without words. Raises InputError."""
    if not file.placeholders:
        return None
    encoder = family.text_encoders[0]
    table, vectors = token_table(encoder.module), {}
    width = encoder.width
    for placeholder, key in file.placeholders.items():
        own = tensors[key].float().view(-1, tensors[key].shape[-1])
        if own.shape[-1] != width:
            what = f"{file.path}: {placeholder} is {own.shape[-1]} wide; words of this base model are {width} wide"
            raise InputError(Problem(SETTING, what, other_base(file)))
        vectors[len(table.vectors)] = own
        encoder.add_tokens(placeholder, own.clone())
    return LoadedWords(table, vectors)
