"""The words of a command line: which are flags with values, which is CONFIG.toml, and what the others were meant to be.

argparse writes the help, but reads nothing: it stops at the first fault, and takes what follows an unknown flag for
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
from customize.settings.common import Settings
from customize.settings.field import Setting, table
from customize.settings.files import shipped_configs
from customize.settings.inference import InferenceSettings

SMALL = frozenset("a an the of in on at with and by is from to for".split())
"""Words that nobody wants an image of."""
Given = tuple[str | None, dict[str, Any], list[Problem]]


def known(model: type[Settings]) -> dict[str, Any]:
    """Every name that a command understands: settings, flags of diffusers' scripts, other programs' names."""
    return {**aliases.lines(model), **diffusers_flags.flags(model), **table(model)}


def plain(model: type[Settings], argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words as they were meant where a word processor or another shell changed them, and notes."""
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
    """CONFIG.toml, the values of the flags by name (unknown names included), and what cannot be understood."""
    names = known(model)
    words: list[str] = []  # that belong to no flag
    flags: list[tuple[str, list[str]]] = []  # each with the words up to the next one
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
                problems.append(Problem(flag, f'"{given[-1]}" is taken for its value', "put CONFIG.toml first"))
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
    """The problem of a text whose words the shell took apart, because no quotes stood around it."""
    if not isinstance(line, Setting) or line.type is not str or line.choices or not all(isinstance(each, str) for each in given):
        return None
    more = [word for word in left if not is_config(word)]
    if line.many:
        if flag_like := [word for word in given[1:] if re.fullmatch(r"-[^\W\d]\w*", word)]:
            remedy = f"write --{flag_like[0][1:]} for a flag, {flag}={flag_like[0]} for a value"
            return Problem(flag_like[0], f"is taken for a value of {flag}", remedy)
        if signs := [word for word in given if word.strip() and not set(word) - set(",;|&+. ")]:
            return Problem(flag, f'"{signs[0]}" is taken for a value', "leave it out: values stand with blanks between them")
        single = not any(len(each.split()) > 1 for each in given) and not SMALL.isdisjoint(map(str.casefold, given))
        if line.text not in ("line", "any", "prompt") or len(given) < 2 or not single:
            return None
        whole = " ".join(given)
        return Problem(flag, f"has {len(given)} values of one word each", f"did you mean {flag} {_quoted(whole)}?")
    if not more:
        return None
    given[0] = " ".join([given[0], *more])
    what = f"belong{'s' * (len(more) == 1)} to no setting"
    return Problem(" ".join(more), what, f"did you mean {flag} {_quoted(given[0])}?")


def _example(line: Any) -> str:
    """What may stand behind a flag, where one value is likely."""
    if getattr(line, "name", "") == "resume_from_checkpoint":
        return "latest"
    choices = [choice for choice in getattr(line, "choices", ()) if choice != "none"]
    return " or ".join(choices[:3]) or "VALUE"


def is_config(word: str) -> bool:
    """Whether a word that belongs to no flag is to be read as CONFIG.toml."""
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
    """Words before or after the flags, of which none is CONFIG.toml: the settings that they were likely meant for."""
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
        what = "belongs to no setting" if len(meant) == 1 else "belong to no setting"
        problems = [Problem(words, what, f"did you mean {remedy}?"), *problems]
        values = {**values, **{name: [word] if table(model)[name].many else word for name, word in meant.items()}}
    return values, [*strays, *problems]


def _texts_joined(rest: list[str]) -> list[str]:
    """The words, with those in a row as one that are no paths and no flags: a text without quotes around it."""
    found: list[str] = []
    joins = False
    for word in rest:
        plain_word = _is_text(word) and word[0] not in "<-" and word != "demo" and "." not in word and len(word.split()) == 1
        plain_word = plain_word and not os.path.lexists(word) and not os.path.isdir(missing_path.similar(word) or "")
        if joins and plain_word:
            found[-1] += f" {word}"
        else:
            found.append(word)
        joins = plain_word
    return found


def _quoted(word: str) -> str:
    """A word as it is typed in any shell: in double quotes where quotes are needed."""
    return word if shlex.quote(word) == word else f'"{word}"' if not set(word) & set('"$`\\!') else shlex.quote(word)


def _meant(model: type[Settings], word: str, taken: Mapping[str, Any]) -> tuple[str | None, str]:
    """The setting that a word without a flag was likely meant for, of those that are not given yet, and its value."""
    path = Path(os.path.expanduser(word)) if len(os.fsencode(word)) < 200 else Path("/nowhere at all")
    is_file, is_folder = path.is_file(), path.is_dir()
    training = model is not InferenceSettings
    value = word
    if (is_folder and (path / "model_index.json").is_file()) or (word == "demo" and not is_folder):
        wanted = ["pretrained_model_name_or_path"]
    elif word.endswith(".safetensors"):
        wanted = ["pretrained_model_name_or_path" if training else "weights"]
    elif is_folder:
        wanted = ["weights"] if not training else [] if missing_path.is_run(path) else ["train_data_dir", "instance_data_dir"]
    elif is_file or missing_path.is_image_name(word):
        wanted, value = (["train_data_dir", "instance_data_dir"], str(path.parent)) if training else (["image"], word)
    elif os.path.isdir(found := missing_path.similar(word) or ""):
        wanted, value = ["train_data_dir", "instance_data_dir", "weights"], found
    elif word.startswith("<") and word.endswith(">"):
        wanted = ["placeholder_token", "prompt"]
    elif _is_text(word):
        wanted = ["instance_prompt", "prompt", "initializer_token"]
    else:
        wanted = []
    own = {"prompt", "weights"} & set(taken) if not training else set()
    return next((name for name in wanted if name in table(model) and name not in taken and name not in own), None), value


def _is_text(word: str) -> bool:
    return (
        bool(word.strip())
        and any(letter.isalpha() for letter in word)
        and "/" not in word
        and "\\" not in word
        and "=" not in word
    )


def _second_config(word: str) -> Problem:
    return Problem(word, "is a second CONFIG.toml, where one is read", "write the settings of both into one file")


def _stray(model: type[Settings], word: str) -> Problem:
    """The problem of a word that belongs to no setting."""
    name, equals, value = word.partition("=")
    plain_name = name.lstrip("-").replace("-", "_")
    if equals and plain_name in known(model):
        return Problem(word, "belongs to no setting", f"did you mean --{plain_name}={_quoted(value)}?")
    path = Path(os.path.expanduser(word)) if len(os.fsencode(word)) < 200 else Path("/nowhere at all")
    if path.is_dir() and missing_path.is_run(path):
        config = shlex.quote(str(path / "config.toml"))
        return Problem(word, "is the folder of a run", f"did you mean {config} --resume_from_checkpoint latest?")
    return Problem(word, "belongs to no setting", "write --name VALUE, with quotes around blanks")


def _flag(names: Mapping[str, Any], flag: str, following: list[str]) -> tuple[str, list[Any], list[str]]:
    """The name of a flag, its values, and what is left of the words that follow it."""
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
        return name, [True], []  # nobody knows how many values it takes
    if names[name].type is bool:
        told = bool(following) and following[0].casefold() in diffusers_flags.BOOLEANS
        return name, (following[:1] if told else [True]), following[told:]
    most = len(following) if names[name].many else 1
    return name, following[:most], following[most:]
