"""What a training run needs besides its settings: looked at in one go, before torch is imported."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from customize import run_folder
from customize.data import Examples, load_examples
from customize.errors import InputError, Problem
from customize.families import Source, locate
from customize.families.source import known_token_problems, vocabulary


def run(settings) -> None:
    """Checks, then trains: what the training scripts call."""
    checked = check(settings)
    from customize.training import run

    run(settings, *checked)


def check(settings) -> tuple[Path, Source, Examples]:
    """The run's folder, the located base model and the examples. Raises one InputError with every problem found."""
    folder, source, examples = together(
        lambda: run_folder.check(settings), lambda: check_source(settings), lambda: load_examples(settings)
    )
    return folder, source, examples


def together(*checks: Callable[[], Any]) -> list[Any]:
    """The results of all checks, or one InputError with the problems of all of them."""
    problems: list[Problem] = []
    results = []
    for one in checks:
        try:
            results.append(one())
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return results


def check_source(settings) -> Source:
    """The located base model; the words to be learned must not be among those that it knows."""
    source = locate(
        settings.pretrained_model_name_or_path, revision=settings.revision, variant=settings.variant,
        prediction_type=settings.prediction_type,
    )  # fmt: skip
    if problems := known_token_problems(vocabulary(source), getattr(settings, "placeholder_token", ())):
        raise InputError(problems)
    return source
