"""Where the prompts of DeepFloyd IF come from: T5, or a file of prompts that T5 encoded before.

L = 77 tokens, D embedding width (4096 of T5-XXL).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import T5EncoderModel, T5Tokenizer

from customize.errors import InputError, Problem
from customize.families.base import Placement
from customize.families.files import prompt_embeddings
from customize.families.files.folder_check import AGAIN
from customize.families.files.networks import load_network
from customize.families.files.prompt_embeddings import key
from customize.families.files.t5_tokenizer import load_t5_tokenizer
from customize.families.prompt_encoding import Prompt, spans_of, weighted
from customize.families.specs.deepfloyd_if_spec import LENGTH
from customize.families.specs.family_spec import Source
from customize.prompts import BREAK, Span


class Prompts(Protocol):
    """Encodes prompts, each by itself."""

    def encode(self, prompt: Prompt) -> Tensor:
        """[L, D]. Raises InputError for a prompt that cannot be encoded."""
        ...


class T5Prompts:
    """Prompts encoded by T5, in lower case. Padding is masked in T5, and not in the UNet, as in diffusers' `IFPipeline`."""

    def __init__(self, encoder: T5EncoderModel, tokenizer: T5Tokenizer):
        self.encoder, self.tokenizer = encoder, tokenizer

    @torch.no_grad()
    def encode(self, prompt: Prompt) -> Tensor:
        """[L, D]. Weights of words act as in `prompt_encoding`. Raises InputError for BREAK, and above 77 tokens."""
        spans, tokenizer = spans_of(prompt), self.tokenizer
        if BREAK in spans:
            raise InputError(Problem("prompt", "BREAK begins another part, and T5 reads one of 77 tokens", "leave BREAK out"))
        if {span.weight for span in spans} <= {1.0}:
            spans = [Span(text_of(spans))]
        words = [tokenizer(key(span.text), add_special_tokens=False, verbose=False).input_ids for span in spans]
        input_ids = [token for word in words for token in word] + [tokenizer.eos_token_id]
        if (fill := LENGTH - len(input_ids)) < 0:
            what = f"too long: {len(input_ids)} tokens, more than {LENGTH}"
            raise InputError(Problem(f"prompt {text_of(spans)!r}", what, "shorten the prompt"))
        tokens = torch.tensor([input_ids + [tokenizer.pad_token_id] * fill], device=self.encoder.device)
        mask = torch.tensor([[1] * len(input_ids) + [0] * fill], device=self.encoder.device)
        weights = [span.weight for span, word in zip(spans, words, strict=True) for _ in word]
        hidden_states = self.encoder(tokens, attention_mask=mask).last_hidden_state[0]
        return weighted(hidden_states, [*weights, *[1.0] * (fill + 1)])


class EncodedPrompts:
    """Prompts that were encoded before. tensors: [L, D] of each, by `key`; where: they come from, for messages."""

    def __init__(self, tensors: Mapping[str, Tensor], where: str):
        self.tensors, self.where = tensors, where

    @classmethod
    def read(cls, path: Path) -> "EncodedPrompts":
        """Those of a file. Raises InputError."""
        found, tensors = prompt_embeddings.read(path), load_file(path)
        return cls({text: tensors[name].reshape(found.shape) for text, name in found.names.items()}, str(path))

    def encode(self, prompt: Prompt) -> Tensor:
        """[L, D]. Raises InputError for a prompt that is not among them, and for weights of words."""
        text = text_of(spans := spans_of(prompt))
        if {span.weight for span in spans} - {1.0}:
            remedy = "leave out weights and BREAK, or the file, so that the text encoder is loaded"
            raise InputError(Problem("prompt", f"words have weights, which {self.where} does not know", remedy))
        if (found := self.tensors.get(key(text))) is None:
            remedy = "encode it with `customize embed-prompts`"
            raise InputError(Problem("prompt", f"{text!r} is not in {self.where}", remedy))
        return found


def text_of(spans: Sequence[Span]) -> str:
    """The text of a prompt without weights."""
    return "".join(span.text for span in spans)


def load_t5(source: Source, placement: Placement) -> T5Prompts:
    """The text encoder of a folder that the spec has checked. Raises InputError."""
    folder = source.folder
    assert folder, "a model on the hub is downloaded by families.load"
    dtype = placement.dtype_of("text_encoder")
    encoder = load_network(T5EncoderModel, folder / "text_encoder", "t5", source.variant, dtype)
    tokenizer = load_t5_tokenizer(folder / "tokenizer")
    if len(tokenizer) > (rows := encoder.config.vocab_size):
        what = f"its tokenizer has {len(tokenizer)} tokens, its text encoder {rows}"
        raise InputError(Problem(str(folder), what, AGAIN))
    keep_in_float32(encoder.requires_grad_(False).eval().to(placement.device))
    return T5Prompts(encoder, tokenizer)


def keep_in_float32(encoder: T5EncoderModel) -> None:
    """Keeps the output layers of the feed-forward blocks in float32, as transformers does: they overflow in float16."""
    if encoder.dtype == torch.float16:
        for name, module in encoder.named_modules():
            if name.endswith(".wo"):
                module.float()
