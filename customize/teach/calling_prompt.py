"""Puts what calls a learned subject into a prompt that lacks it: "a cat on the beach" -> "a sks cat on the beach". No torch."""

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from customize.errors import InputError, Problem
from customize.families.trigger_words import calls, rare_words
from customize.missing_path import remedy_for_missing
from customize.printable import printable
from customize.settings.concept import noun_of
from customize.settings.files import toml_file
from customize.settings.files.run_folders import PARENT
from customize.storage import run_folder
from customize.storage.json_files import read_object
from customize.storage.safetensors_header import read_header

PLACES = frozenset(
    "on in at under over with near beside behind before above below among between inside outside by from wearing as".split()
)
"""Words with which a prompt starts that says where the subject is, not what."""
ARTICLE = re.compile(r"\b(a|an|the|my|one)(\s+)$", re.IGNORECASE)


@dataclass(frozen=True)
class Calling:
    """How prompts call what was learned.

    words: one of which is enough; phrase: for "a photo of sks cat" it is "sks cat"; nouns: the phrase's own and that of its
    class, "cat"; prompt: a whole prompt; is_style: whether it is a style, which follows its content.
    """

    words: tuple[str, ...]
    phrase: str
    nouns: tuple[str, ...] = ()
    prompt: str = ""
    is_style: bool = False

    @classmethod
    def of_settings(cls, values: Mapping[str, Any]) -> "Calling | None":
        """By the settings of a run; None where they do not say it, or name several concepts."""
        tokens = as_tuple(values.get("placeholder_token"))
        if values.get("learnable_property") == "style" and len(tokens) == 1:
            return cls(tokens, f"in the style of {tokens[0]}", is_style=True)
        prompt, of_class = str(values.get("instance_prompt") or ""), str(values.get("class_prompt") or "")
        starts = as_tuple(values.get("initializer_token"))
        if values.get("concept") or len(tokens) > 1 or not (prompt or tokens):
            return None
        words = tokens or rare_words(prompt, of_class or None)
        phrase = noun_of(prompt) if prompt else tokens[0]
        own = " ".join(each for each in phrase.split() if each.casefold() not in words)
        found = dict.fromkeys((own, noun_of(of_class), *starts[: len(tokens)]))
        nouns = tuple(each for each in found if each not in ("", phrase))
        return cls(tuple(words), phrase, nouns, prompt or f"a photo of {tokens[0]}")

    def put_into(self, prompt: str) -> str:
        """The prompt, with what calls the subject where it lacks it: in place of the noun of its class, or before a prompt that
        only says where the subject is, or as a part of its own; a style comes last."""
        if not self.words or calls(prompt, self.words):
            return prompt
        text = prompt.strip()
        if self.is_style:
            return f"{text.rstrip('.,;')} {self.phrase}" if text else f"a picture {self.phrase}"
        plural = "" if self.phrase in self.words else "(s|es)?"
        for noun in self.nouns:
            if found := re.search(rf"(?<![\w-]){re.escape(noun)}(?={plural}(?![\w-]))", text, re.IGNORECASE):
                return self.in_place_of_noun(text, found)
        if not text or text.split()[0].casefold() in PLACES:
            return f"{self.prompt or self.phrase} {text}".strip()
        return f"{self.phrase}, {text}"

    def in_place_of_noun(self, text: str, found: re.Match[str]) -> str:
        """The text with the phrase for the noun of the class. The article fits the new word; one that is a name has none."""
        before, after = text[: found.start()], text[found.end() :]
        if article := ARTICLE.search(before):
            before = before[: article.start()]
            if self.phrase not in self.words:
                word = article[1]
                if word.casefold() in ("a", "an"):
                    word = ("an" if self.phrase[0].casefold() in "aeiou" else "a") if word.islower() else word
                before += word + article[2]
        return before + self.phrase + after


def as_tuple(value: Any) -> tuple[str, ...]:
    """The texts of a setting that may be one, several, or none."""
    values = value if isinstance(value, list | tuple) else [value]
    return tuple(each for each in values if isinstance(each, str) and each != "none")


def found_weights(name: str) -> Path:
    """The run folder, RUN@STEP or file of weights of this name; a run in runs/ may be named without its folder. Raises
    InputError."""
    for path in (Path(os.path.expanduser(name)), PARENT / name):
        if name and (path.exists() or run_folder.at_step(path) != path):
            return path
    remedy = remedy_for_missing(name, "give a folder in runs/, or a .safetensors file")
    raise InputError(Problem("RUN", f"{printable(name)} does not exist", remedy))


def calling(path: Path) -> Calling | None:
    """How prompts call what these weights have learned; None where nothing says it."""
    folder = Path(str(path).rpartition("@")[0]) if not path.exists() else path
    with suppress(InputError, OSError, ValueError, TypeError, AttributeError):
        if folder.is_file():
            facts = json.loads(read_header(folder).metadata.get("customize", "{}"))
            return Calling.of_settings(facts.get("settings", {}))
        if (config := folder / run_folder.CONFIG).is_file():
            return Calling.of_settings(toml_file.read(str(config))[0])
        return Calling.of_settings(read_object(folder / run_folder.METADATA).get("settings", {}))
    return None
