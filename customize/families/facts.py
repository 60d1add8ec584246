"""What a base model's files say of it without its networks: the size of its pictures, how it reads text. No torch."""

import re
from collections.abc import Callable, Mapping, Sequence

from customize.errors import Problem
from customize.families.files.folder_check import AGAIN
from customize.families.files.ldm_header import read_layout
from customize.families.files.recognition import CHANNELS
from customize.families.files.tokenizer_files import tokenizer_files
from customize.families.source import SETTING, Source
from customize.printable import printable
from customize.storage.json_files import read_object
from customize.storage.untrusted_files import refusing

CLIP_LENGTH = 77


def resolution(source: Source) -> int | None:
    """The side in pixels of the pictures that the model was made for; None where its files are still on the hub."""
    if source.file:
        return read_layout(source.file, source.prediction_type).resolution
    if source.folder is None:
        return None
    unet, vae = (read_object(source.folder / part / "config.json") for part in ("unet", "vae"))
    try:
        return int(unet["sample_size"]) * 2 ** (len(vae["block_out_channels"]) - 1)
    except (KeyError, TypeError, ValueError):  # a model may leave them to the library's defaults
        return None


def prediction_type(source: Source) -> str | None:
    """The row of the table of predictions that the network was trained by; None where its files are still on the hub."""
    if source.file:
        return read_layout(source.file, source.prediction_type).prediction_type
    if source.prediction_type or source.folder is None:
        return source.prediction_type
    return read_object(source.folder / "scheduler/scheduler_config.json").get("prediction_type", "epsilon")


def only_to_draw_with(source: Source) -> Problem | None:
    """The problem of training on a model that images can be made with, but that was trained otherwise than is done here."""
    if source.file:
        unet = {"in_channels": read_layout(source.file, source.prediction_type).channels}
    elif source.folder:
        unet = read_object(source.folder / "unet/config.json")
    else:
        return None
    if unet.get("time_cond_proj_dim") is not None:
        kind = "a latent consistency model (LCM): its UNet was distilled with the guidance scale as an input"
        remedy = "train on the model that it was made from, and give the result to infer.py with this one"
    elif (channels := unet.get("in_channels", 4)) != 4:
        kind = f"Stable Diffusion for {CHANNELS.get(channels, 'another task')}: its UNet takes {channels} channels"
        remedy = "train on the text-to-image model of that version, and give the result to infer.py with this one"
    else:
        return None
    return Problem(
        SETTING, f"{printable(source.folder or source.file)} is {kind}; it can make images, but not be trained here", remedy
    )


def too_long(source: Source, texts: Sequence[str], placeholders: Mapping[str, int]) -> list[tuple[str, int, int]]:
    """(text, its tokens, how many can be read) of each text that is longer than the text encoder reads.

    placeholders: how many tokens each new word stands for. Start and end of the text are tokens too. Counted by the
    model's own tokenizer, or CLIP's where the model is a single file or still on the hub; it is loaded when a text is so
    long that its bytes do not settle it. Raises InputError where it cannot be.
    """
    most, count_tokens = length(source), None
    found = []
    for text in texts:
        tokens, rest = 0, text
        for placeholder, count in sorted(placeholders.items(), key=lambda item: -len(item[0])):
            rest, times = re.subn(re.escape(placeholder), " ", rest, flags=re.IGNORECASE)
            tokens += count * times
        if len(rest.encode()) + tokens + 2 > most:  # a token is at least a byte
            count_tokens = count_tokens or counter(source)
            tokens += count_tokens(rest)
            found += [(text, tokens, most)] if tokens > most else []
    return found


def length(source: Source) -> int:
    """How many tokens the text encoder reads, start and end among them."""
    if not source.folder:
        return CLIP_LENGTH
    positions = read_object(source.folder / "text_encoder/config.json").get("max_position_embeddings") or CLIP_LENGTH
    config = source.folder / "tokenizer/tokenizer_config.json"
    said = read_object(config).get("model_max_length") if config.exists() else None
    return min(positions, said or positions)


def counter(source: Source) -> Callable[[str], int]:
    """How many tokens a text is, start and end among them. transformers, slow to import, is asked only where need be."""
    if source.folder and (whole := source.folder / "tokenizer/tokenizer.json").exists():
        from tokenizers import Tokenizer

        with refusing(whole, AGAIN):
            quick = Tokenizer.from_str(tokenizer_files(whole.parent).files[whole.name])
        quick.no_truncation()
        quick.no_padding()
        return lambda text: len(quick.encode(text).ids)
    from customize.families.files.clip_tokenizer import clip_tokenizer, load_tokenizer

    tokenizer = load_tokenizer(source.folder) if source.folder else clip_tokenizer()
    return lambda text: len(tokenizer(text, truncation=False, verbose=False).input_ids)
