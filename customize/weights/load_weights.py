"""Loads learned weights from files into the networks of a family.

N vectors of a word, D embedding width.
"""

from collections.abc import Sequence

from safetensors.torch import load_file
from torch import Tensor

from customize.errors import InputError, Problem
from customize.families.base import Family
from customize.families.text_encoder import vectors_by_encoder
from customize.weights.loaded import Loaded, LoadedAdapter, LoadedTogether, LoadedWords
from customize.weights.weight_file import SETTING, LearnedFile, listed, other_base


def joined(files: Sequence[LearnedFile], words: Sequence[LoadedWords | None], adapters: Sequence[LoadedAdapter]) -> list[Loaded]:
    """The loaded words, adapter, or both of each file."""
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
        raise InputError(Problem(SETTING, what, "the training diverged: use earlier weights"))
    return tensors


def add_embeddings(family: Family, file: LearnedFile, tensors: dict[str, Tensor]) -> LoadedWords | None:
    """Adds the words of a file to the family, each with its vectors [N, D]; None for a file without words. Raises InputError."""
    if not file.placeholders:
        return None
    vectors = []
    for placeholder, names in file.placeholders.items():
        try:
            own = vectors_by_encoder(family.text_encoders, {name: tensors[name] for name in names})
        except ValueError as error:
            made_for = family.spec.prompt_widths.get(sum({tensors[name].shape[-1] for name in names}), "another base model")
            what = f"{file.path}: {placeholder} {error}; it was learned on {made_for}"
            raise InputError(Problem(SETTING, what, other_base(file))) from error
        for encoder, each in zip(family.text_encoders, own, strict=True):
            encoder.add_tokens(placeholder, each.clone())
            vectors.append((encoder.vectors[placeholder], each))
    return LoadedWords(vectors)
