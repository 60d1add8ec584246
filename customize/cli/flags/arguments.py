"""Parses a command line into flags with values and CONFIG.toml, and suggests what other words were meant to be.

argparse formats the help but does not parse: it stops at the first error, and takes the value of an unknown flag for
CONFIG.toml.
"""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from customize import missing_path
from customize.cli.flags import aliases, diffusers_flags, pasted_text
from customize.errors import Problem
from customize.families.source import INCLUDED
from customize.settings.common import Settings
from customize.settings.field import Setting, table
from customize.settings.files import shipped_configs
from customize.settings.inference import InferenceSettings
from customize.settings.texts import PATHS

SMALL = frozenset("a an the of in on at with and by is from to for".split())
"""Words that are not prompts by themselves."""
Given = tuple[str | None, dict[str, Any], list[Problem]]
FOLDERS = ["train_data_dir", "instance_data_dir"]
"""The settings of the training methods that name a folder of images."""


def known(model: type[Settings]) -> dict[str, Any]:
    """Every name that a command accepts: settings, flags of diffusers' scripts, other programs' names."""
    return {**aliases.lines(model), **diffusers_flags.flags(model), **table(model)}


def plain(model: type[Settings], argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words with changes by a word processor or another shell undone, and notes."""
    names, ours = known(model), table(model)

    def positive(name: str) -> str:
        return name.removeprefix("no_") if name not in names else name

    return pasted_text.words(
        argv,
        is_ours=ours.__contains__,
        is_known=lambda name: positive(name) in names or name in aliases.CONFIG,
        awaits=lambda name: name not in names or names[name].type is not bool,
    )


def arguments(model: type[Settings], argv: Sequence[str]) -> Given:
    """CONFIG.toml, the values of the flags by name (including unknown names), and problems."""
    names = known(model)
    words: list[str] = []  # the words before the first flag
    flags: list[tuple[str, list[str]]] = []  # each flag with the words up to the next one
    for word in argv:
        if word.startswith("--"):
            flags.append((word, []))
        else:
            (flags[-1][1] if flags else words).append(word)
    values: dict[str, Any] = {}
    problems = []
    for flag, following in flags:
        name, given, left = _flag(names, flag, following)
        flag = flag.partition("=")[0]
        if given and (apart := _taken_apart(flag, names.get(name), given, left)):
            problems.append(apart)
            left = [word for word in left if is_config(word)]
        if name in aliases.CONFIG and name not in names and len(given) == 1 and isinstance(given[0], str):
            words.insert(0, given[0])
        elif not given and aliases.is_switch(name):
            values[name] = "true"
        elif not given:
            problems.append(Problem(flag, "has no value", f"write {flag}={_example(names.get(name))}"))
        elif name in names and names[name].many:
            values[name] = [*values.get(name, ()), *given]
            if given[-1].endswith(".toml"):
                problems.append(Problem(flag, f'"{given[-1]}" is read as a value of it', "put CONFIG.toml first"))
        elif name in values:
            problems.append(Problem(flag, "is given twice", "keep one of the two"))
        else:
            values[name] = given[0]
        words += left
    configs = [word for word in words if not word.startswith("-") and is_config(word)][:1]
    rest = [word for word in words if word not in configs]
    if configs or not rest:
        problems += [_second_config(word) if is_config(word) else _stray(model, word) for word in rest]
        return (configs[0] if configs else None), values, problems
    return None, *_without_config(model, rest, values, problems)


def _taken_apart(flag: str, line: Any, given: list[Any], left: list[str]) -> Problem | None:
    """The problem of a text that the shell split into words because it was not quoted."""
    if not isinstance(line, Setting) or line.type is not str or line.choices or not all(isinstance(each, str) for each in given):
        return None
    more = [word for word in left if not is_config(word)]
    if line.many:
        if flag_like := [word for word in given[1:] if re.fullmatch(r"-[^\W\d]\w*", word)]:
            remedy = f"write --{flag_like[0][1:]} for a flag, {flag}={flag_like[0]} for a value"
            return Problem(flag_like[0], f"is read as a value of {flag}", remedy)
        folders = (".", "..") if line.text in PATHS else ()
        if signs := [word for word in given if word.strip() and not set(word) - set(",;|&+. ") and word not in folders]:
            return Problem(flag, f'"{signs[0]}" is read as a value', "leave it out: separate values by blanks")
        single = not any(len(each.split()) > 1 for each in given) and not SMALL.isdisjoint(map(str.casefold, given))
        if line.text not in ("line", "any", "prompt") or len(given) < 2 or not single:
            return None
        whole = " ".join(given)
        return Problem(flag, f"has {len(given)} values of one word each", f"did you mean {flag} {_quoted(whole)}?")
    if not more:
        return None
    given[0] = " ".join([given[0], *more])
    what = f"do{'es' * (len(more) == 1)} not belong to any setting"
    return Problem(" ".join(more), what, f"did you mean {flag} {_quoted(given[0])}?")


def _example(line: Any) -> str:
    """An example value of a flag."""
    if getattr(line, "name", "") == "resume_from_checkpoint":
        return "latest"
    choices = [choice for choice in getattr(line, "choices", ()) if choice != "none"]
    return " or ".join(choices[:3]) or "VALUE"


def is_config(word: str) -> bool:
    """Whether a word that belongs to no flag is read as CONFIG.toml."""
    if word.lower().endswith((".toml", ".json", ".yaml", ".yml", ".txt", ".cfg", ".ini", ".conf")) and "\n" not in word:
        return True
    if shipped_configs.config_path(word):
        return True
    try:
        return (
            os.path.isfile(word)
            and not missing_path.is_image_name(word)
            and not word.lower().endswith((".safetensors", *missing_path.IMAGES))
        )
    except ValueError:
        return False


def _without_config(
    model: type[Settings], rest: list[str], values: dict[str, Any], problems: list[Problem]
) -> tuple[dict[str, Any], list[Problem]]:
    """Assign words that belong to no flag to the settings that they were likely meant for, if none is CONFIG.toml."""
    meant: dict[str, str] = {}
    strays, guessed = [], []
    for word in _texts_joined(rest):
        name, value = (None, "") if word.startswith("-") else _meant(model, word, {**meant, **values})
        if name:
            meant[name] = value
            guessed.append(word)
        else:
            strays.append(_stray(model, word))
    if meant:
        words = " ".join(map(_quoted, guessed))
        remedy = " ".join(f"--{name} {_quoted(word)}" for name, word in meant.items())
        what = f"do{'es' * (len(meant) == 1)} not belong to any setting"
        problems = [Problem(words, what, f"did you mean {remedy}?"), *problems]
        values = {**values, **{name: [word] if table(model)[name].many else word for name, word in meant.items()}}
    return values, [*strays, *problems]


def _texts_joined(rest: list[str]) -> list[str]:
    """The words, with consecutive ones joined that are neither paths nor flags: a text without quotes."""
    found: list[str] = []
    joins = False
    for word in rest:
        plain_word = _is_text(word) and word[0] not in "<-" and "." not in word and len(word.split()) == 1
        plain_word = plain_word and not os.path.lexists(word) and not os.path.isdir(missing_path.similar(word) or "")
        plain_word = plain_word and word not in INCLUDED
        if joins and plain_word:
            found[-1] += f" {word}"
        else:
            found.append(word)
        joins = plain_word
    return found


def _quoted(word: str) -> str:
    """A word as it can be typed in any shell: in double quotes if it needs quotes."""
    return word if shlex.quote(word) == word else f'"{word}"' if not set(word) & set('"$`\\!') else shlex.quote(word)


def _meant(model: type[Settings], word: str, taken: Mapping[str, Any]) -> tuple[str | None, str]:
    """The setting, not given yet, that a word without a flag was likely meant for, and its value."""
    path = Path(os.path.expanduser(word)) if len(os.fsencode(word)) < 200 else Path("/nowhere at all")
    is_file, is_folder = path.is_file(), path.is_dir()
    training = model is not InferenceSettings
    value = word
    if (is_folder and (path / "model_index.json").is_file()) or (word in INCLUDED and not is_folder):
        candidates = ["pretrained_model_name_or_path"]
    elif word.endswith(".safetensors"):
        candidates = ["pretrained_model_name_or_path" if training else "weights"]
    elif is_folder:
        candidates = ["weights"] if not training else [] if missing_path.is_run(path) else FOLDERS
    elif is_file or missing_path.is_image_name(word):
        candidates, value = (FOLDERS, str(path.parent)) if training else (["image"], word)
    elif os.path.isdir(found := missing_path.similar(word) or ""):
        candidates, value = [*FOLDERS, "weights"], found
    elif word.startswith("<") and word.endswith(">"):
        candidates = ["placeholder_token", "prompt"]
    elif _is_text(word):
        candidates = ["instance_prompt", "prompt", "initializer_token"]
    else:
        candidates = []
    own = {"prompt", "weights"} & set(taken) if not training else set()
    return next((name for name in candidates if name in table(model) and name not in taken and name not in own), None), value


def _is_text(word: str) -> bool:
    return (
        bool(word.strip())
        and any(letter.isalpha() for letter in word)
        and "/" not in word
        and "\\" not in word
        and "=" not in word
    )


def _second_config(word: str) -> Problem:
    return Problem(word, "is a second CONFIG.toml; only one is read", "put the settings of both into one file")


def _stray(model: type[Settings], word: str) -> Problem:
    """The problem of a word that does not belong to any setting."""
    name, equals, value = word.partition("=")
    plain_name = name.lstrip("-").replace("-", "_")
    if equals and plain_name in known(model):
        return Problem(word, "does not belong to any setting", f"did you mean --{plain_name}={_quoted(value)}?")
    path = Path(os.path.expanduser(word)) if len(os.fsencode(word)) < 200 else Path("/nowhere at all")
    if path.is_dir() and missing_path.is_run(path):
        config = shlex.quote(str(path / "config.toml"))
        return Problem(word, "is a run folder", f"did you mean {config} --resume_from_checkpoint latest?")
    return Problem(word, "does not belong to any setting", "write --name VALUE, with quotes around text that has blanks")


def _flag(names: Mapping[str, Any], flag: str, following: list[str]) -> tuple[str, list[Any], list[str]]:
    """The name of a flag, its values, and the remaining words after it."""
    word, equals, value = flag.partition("=")
    name = word.removeprefix("--").replace("-", "_")
    positive = name.removeprefix("no_")
    if name not in names and positive in names and names[positive].type is bool and not equals:
        return positive, [False], following
    if equals:
        return name, [value], following
    if name in aliases.CONFIG and name not in names:
        return name, following[:1], following[1:]
    if name not in names:
        return name, [True], []  # the number of its values is unknown
    if names[name].type is bool:
        has_value = bool(following) and following[0].casefold() in diffusers_flags.BOOLEANS
        return name, (following[:1] if has_value else [True]), following[has_value:]
    most = len(following) if names[name].many else 1
    return name, following[:most], following[most:]
