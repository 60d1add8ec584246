"""What a user asks for, and what is wrong with it. No torch."""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from customize.errors import Problem
from customize.printable import printable
from customize.settings.concept import kind_of
from customize.settings.texts import text_fault

Kind = Literal["object", "style", "person"]
Effort = Literal["quick", "balanced", "best"]
EFFORTS: tuple[Effort, ...] = ("quick", "balanced", "best")
LONGEST = 60
"""Maximum number of characters of WHAT."""
WITHOUT_WHAT = {"person": "person", "style": "painting"}
"""What a person or a style is called where the user says nothing."""
JOINERS = "\u200c\u200d"
"""Invisible, and part of the spelling of several languages."""
SIGNS_AROUND = " .,;!?'\u2018\u2019\u201c\u201d\u00ab\u00bb"
PICTURE = re.compile(r"(a |an |the )?(photo|photograph|picture|image)s? of (.+)", re.IGNORECASE)
"""A prompt in place of a noun."""


@dataclass(frozen=True)
class Request:
    """What a user asks for.

    folder: of the photos; what: a noun that the base model knows, such as "cat", or for a style words that describe it, such as
    "watercolour painting"; word: by which prompts will call it, None to choose one; base: a base model, None for the configured
    one or the best on this machine; leave_out: names of files in the folder that are not used, besides those that cannot be;
    output_dir: folder of the run, None for runs/NAME, after the folder of the photos; further: words of the command line with
    settings of the training command, which whoever calls `plan` applies.
    """

    folder: str
    what: str
    kind: Kind = "object"
    word: str | None = None
    base: str | None = None
    effort: Effort = "balanced"
    leave_out: tuple[str, ...] = ()
    output_dir: str | None = None
    further: tuple[str, ...] = ()

    @property
    def noun(self) -> str:
        """WHAT without its article, and without blanks, quotes and punctuation around it."""
        words = " ".join(self.what.split()).strip(SIGNS_AROUND)
        return re.sub(r"^(a|an|the|my|our)\s+(?=\S)", "", words, flags=re.IGNORECASE).strip(SIGNS_AROUND)

    @property
    def trained_by(self) -> str:
        """The training command."""
        return "train_textual_inversion" if self.kind == "style" else "train_dreambooth"

    @property
    def is_person(self) -> bool:
        """Whether it is a person, by its kind or its noun."""
        return self.kind == "person" or (self.kind == "object" and kind_of(self.noun) == "person")

    def problems(self) -> Iterator[Problem]:
        """What is wrong with the words, apart from folder and base model."""
        if fault := text_fault("path", self.folder):
            yield Problem(f"FOLDER {printable(self.folder, LONGEST)}", fault, "rename the folder, or give another one")
        if self.base is not None and (fault := text_fault("model", self.base)):
            yield Problem(
                "--base", f"{printable(self.base, LONGEST)} {fault}".strip(), "give a name on the hub, a folder or a file"
            )
        remedy = "give a word or two that a dictionary has, such as cat, or a style with --style: watercolour painting"
        if fault := self._fault_of_what():
            yield Problem("WHAT", f'"{printable(self.what, LONGEST)}" {fault}', remedy)
        if self.word is not None and (fault := fault_of_word(self.word)):
            yield Problem("--as", f'"{printable(self.word, LONGEST)}" {fault}', 'give one word, such as ohwx, or "<my-cat>"')
        elif self.word is not None and self.word.casefold() in self.noun.casefold().split():
            what = f'"{self.word}" is WHAT itself, which the base model knows as that of all others'
            yield Problem("--as", what, "give another word, or leave it out")
        if self.kind == "style" and self.word and not is_placeholder(self.word):
            remedy = f'write --as "<{self.word.strip("<>")}>"'
            yield Problem("--as", f'"{printable(self.word, LONGEST)}" is no new word, which a style is learned as', remedy)

    def _fault_of_what(self) -> str | None:
        if fault := text_fault("line", self.what):
            return fault
        if len(self.what) > LONGEST:
            return f"has {len(self.what)} characters, more than {LONGEST}"
        if not any(letter.isalpha() for letter in self.what):
            return "has no letter"
        if any(unicodedata.category(sign) == "Cf" and sign not in JOINERS for sign in self.what):
            return "contains an invisible character"
        if self.noun.casefold() in ("a", "an", "the", "my", "our"):
            return "is only an article"
        if self.kind != "style" and (prompt := PICTURE.fullmatch(self.noun)):
            return f"is a prompt: name only what they show, {printable(prompt[3])}"
        if stray := next((sign for sign in self.what if sign in '<>{}[]()/\\|:*"`$'), None):
            return f"contains {stray}"
        return "starts with a dash" if self.what.strip().startswith("-") else None


def is_placeholder(word: str) -> bool:
    """Whether a word is written as a new one, <word>."""
    return len(word) > 2 and word.startswith("<") and word.endswith(">")


def fault_of_word(word: str) -> str | None:
    """What is wrong with a word for the subject, whatever the base model; None if nothing is."""
    if fault := text_fault("placeholder", word) or text_fault("line", word):
        return fault
    inner = word[1:-1] if is_placeholder(word) else word
    return None if re.fullmatch(r"\w+(-\w+)*", inner) else "has signs other than letters, digits and inner dashes"
