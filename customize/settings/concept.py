"""What a run teaches, in words: how prompts call it, and how they would without it."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Concept:
    """The concept of a run.

    kind: what it is; prompt: a short prompt that calls it, such as "a photo of sks dog", or for a style what follows the content,
    "in the style of <dusk>"; plain: the same in words that the base model knows, "a photo of dog", for a style empty; trigger:
    the words in the first but not in the second, "sks"; class_word: the noun of the class, "dog", or "" for a style.
    """

    kind: Literal["object", "style", "person"]
    prompt: str
    plain: str
    trigger: str
    class_word: str


PEOPLE = frozenset("person man woman boy girl child baby face human guy lady portrait people".split())
"""Nouns whose likeness is that of a face."""
LEADING = (
    "a photo of",
    "photo of",
    "a picture of",
    "an image of",
    "a portrait of",
    "portrait of",
    "a drawing of",
    "an illustration of",
)


def noun_of(plain: str) -> str:
    """The noun phrase of a short prompt without its article: "dog" of "a photo of a dog"; empty if there is none."""
    text = plain.strip().rstrip(".,;:!?") + " "
    for start in LEADING:
        if text.casefold().startswith(f"{start} "):
            text = text[len(start) + 1 :]
            break
    for article in ("a ", "an ", "the ", "one "):
        if text.casefold().startswith(article):
            return text[len(article) :].strip()
    return text.strip()


def kind_of(class_word: str) -> Literal["object", "person"]:
    """Whether a class is that of people."""
    return "person" if PEOPLE & set(class_word.casefold().split()) else "object"


def of_prompts(prompt: str, plain: str | None, triggers: tuple[str, ...]) -> Concept:
    """The concept of an instance prompt. plain: its class prompt; None: the prompt without the trigger words,
    or all of it where no noun is left, as of "a photo of sks"."""
    without = " ".join(word for word in prompt.split() if word.casefold().strip(".,;:!?") not in {t.casefold() for t in triggers})
    trigger = " ".join(triggers)
    if "style" in prompt.casefold().split():
        content, _, rest = prompt.partition(" in ")
        return Concept("style", f"in {rest}" if rest else f"in the style of {content}", "", trigger, "")
    plain = plain or (without if noun_of(without) else prompt)
    return Concept(kind_of(noun_of(plain)), prompt, plain, trigger, noun_of(plain))
