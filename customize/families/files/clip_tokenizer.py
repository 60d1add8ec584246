"""CLIP's tokenizer: from a folder, or for single files, which contain only networks, the one included in the package."""

import gzip
from pathlib import Path

from transformers import CLIPTokenizer

from customize.families.files.folder_check import AGAIN
from customize.families.files.tokenizer_files import tokenizer_files
from customize.storage.untrusted_files import refusing

MERGES = Path(__file__).parents[1] / "configs" / "clip_merges.txt.gz"
START, END = "<|startoftext|>", "<|endoftext|>"


def clip_tokenizer(pad_token: str = END) -> CLIPTokenizer:
    """The byte-pair tokenizer of Radford et al. 2021, 49,408 tokens; Stable Diffusion 2.x and the
    second text encoder of SDXL pad with "!" instead."""
    merges = [tuple(line.split()) for line in gzip.decompress(MERGES.read_bytes()).decode().split("\n")]
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges), START, END]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=pad_token, model_max_length=77)


def load_tokenizer(folder: Path, name: str = "tokenizer") -> CLIPTokenizer:
    """The tokenizer in the folder `name` of a model in diffusers' layout. Raises InputError."""
    with refusing(folder / name, AGAIN):
        files = tokenizer_files(folder / name)
        files.words()  # refuses files that the library would read as an empty vocabulary
        with files.folder() as own:
            tokenizer = CLIPTokenizer.from_pretrained(own, local_files_only=True)
    tokenizer.name_or_path = ""
    return tokenizer
