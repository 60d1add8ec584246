"""The files of a CLIP tokenizer, reduced to their essential entries before a library reads them. No torch.

Left out: truncation and padding (a length of 10**18 ends the process in the library), code, and templates.
"""

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from customize.storage.json_files import read_object
from customize.storage.untrusted_files import MIB, read_text

MOST_BYTES = 32 * MIB
WHOLE, CONFIG, ADDED, SPECIAL = "tokenizer.json", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"
PARTS = ("version", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder", "model")
KEPT = (
    "bos_token", "eos_token", "unk_token", "pad_token", "model_max_length", "added_tokens_decoder", "do_lower_case",
    "add_prefix_space", "additional_special_tokens", "errors",
)  # fmt: skip
"""The entries of tokenizer_config.json that are passed on."""
REPEATED_GROUP = re.compile(r"\)[*+{]")
"""Part of a regular expression that may run for ever on a prompt; CLIP's expressions have none."""


@dataclass(frozen=True)
class TokenizerFiles:
    """The files by name, as texts of JSON (merges.txt as it is)."""

    files: dict[str, str]

    def words(self) -> dict[str, int]:
        """The vocabulary, token to id. Raises ValueError, and errors of the library, if the files contain none."""
        from tokenizers import Tokenizer
        from tokenizers.models import BPE

        with self.folder() as folder:
            if WHOLE in self.files:
                words = Tokenizer.from_str(self.files[WHOLE]).get_vocab()
            else:
                words_and_merges = BPE.read_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
                BPE(*words_and_merges)  # refuses merges whose result is not in the vocabulary
                words = words_and_merges[0]
        if not words:
            raise ValueError("the vocabulary is empty")
        return words

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A temporary folder with the files, for a library to read."""
        with tempfile.TemporaryDirectory() as name:
            for file, text in self.files.items():
                (Path(name) / file).write_text(text, encoding="utf-8")
            yield Path(name)


def tokenizer_files(folder: Path) -> TokenizerFiles:
    """Reads a tokenizer's files. Raises OSError and ValueError, with the cause."""
    files = {}
    if (folder / WHOLE).exists():
        files[WHOLE] = json.dumps(without_surplus(read_object(folder / WHOLE, MOST_BYTES)))
    else:
        files["vocab.json"] = json.dumps(read_object(folder / "vocab.json", MOST_BYTES))
        files["merges.txt"] = read_text(folder / "merges.txt", MOST_BYTES)
    for name in (CONFIG, ADDED, SPECIAL):
        if (folder / name).exists():
            content = read_object(folder / name, MOST_BYTES)
            files[name] = json.dumps({key: content[key] for key in KEPT if key in content} if name == CONFIG else content)
    return TokenizerFiles(files)


def without_surplus(content: dict[str, Any]) -> dict[str, Any]:
    """The parts of tokenizer.json that define how text is tokenized. Raises ValueError for a pattern that may run for ever."""
    kept = {name: content[name] for name in PARTS if name in content}
    texts = [kept.get(name) for name in ("normalizer", "pre_tokenizer", "decoder", "post_processor")]
    while texts:
        match texts.pop():
            case {"Regex": str(pattern)} if len(pattern) > 500 or REPEATED_GROUP.search(pattern):
                raise ValueError("it splits text by a pattern that may run for ever")
            case dict(entries):
                texts += entries.values()
            case list(entries):
                texts += entries
    return {**kept, "truncation": None, "padding": None}


def added_words(files: TokenizerFiles) -> list[str]:
    """The words added to the vocabulary, from the files beside it. Raises ValueError if these are malformed."""
    decoder = json.loads(files.files.get(CONFIG, "{}")).get("added_tokens_decoder") or {}
    if not isinstance(decoder, dict) or not all(isinstance(token, dict) for token in decoder.values()):
        raise ValueError("added_tokens_decoder contains no tokens")
    words = [token.get("content") for token in decoder.values()] + list(json.loads(files.files.get(ADDED, "{}")))
    if not all(isinstance(word, str) for word in words):
        raise ValueError("added_tokens_decoder contains a token that is not text")
    return words
