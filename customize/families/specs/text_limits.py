"""The lengths of texts that a model's text encoders can read, checked before a network is loaded."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class TextLimit:
    """The number of tokens that one text encoder reads, including the start and end tokens.

    at_once: in one pass; most: in total, in several passes (`at_once` if the encoder makes only one pass).
    load_counter: loads a function that counts the tokens of a text. Raises InputError if that is impossible.
    """

    at_once: int
    most: int
    load_counter: Callable[[], Callable[[str], int]]


class LongText(NamedTuple):
    """A text that a text encoder cannot read at once, and its number of tokens."""

    text: str
    tokens: int
    limit: TextLimit


def too_long(limits: Sequence[TextLimit], texts: Sequence[str], placeholders: Mapping[str, int]) -> list[LongText]:
    """The texts that an encoder cannot read at once, in order, for each of the limits.

    placeholders: the number of tokens of each new word. A counter is loaded only if the number of bytes does not rule out that
    a text is too long. Raises InputError if it cannot be loaded.
    """
    found = []
    for limit in limits:
        count_tokens = None
        for text in texts:
            tokens, rest = 0, text
            for placeholder, count in sorted(placeholders.items(), key=lambda item: -len(item[0])):
                rest, times = re.subn(re.escape(placeholder), " ", rest, flags=re.IGNORECASE)
                tokens += count * times
            if len(rest.encode()) + tokens + 2 > limit.at_once:  # a token is at least a byte
                count_tokens = count_tokens or limit.load_counter()
                tokens += count_tokens(rest)
                found += [LongText(text, tokens, limit)] if tokens > limit.at_once else []
    return found
