"""The trigger words of a prompt: `sks` in `a photo of sks dog`. torch is not imported."""

import gzip
import re
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path

MERGES = Path(__file__).parent / "configs" / "clip_merges.txt.gz"
RARE = 20_000
"""Words whose last merge in CLIP's byte-pair encoding comes after this one (or that are no single token) are rare."""


def rare_words(instance_prompt: str, class_prompt: str | None = None) -> tuple[str, ...]:
    """The words of an instance prompt that are rare in the base model's vocabulary, in lower case; the rarest one if none is.

    Words of the class prompt do not count, unless there are no others. Empty for a prompt without letters.
    """
    words = list(dict.fromkeys(words_of(instance_prompt)))
    of_class = set(words_of(class_prompt or ""))
    words = [word for word in words if word not in of_class] or words
    ranks = merge_ranks()
    by_rank = {word: 0 if word.isascii() and len(word) == 1 else ranks.get(word, len(ranks)) for word in words}
    rare = tuple(word for word, rank in by_rank.items() if rank > RARE)
    return rare or tuple(word for word in words if by_rank[word] == max(by_rank.values()))[:1]


def words_of(prompt: str) -> list[str]:
    """Runs of letters, digits and inner hyphens, in lower case."""
    return [word.casefold() for word in re.findall(r"\w+(?:-\w+)*", prompt)]


def calls(prompt: str, words: Collection[str]) -> bool:
    """Whether a prompt contains one of the words, whatever its case. Words in scripts without spaces, and those that punctuation
    sets apart, such as <cat>, may also be within a longer word."""
    text, found = prompt.casefold(), set(words_of(prompt))
    return any(
        word in found or ((not word.isascii() or words_of(word) != [word]) and word in text) for word in map(str.casefold, words)
    )


def any_calls(prompts: Sequence[str], words: Collection[str]) -> bool:
    """Whether one of the prompts contains one of the words."""
    return any(calls(prompt, words) for prompt in prompts)


def calls_learned(prompts: Sequence[str], triggers: Collection[str]) -> bool:
    """Whether a prompt contains a trigger word. triggers: learned words, or instance prompts, whose rare words count."""
    text = "\n".join(prompts).casefold()
    phrases = [trigger for trigger in triggers if len(trigger.split()) > 1]
    words = [trigger.casefold() for trigger in triggers if trigger and trigger not in phrases]
    return any(word in text for word in words) or any_calls(prompts, [word for each in phrases for word in rare_words(each)])


@cache
def merge_ranks() -> dict[str, int]:
    """Words that are one token of CLIP, with the index of their last merge: frequent words have a low one."""
    lines = gzip.decompress(MERGES.read_bytes()).decode().split("\n")
    merged = ("".join(line.split()) for line in lines)
    return {word.removesuffix("</w>"): number for number, word in enumerate(merged) if word.endswith("</w>")}
