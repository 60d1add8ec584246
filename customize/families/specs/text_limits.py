"""How long the texts may be that a model's text encoders read, counted before a network is loaded."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class TextLimit:
    """How many tokens of a text one text encoder reads; the tokens that mark start and end count.

    at_once: of one pass; most: in all, in as many passes as it takes (`at_once` where the encoder makes one pass only).
    load_counter: loads what counts the tokens of a text. Raises InputError where that is impossible.
    """

    at_once: int
    most: int
    load_counter: Callable[[], Callable[[str], int]]


class LongText(NamedTuple):
    """A text that a text encoder does not read at once, and how many tokens it has."""

    text: str
    tokens: int
    limit: TextLimit


def too_long(limits: Sequence[TextLimit], texts: Sequence[str], placeholders: Mapping[str, int]) -> list[LongText]:
    """The texts that an encoder does not read at once, in order, for each of the limits.

    placeholders: how many tokens each new word stands for. A counter is loaded when a text is so long that its bytes do not
    settle it. Raises InputError where it cannot be.
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
