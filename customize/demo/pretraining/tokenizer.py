"""The demo model's tokenizer: a small byte-pair CLIP tokenizer in which each word of the world is one token.

Any other word is split into pieces, all of which occur in the unknown words of the training captions.
"""

import json
import random
from collections import Counter
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from customize.demo.world.world import World, caption, unknown_word

MODEL_MAX_LENGTH = 32
START, END = "<|startoftext|>", "<|endoftext|>"
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())  # CLIP's characters for the 256 bytes
# Common words of prompts and templates that no training image explains.
OTHER_WORDS = (
    "my this that own nice cool cute toy style art rendition photo painting good close-up cropped bright dark "
    "clean dirty one with and of"
)


def _captions(count: int) -> list[str]:
    texts = [caption(World().spec(0, i), random.Random(f"words {i}")) for i in range(count)]
    return [text.replace(",", " ,") for text in texts]


def build_tokenizer(folder: Path, count: int = 4000) -> CLIPTokenizer:
    """Trains the vocabulary on `count` captions, writes it to `folder` and loads it from there."""
    words = Counter(word for text in _captions(count) for word in text.split())
    known = sorted({word for word, seen in words.items() if seen > 2 and word.isascii()} | set(OTHER_WORDS.split()))
    dice = random.Random("syllables")
    rare = [word for word in (unknown_word(dice) for _ in range(2000)) if word.isascii()]
    model = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=8000, min_frequency=20, end_of_word_suffix="</w>", initial_alphabet=BYTES, show_progress=False
    )
    model.train_from_iterator([" ".join([word] * 60) for word in known] + rare, trainer)
    merges = [tuple(pair) for pair in json.loads(model.to_str())["model"]["merges"]]
    pieces = [*BYTES, *(byte + "</w>" for byte in BYTES), *map("".join, merges), START, END]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MODEL_MAX_LENGTH, unk_token=END, pad_token=END)
    tokenizer.save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)
