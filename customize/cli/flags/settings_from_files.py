"""Settings that come from files: prompts of `prompt_file`, tables of `concepts_list`, settings stored in the image `like` or in
`init_weights`.

Settings are pure values; creating them reads no files. A command calls `complete` between reading its command line and
checking the settings; Python code calls `read_settings`.
"""

import os
from collections.abc import Mapping
from typing import Any, TypeVar

from customize.errors import InputError, Problem
from customize.settings.common import Settings
from customize.settings.field import table
from customize.settings.inference import InferenceSettings

Model = TypeVar("Model", bound=Settings)


def read_settings(model: type[Model], **values: Any) -> Model:
    """Create settings from these values and the files that they name; given values take precedence over those of a file.

    `read_settings(InferenceSettings, like="dog.png", seed=5)`: as dog.png was generated, with another seed.
    Raises InputError with all problems of the files and of the values.
    """
    completed, problems = complete(model, values)
    settings, more = model.examine(completed, {problem.where for problem in problems})
    if problems + more:
        raise InputError(problems + more)
    return settings


def complete(model: type[Settings], values: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """The given values completed with those from files, and the problems of files that could not be read."""
    try:
        completed = _of_inference(values) if issubclass(model, InferenceSettings) else _of_training(model, values)
    except InputError as error:
        return dict(values), list(error.problems)
    return completed, []


def _of_inference(values: Mapping[str, Any]) -> dict[str, Any]:
    if path := _path(values, "prompt_file"):
        from customize.settings.files.prompt_file import read_prompts

        given = values.get("prompt", ())
        given = (() if given.casefold() == "none" else (given,)) if isinstance(given, str) else tuple(given)
        values = {**values, "prompt": (*given, *read_prompts(path)), "prompt_file": None}
    if path := _path(values, "like"):
        from customize.inference.metadata.read_png import read_generation_info

        values = {**read_generation_info(path).settings, **values}
    return dict(values)


def _of_training(model: type[Settings], values: Mapping[str, Any]) -> dict[str, Any]:
    if "concept" in table(model) and (path := _path(values, "concepts_list")):
        from customize.settings.files.concepts_file import read_concepts

        given = values.get("concept") or ()
        given = [given] if isinstance(given, dict) else list(given)
        values = {**values, "concept": [*given, *read_concepts(path)], "concepts_list": None}
    if path := _path(values, "init_weights"):
        from customize.weights import init_weights

        values = {**init_weights.implied_settings(path, model.command, values), **values}
    return dict(values)


def _path(values: Mapping[str, Any], name: str) -> str | None:
    """The path that a setting contains, if any."""
    path = values.get(name)
    return os.path.expanduser(path) if isinstance(path, str) and path.casefold() != "none" else None
