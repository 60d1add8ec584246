"""Encodes prompts of any length to hidden states, in chunks, with a weight for each token.

B prompts, N chunks, L tokens that the text encoder reads at once (two of them mark start and end), D embedding width.

Chunks are split and weights are applied as in AUTOMATIC1111's stable-diffusion-webui ("Original" emphasis), so prompts
written for it have the same meaning here.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from customize.diffusion.dropout import is_active
from customize.errors import InputError, Problem
from customize.families.text_encoder import EncodedText, TextEncoder
from customize.prompts import BREAK, Span

Prompt = str | Sequence[Span]
"""A literal text, or the spans of a parsed prompt."""
NEAR = 20  # a chunk ends after its last comma if fewer tokens than this follow it
LEAST = 0.1  # the mean is restored by a factor of at most 1 / LEAST


@dataclass(frozen=True)
class Word:
    """Tokens that stay in one chunk: those of a learned word, or a single one."""

    input_ids: tuple[int, ...]
    weight: float


@dataclass(frozen=True)
class Chunk:
    """L tokens, which the text encoder reads at once, and their weights."""

    input_ids: tuple[int, ...]
    weights: tuple[float, ...]


def encode(encoder: TextEncoder, prompts: Sequence[Prompt], clip_skip: int | None = None, min_chunks: int = 1) -> EncodedText:
    """Hidden states [B, N * L, D] of prompts, and the pooled output of each first chunk.

    N: the largest number of chunks of any prompt, at least `min_chunks`.

    Prompts that must have the same length (such as prompt and negative prompt) are encoded in one call; shorter ones are
    padded with empty chunks. Each distinct chunk is encoded once and by itself, so that its bits do not depend on the other
    prompts. Only texts that all fit into one chunk, and captions of an encoder that is trained with dropout, are encoded in
    one batch. clip_skip: the number of last layers of the text encoder to skip. Raises InputError for a learned word that
    does not fit into a chunk.
    """
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    if len(texts) == len(prompts) and min_chunks == 1 and not any(map(encoder.words_beyond_the_end, texts)):
        return encoder.encode(encoder.tokenize(texts), clip_skip)
    rows = [chunks(encoder, spans_of(prompt)) for prompt in prompts]
    count = max(min_chunks, *map(len, rows))
    empty = padded(encoder, [])
    rows = [row + [empty] * (count - len(row)) for row in rows]
    if is_active(encoder.module):  # dropout masks are drawn for the whole batch and differ between chunks
        input_ids = torch.tensor([chunk.input_ids for column in zip(*rows, strict=True) for chunk in column])
        states, pooled = encoder.encode(input_ids.to(encoder.module.device), clip_skip)
        states = states.unflatten(0, (count, len(rows))).transpose(0, 1).flatten(1, 2)
        return EncodedText(states, None if pooled is None else pooled[: len(rows)])
    distinct = dict.fromkeys(chunk for row in rows for chunk in row)
    encoded = {chunk: encode_chunk(encoder, chunk, clip_skip) for chunk in distinct}
    pooled = [each for row in rows if (each := encoded[row[0]].pooled) is not None]
    states = torch.stack([torch.cat([encoded[chunk].hidden_states for chunk in row]) for row in rows])
    return EncodedText(states, torch.stack(pooled) if pooled else None)


def num_chunks(encoder: TextEncoder, prompt: Prompt) -> int:
    """The number of chunks of a prompt, at least 1."""
    if isinstance(prompt, str) and not encoder.words_beyond_the_end(prompt):
        return 1
    return len(chunks(encoder, spans_of(prompt)))


def spans_of(prompt: Prompt) -> Sequence[Span]:
    """The spans of a prompt; a text is one span."""
    return (Span(prompt),) if isinstance(prompt, str) else prompt


def encode_chunk(encoder: TextEncoder, chunk: Chunk, clip_skip: int | None = None) -> EncodedText:
    """Hidden states [L, D] with the weights of the chunk, and pooled [P] without."""
    input_ids = torch.tensor([chunk.input_ids], device=encoder.module.device)
    states, pooled = encoder.encode(input_ids, clip_skip)
    return EncodedText(weighted(states[0], chunk.weights), None if pooled is None else pooled[0])


def weighted(hidden_states: Tensor, weights: Sequence[float]) -> Tensor:
    """[L, D]: h' = w h mean(h) / mean(w h), the means over all of [L, D]. Weights of 1 change no bit.

    If the means of all tokens have the same sign, the quotient lies between 1 / max(w) and 1 / min(w). It is clamped to this
    range, because with a mean near 0 (as in our demo model) it would be noise.
    """
    if set(weights) == {1.0}:
        return hidden_states
    plain = hidden_states.to(torch.promote_types(hidden_states.dtype, torch.float32))
    changed = plain * torch.tensor(weights, dtype=plain.dtype, device=plain.device)[:, None]
    least, most = max(min(weights), LEAST), max(weights)
    factor = (plain.mean() / changed.mean()).nan_to_num(1).clamp(1 / most, 1 / least)
    return (changed * factor).to(hidden_states.dtype)


def chunks(encoder: TextEncoder, spans: Sequence[Span]) -> list[Chunk]:
    """The chunks of one prompt, at least one. Raises InputError for a learned word that does not fit into one."""
    size = encoder.tokenizer.model_max_length - 2
    comma = encoder.tokenizer.convert_tokens_to_ids(",</w>")
    return [padded(encoder, tokens) for tokens in cut(words(encoder, spans), size, comma)]


def words(encoder: TextEncoder, spans: Sequence[Span]) -> Iterator[Word | None]:
    """The tokens of the spans; None for BREAK."""
    learned = {encoder.tokenizer.convert_tokens_to_ids(word): len(tokens) for word, tokens in encoder.placeholders.items()}
    for span in spans:
        if span == BREAK:
            yield None
            continue
        input_ids = encoder.tokenizer(encoder.expand(span.text), add_special_tokens=False, verbose=False).input_ids
        place = 0
        while place < len(input_ids):
            length = learned.get(input_ids[place], 1)
            yield Word(tuple(input_ids[place : place + length]), span.weight)
            place += length


def cut(words: Iterable[Word | None], size: int, comma: int) -> list[list[tuple[int, float]]]:
    """Splits words into lists of at most `size` (token, weight). A new list starts at None, and when a word does not fit.

    The tokens after the last comma of a full list move to the next list, if there are fewer than `NEAR`.
    """
    result: list[list[tuple[int, float]]] = [[]]
    after_comma = 0
    for word in words:
        if word is None:
            result.append([])
            after_comma = 0
            continue
        length = len(word.input_ids)
        if length > size:
            what = f"a learned word has {length} vectors, but the text encoder reads {size} at once"
            raise InputError(Problem("prompt", what, "leave it out"))
        if len(result[-1]) + length > size:
            is_near = after_comma and len(result[-1]) - after_comma < NEAR and word.input_ids != (comma,)
            place = after_comma if is_near else len(result[-1])
            moved = result[-1][place:]
            del result[-1][place:]
            result += [moved] if len(moved) + length <= size else [moved, []]
            after_comma = 0
        result[-1] += [(token, word.weight) for token in word.input_ids]
        if word.input_ids == (comma,):
            after_comma = len(result[-1])
    return result if result[-1] or len(result) == 1 else result[:-1]


def padded(encoder: TextEncoder, tokens: Sequence[tuple[int, float]]) -> Chunk:
    """At most L - 2 (token, weight) between the start and end tokens, padded to L."""
    tokenizer = encoder.tokenizer
    fill = tokenizer.model_max_length - 2 - len(tokens)
    input_ids = (tokenizer.bos_token_id, *(token for token, _ in tokens), tokenizer.eos_token_id)
    return Chunk(input_ids + (tokenizer.pad_token_id,) * fill, (1.0, *(weight for _, weight in tokens), 1.0) + (1.0,) * fill)
