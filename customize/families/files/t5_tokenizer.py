"""T5's tokenizer from a folder: from tokenizer.json, or from spiece.model, the file of SentencePiece."""

from pathlib import Path

from transformers import T5Tokenizer
from transformers.convert_slow_tokenizer import import_protobuf

from customize.families.files.folder_check import AGAIN, MOST_WORDS
from customize.families.files.tokenizer_files import WHOLE, tokenizer_files
from customize.storage.untrusted_files import read_bytes, refusing


def load_t5_tokenizer(folder: Path) -> T5Tokenizer:
    """The tokenizer in a folder. Raises InputError."""
    with refusing(folder, AGAIN):
        if not (folder / WHOLE).exists():
            return from_sentencepiece(read_bytes(folder / "spiece.model", MOST_WORDS))
        files = tokenizer_files(folder)
        files.words()  # refuses files that the library would read as an empty vocabulary
        with files.folder() as own:
            tokenizer = T5Tokenizer.from_pretrained(own, local_files_only=True)
    tokenizer.name_or_path = ""
    return tokenizer


def from_sentencepiece(data: bytes) -> T5Tokenizer:
    """The tokenizer of a serialised SentencePiece model, whose pieces are followed by T5's hundred sentinels."""
    model = import_protobuf().ModelProto.FromString(data)
    pieces = [(piece.piece, piece.score) for piece in model.pieces]
    return T5Tokenizer(vocab=pieces, _spm_precompiled_charsmap=model.normalizer_spec.precompiled_charsmap or None)
