"""What a base model's files say of it without its networks: the size of its pictures, how it reads text. No torch."""

import json
import re
from collections.abc import Mapping, Sequence

from customize.errors import InputError, Problem
from customize.families.ldm_header import read_layout
from customize.families.source import Source
from customize.findings import printable


def resolution(source: Source) -> int | None:
    """The side in pixels of the pictures that the model was made for; None where its files are still on the hub."""
    if source.file:
        return read_layout(source.file, source.prediction_type).resolution
    if source.folder is None:
        return None
    unet, vae = (json.loads((source.folder / part / "config.json").read_text(encoding="utf-8")) for part in ("unet", "vae"))
    try:
        return int(unet["sample_size"]) * 2 ** (len(vae["block_out_channels"]) - 1)
    except (KeyError, TypeError, ValueError):  # a model may leave them to the library's defaults
        return None


def too_long(source: Source, texts: Sequence[str], placeholders: Mapping[str, int]) -> list[tuple[str, int, int]]:
    """(text, its tokens, how many can be read) of each text that is longer than the text encoder reads.

    placeholders: how many tokens each new word stands for. Start and end of the text are tokens too. Counted by the
    model's own tokenizer, or CLIP's where the model is a single file or still on the hub. Raises InputError where it
    cannot be loaded.
    """
    tokenizer = _tokenizer(source)
    most = tokenizer.model_max_length
    found = []
    for text in texts:
        tokens, rest = 0, text
        for placeholder, count in sorted(placeholders.items(), key=lambda item: -len(item[0])):
            rest, times = re.subn(re.escape(placeholder), " ", rest, flags=re.IGNORECASE)
            tokens += count * times
        if len(rest.encode()) + tokens + 2 > most:  # a token is at least a byte
            tokens += len(tokenizer(rest, truncation=False, verbose=False).input_ids)
            found += [(text, tokens, most)] if tokens > most else []
    return found


def _tokenizer(source: Source):
    from transformers import CLIPTokenizer

    from customize.families.clip_tokenizer import clip_tokenizer

    if not source.folder:
        return clip_tokenizer()
    folder = source.folder / "tokenizer"
    try:
        return CLIPTokenizer.from_pretrained(folder)
    except Exception as error:  # of the tokenizers library, which is written in Rust and raises nothing narrower
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise InputError(Problem(str(folder), f"cannot be loaded ({printable(cause)})", "copy the model again, whole")) from error
