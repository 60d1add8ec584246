"""A text encoder with its tokenizer, and the words added to both. A family has one or more.

B texts, L tokens that the encoder reads at once, D embedding width, N vectors of a word.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn
from transformers import AddedToken

from customize.errors import InputError, Problem
from customize.families.source import known_token_problems
from customize.families.token_table import added_words, token_table
from customize.printable import first_few


class EncodedText(NamedTuple):
    """Hidden states [B, L, D], and where the text encoder has a projection of whole texts, that [B, P]."""

    hidden_states: Tensor
    pooled: Tensor | None = None


class TextEncoder:
    """A CLIP text encoder.

    name: of the component and its folder (`text_encoder`, `text_encoder_2`); base: the base model's name, for messages;
    embedding_key: the name of this encoder's vectors in embedding files (`clip_l`, `clip_g`), if a family has several
    encoders. placeholders: the tokens of each added word; vectors: the vectors [N, D] of words added by `add_tokens`.
    """

    def __init__(self, name: str, module: nn.Module, tokenizer, base: str, embedding_key: str = ""):
        self.name, self.module, self.tokenizer, self.base = name, module, tokenizer, base
        self.embedding_key = embedding_key
        self.placeholders: dict[str, tuple[str, ...]] = added_words(tokenizer)
        self.vectors: dict[str, nn.Parameter] = {}

    @property
    def tokenizer_folder(self) -> str:
        """The folder of its tokenizer in diffusers' layout: `tokenizer`, `tokenizer_2`."""
        return self.name.replace("text_encoder", "tokenizer")

    @property
    def max_tokens(self) -> int:
        """L, including the start and end tokens."""
        return self.tokenizer.model_max_length

    @property
    def width(self) -> int:
        """D of the token embeddings."""
        return self.embeddings.shape[-1]

    @property
    def embeddings(self) -> Tensor:
        """The embeddings of the vocabulary [V, D], without added words."""
        return self.module.get_input_embeddings().weight

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Returns input_ids [B, L] on the encoder's device, padded. Raises InputError for a text that is longer than L."""
        problems = [
            Problem(f"prompt {text!r}", f"too long: {lost!r} would not be read", "shorten the prompt")
            for text in texts
            if (lost := self.words_beyond_the_end(text))
        ]
        if problems:
            raise InputError(problems)
        expanded = [self.expand(text) for text in texts]
        tokens = self.tokenizer(expanded, padding="max_length", truncation=True, return_tensors="pt")
        return tokens.input_ids.to(self.module.device)

    def encode(self, input_ids: Tensor, clip_skip: int | None = None) -> EncodedText:
        """input_ids: [B, L]; returns hidden states [B, L, D] of the last layer, normalised.

        clip_skip: the number of last layers to skip. Raises InputError if the encoder has no more than that.
        """
        if not clip_skip:
            return EncodedText(self.module(input_ids, return_dict=False)[0])
        if clip_skip >= (layers := self.module.config.num_hidden_layers):
            what = f"{clip_skip} is too many: the text encoder has {layers} layers"
            raise InputError(Problem("clip_skip", what, f"use at most {layers - 1}; 1 is usual (A1111's Clip skip 2)"))
        hidden_states = self.module(input_ids, output_hidden_states=True).hidden_states[-1 - clip_skip]
        return EncodedText(getattr(self.module, "text_model", self.module).final_layer_norm(hidden_states))

    def expand(self, text: str) -> str:
        """Replaces each placeholder by its tokens."""
        if not self.placeholders:
            return text
        expansions = {placeholder.casefold(): " ".join(tokens) for placeholder, tokens in self.placeholders.items()}
        patterns = "|".join(sorted(map(as_a_word, self.placeholders), key=len, reverse=True))
        # "<cat>s" becomes "<cat> <cat>_1 s": the tokenizer would not find the last token in "<cat>_1s"
        return re.sub(
            f"({patterns})(?=(\\w?))",
            lambda found: expansions[found[1].casefold()] + (" " if found[2] else ""),
            text,
            flags=re.IGNORECASE,
        )

    def words_beyond_the_end(self, text: str) -> str:
        """The end of the text that is beyond L; empty if all of it fits."""
        input_ids = self.tokenizer(self.expand(text), truncation=False, verbose=False).input_ids
        return self.tokenizer.decode(input_ids[self.max_tokens - 1 : -1])

    def initial_vectors(self, words: str, num_vectors: int) -> Tensor:
        """[num_vectors, D]: the embeddings of the words' tokens, cycled or cut to `num_vectors`.

        Raises InputError if the words contain no token.
        """
        input_ids = self.tokenizer(words, add_special_tokens=False).input_ids
        if not input_ids:
            raise InputError(Problem("initializer_token", f"{words!r} contains no token", "use a word such as toy"))
        rows = [input_ids[i % len(input_ids)] for i in range(num_vectors)]
        return self.embeddings[rows].detach().clone()

    def add_tokens(self, placeholder: str, vectors: Tensor) -> None:
        """Adds a placeholder with `vectors` [N, D]; a Parameter is used itself, not copied.

        Raises InputError if the placeholder is already in the vocabulary.
        """
        tokens = (placeholder, *(f"{placeholder}_{i}" for i in range(1, len(vectors))))
        if problems := known_token_problems(set(self.tokenizer.get_vocab()), tokens):
            raise InputError(problems)
        table = token_table(self.module)
        vectors = vectors if isinstance(vectors, nn.Parameter) else nn.Parameter(vectors, requires_grad=False)
        if len(self.tokenizer) != table.num_rows:
            what = f"its tokenizer has {len(self.tokenizer)} tokens, its text encoder {table.num_rows}"
            raise InputError(Problem(self.base, what, "use a base model in which both numbers agree"))
        self.tokenizer.add_tokens([AddedToken(token, single_word=is_letter(token[-1])) for token in tokens])
        table.vectors.append(vectors)
        self.placeholders[placeholder], self.vectors[placeholder] = tokens, vectors

    def tensor_name(self, placeholder: str) -> str:
        """The name of a placeholder's vectors in a file with several placeholders or encoders."""
        return self.name_beside_adapter(placeholder) if self.embedding_key else placeholder

    def name_beside_adapter(self, placeholder: str) -> str:
        """The name of a placeholder's vectors in a file that also has an adapter, as A1111 and OneTrainer write it."""
        return f"bundle_emb.{placeholder}.{self.embedding_key or 'string_to_param.*'}"


def vectors_by_encoder(encoders: Sequence[TextEncoder], tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """The vectors [N, D] of one word in float32, for each encoder: the tensor whose name ends in its `embedding_key`.

    For a single encoder the tensor may have any name. Raises ValueError, with the reason, for tensors of other encoders.
    """
    by_key = {name.rpartition(".")[2]: tensor for name, tensor in tensors.items()}
    keys = [encoder.embedding_key for encoder in encoders] if len(encoders) > 1 else [*by_key][:1]
    if len(tensors) != len(keys) or by_key.keys() != set(keys):
        expected = ", ".join(keys) if len(encoders) > 1 else "those of one text encoder"
        raise ValueError(f"has the vectors {first_few(sorted(tensors), 3)}; this base model takes {expected}")
    found = [by_key[key] for key in keys]
    for encoder, tensor in zip(encoders, found, strict=True):
        if tensor.shape[-1] != encoder.width:
            raise ValueError(f"is {tensor.shape[-1]} wide; words of this base model are {encoder.width} wide")
    return [tensor.float().reshape(-1, tensor.shape[-1]) for tensor in found]


def is_letter(character: str) -> bool:
    """Whether a character may continue a word: letters, digits and _ . `sks` ends only where none of them follows, `<cat>`
    anywhere."""
    return character.isalnum() or character == "_"


def as_a_word(placeholder: str) -> str:
    """A pattern that matches the placeholder, but not inside a longer word."""
    before, after = ("(?<!\\w)" if is_letter(placeholder[0]) else "", "(?!\\w)" if is_letter(placeholder[-1]) else "")
    return before + re.escape(placeholder) + after
