"""The word by which prompts call what is learned: chosen from rare tokens of the base model, or checked. No torch."""

import re
from collections.abc import Iterator, Sequence

from customize.errors import Problem
from customize.families import Source
from customize.families.specs import spec_of
from customize.families.trigger_words import RARE, calls, merge_ranks, words_of
from customize.next_command import quoted
from customize.printable import printable
from customize.storage.numbered_folders import slug
from customize.teach.asked import Request, is_placeholder

CANDIDATES = ("ohwx", "sks", "tzky", "nlwx", "uzzi", "ynna")
"""Words that are one token of CLIP, among its last merges, and of no language. `sks` comes second: it is also a rifle's name."""

LATIN = "\u024f"
"""The last Latin letter."""


def vocabulary(source: Source) -> frozenset[str]:
    """The words that are one token of the base model; those of CLIP where its files are not on this machine."""
    words = spec_of(source).vocabulary(source) or {f"{word}</w>" for word in merge_ranks()}
    return frozenset(word.removesuffix("</w>") for word in words if word.endswith("</w>"))


def choose(request: Request, source: Source, captions: Sequence[str]) -> tuple[str, str]:
    """(word, reason): a new word for a style, else the first candidate that is one token, and in neither captions nor WHAT. One
    that all captions have is meant."""
    if request.kind == "style":
        name = slug(folder_name(request)) or "style"
        return f"<{name}>", "a style is learned as a new word, here named after the folder"
    words = vocabulary(source)
    if captions and (called := next((word for word in CANDIDATES if all(calls(text, [word]) for text in captions)), None)):
        return called, "the captions beside the photos call it so"
    taken = [*captions, request.noun]
    free = [word for word in CANDIDATES if not any(calls(text, [word]) for text in taken)]
    one_token = [word for word in free if word in words]
    if one_token:
        rank = merge_ranks()[one_token[0]]
        what = f"one token of {source.name}, among the rarest of CLIP (merge {rank:,} of 48,894), no word of a language"
        return one_token[0], f'{what}, and not in your captions or in "{request.noun}"'
    return "sks", f"no rare word is one token of the {len(words)} words of {source.name}; this one is made of letters"


def notes(request: Request, source: Source) -> Iterator[str]:
    """A note on words of WHAT that are not one token of the base model, which may be misspelt, or of another language."""
    words, noun = vocabulary(source), words_of(request.noun)
    if any(letter.isalpha() and letter > LATIN for letter in request.noun):
        yield f'"{printable(request.noun)}": {source.name} was made with English texts, and may know the English word only'
    if unknown := [word for word in noun if word.isascii() and word not in words]:
        yield f'"{printable(" ".join(unknown))}" is no common word of {source.name}: is it spelt as you mean it?'


def problems(request: Request, source: Source) -> Iterator[Problem]:
    """What is wrong with the word that the user gives, or with one in WHAT that is no noun, on this base model."""
    word = request.word
    if rare := [each for each in CANDIDATES if calls(request.noun, [each])]:
        noun = " ".join(each for each in request.noun.split() if each.casefold() not in rare) or "cat"
        what = f'"{printable(request.noun)}" has {rare[0]}, a word without a meaning, by which prompts may call it'
        yield Problem("WHAT", what, f"give what a dictionary calls it, and that word as --as: {quoted(noun)} --as {rare[0]}")
    if word is None or is_placeholder(word):
        if word and word in spec_of(source).vocabulary(source):
            yield Problem("--as", f"{word} is already a word of {source.name}", "give another, such as <my-cat>")
        return
    words, new = vocabulary(source), f'write it as a new word, --as "<{word}>", or leave it out'
    is_toy = words.isdisjoint(CANDIDATES)  # no rare word is one token
    if word.casefold() not in words:
        if is_toy:
            return
        yield Problem("--as", f'"{printable(word)}" is several tokens of {source.name}: each of them means something else', new)
    elif is_toy or merge_ranks().get(word.casefold(), RARE + 1) <= RARE:
        yield Problem("--as", f'"{printable(word)}" is a word that {source.name} knows: its pictures would change, too', new)


def folder_name(request: Request) -> str:
    """The name of the folder of photos."""
    return re.split(r"[/\\]", request.folder.rstrip("/\\"))[-1]
