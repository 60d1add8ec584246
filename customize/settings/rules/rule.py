"""Rules about combinations of settings: how they are declared and checked, and the ones shared by all commands.

A rule names the settings that it needs. It is skipped if one of them is faulty, since that is already reported.
"""

import os.path
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from customize.errors import Problem
from customize.settings.field import Setting, written


class Rule(NamedTuple):
    """needs: names of settings; problems: called with their values, in this order, it yields what is wrong."""

    needs: tuple[str, ...]
    problems: Callable[..., Iterable[Problem]]


def rule(*needs: str) -> Callable[[Callable[..., Iterable[Problem]]], Rule]:
    """Turn the decorated function into a rule; its arguments are the values of these settings."""
    return lambda problems: Rule(needs, problems)


def broken(
    rules: Iterable[Rule], table: Mapping[str, Setting], given: Mapping[str, Any], faulty: Collection[str]
) -> list[Problem]:
    """All problems between settings. given: the valid values from the user; faulty: names of the invalid ones."""
    defaults = {name: line.default for name, line in table.items() if not line.required}
    values = {name: value for name, value in {**defaults, **given}.items() if name not in faulty}
    found = [*without_effect(table, given, values)]
    for each in rules:
        if values.keys() >= set(each.needs):
            found += each.problems(*(values[name] for name in each.needs))
    return found


MOST_NEEDED = 4
"""Values of another setting that a report lists as those with which a setting has an effect."""


def without_effect(table: Mapping[str, Setting], given: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[Problem]:
    """A setting that is given must have an effect: the setting that it depends on is given too."""
    for name in given:
        line = table[name]
        if line.only_with is None or given[name] is None:
            continue
        other, needed = line.only_with
        if other not in values or line.has_effect(values[other]):
            continue
        if len(needed) > MOST_NEEDED:
            yield Problem(
                name, f"has no effect with {other} = {written(values[other])}", f"leave it out, or choose another {other}"
            )
            continue
        words = " or ".join(f"{other} = {str(value).lower()}" for value in needed) or f"a value for {other}"
        choices = [choice for choice in table[other].choices if choice != "none"] if not needed else []
        remedy = f"set {other} = {' or '.join(choices)}" if choices else f"set {words}"
        yield Problem(name, f"has no effect without {words}", f"{remedy}, or leave {name} out")


def within_own_range(where: str, settings_of: Callable[[str], Mapping[str, Setting]], name: str) -> Rule:
    """A number is in the range that it has with the value of the setting `where`, which may be narrower than with others.

    settings_of: the settings that apply with a value, with their own defaults and ranges.
    """

    @rule(where, name)
    def check(chosen: str, value: Any) -> Iterator[Problem]:
        line = settings_of(chosen).get(name)
        if line and line.type in (int, float) and value is not None and (fault := line.fault(value)):
            remedy = f"give a valid value: {line.description} (default: {line.default_text})"
            yield Problem(name, f"{line.quoted(value)} {fault}, with {where} = {chosen}", remedy)

    return check


IMPLIED = {"trace": True, "train_text_encoder": True, "masked_loss": True}
"""Switches that are turned on automatically when a given setting needs them."""


def implied(table: Mapping[str, Setting], given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The missing switches that a given setting needs, and a note for each."""
    found: dict[str, Any] = {}
    notes = []
    for name, value in given.items():
        other, _ = (table[name].only_with if name in table else None) or ("", ())
        is_off = str(value).casefold() in ("false", "none", "no", "0")
        if other in IMPLIED and other not in given and other not in found and not is_off:
            found[other] = IMPLIED[other]
            notes.append(f"{name} needs {other}, which is now turned on")
    return found, notes


FILES = (".safetensors", ".ckpt", ".pt", ".bin", ".txt", ".csv", ".png", ".jpg", ".jpeg", ".webp")


def text_is_no_path(name: str) -> Rule:
    """A setting that takes words is not the name of a file or folder."""

    @rule(name)
    def check(given: str | tuple[str, ...] | None) -> Iterator[Problem]:
        for text in (given,) if isinstance(given, str) else given or ():
            weights = text.lower().endswith((".safetensors", ".pt", ".bin", ".ckpt"))
            if any(c.isspace() for c in text.strip()) and not os.path.isfile(text):
                continue
            is_file = text.lower().endswith(FILES) and (weights or name == "initializer_token" or os.path.isfile(text))
            if not is_file and not ("/" in text and os.path.isdir(text)):
                continue
            remedy = "write the words themselves"
            if name == "initializer_token" and weights:
                remedy = "give known words to start from, such as cat; to continue from learned weights, use --init_weights FILE"
            elif weights:
                remedy = "pass the file to --weights, and write the words themselves"
            elif name == "prompt" and text.lower().endswith((".txt", ".csv")):
                remedy = "pass a file of prompts to --prompt_file, or write the words themselves"
            elif os.path.isdir(text):
                remedy = "pass the folder to --instance_data_dir or --train_data_dir, and write the words themselves"
            yield Problem(name, f'"{text}" is a {"file" if is_file else "folder"}, but words are expected', remedy)

    return check


@rule("output_dir")
def output_is_a_folder(output_dir: str | None) -> Iterator[Problem]:
    """output_dir does not look like the name of a file, such as cat.png."""
    images = (".png", ".jpg", ".jpeg", ".webp", ".safetensors")
    if output_dir and output_dir.lower().endswith(images) and not os.path.isdir(output_dir):
        what = f"{output_dir} looks like a file name, but output_dir is a folder"
        yield Problem("output_dir", what, f"give a folder, such as {os.path.splitext(output_dir)[0]}")
