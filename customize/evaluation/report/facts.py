"""The numbers, settings, environment and commands of the report, as texts."""

import json
import math
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from customize import methods
from customize.errors import InputError
from customize.evaluation.record import BASE, BASE_MODEL, MEASURES, Candidate, Evaluation
from customize.evaluation.statistics import compare, number_of, two_decimals
from customize.next_command import called, options
from customize.printable import printable
from customize.settings.field import table
from customize.settings.files import toml_file
from customize.settings.files.sharing import shared_config, shared_name
from customize.storage.json_files import read_object
from customize.storage.run_folder import CONFIG, LOG, METADATA, VERSIONED
from customize.storage.run_log import read_log


def settings_of(run: Path) -> Any:
    """The settings of a run, without those that only other versions know; None if they cannot be read."""
    try:
        given = toml_file.read(str(run / CONFIG))[0]
        kind = max(methods.SETTINGS, key=lambda each: len(table(each).keys() & given.keys()))
        return kind(**{name: value for name, value in given.items() if name in table(kind)})
    except InputError:
        return None


def settings_lines(settings: Any) -> list[str]:
    """config.toml for sharing, printable."""
    return [printable(line, 600) for line in shared_config(settings).splitlines()] if settings else []


def losses_by_step(run: Path, evaluation: Evaluation) -> dict[str, dict[int, tuple[float, ...]]]:
    """By probe set and step: the losses of the noise bands relative to the base model's, from log.jsonl and the record."""
    found: dict[str, dict[int, tuple[float, ...]]] = {}
    for step, line in read_log(run / LOG):
        if step is not None and b'"probe"' in line:
            for name, numbers in json.loads(line).get("probe", {}).items():
                found.setdefault(name, {})[step] = tuple(numbers)
    for candidate in evaluation.candidates:
        for name, numbers in candidate.losses.items() if candidate.scale == 1 else ():
            found.setdefault(name, {})[candidate.step] = numbers
    return {name: {BASE: (1.0,) * max(map(len, of_steps.values())), **of_steps} for name, of_steps in found.items()}


def numbers(evaluation: Evaluation) -> dict[str, Any]:
    """The table of all measures: of the base model, the result, and the last step if it is another one."""
    last = max((each.step for each in evaluation.candidates if each.scale == 1 and each.values), default=BASE)
    steps = [step for step in dict.fromkeys((BASE, evaluation.chosen, last)) if step is not None]
    columns = [each for step in steps if (each := evaluation.candidate(step)) and each.values]
    result = columns[min(1, len(columns) - 1)] if columns else None
    rows = []
    for name, measure in MEASURES.items():
        cells = [cell(evaluation, each, result, name) for each in columns]
        if any(cells):
            rows.append({"name": name, "better": measure.better, "meaning": measure.meaning, "cells": cells})
    anchors = {name: two_decimals(value) for name, value in evaluation.anchors.items()}
    return {"steps": [each.step for each in columns], "rows": rows, "anchors": anchors}


def cell(evaluation: Evaluation, candidate: Candidate, result: Candidate | None, measure: str) -> tuple[str, str, str] | None:
    """A number, its interval, and how it compares with that of the result; None where it was not measured."""
    found = number_of(evaluation, candidate, measure)
    if found is None:
        return None
    span = f"{two_decimals(found.low)} to {two_decimals(found.high)}" if math.isfinite(found.low) else "a single picture"
    own, others, better = candidate.values[measure], result.values.get(measure, ()) if result else (), MEASURES[measure].better
    if candidate is result or not better or len(own) != len(others) or not all(map(math.isfinite, (*own, *others))):
        return two_decimals(found.value), span, ""
    outcome = compare(own, others, [pair.prompt for pair in evaluation.pairs_of(measure)], better)
    return two_decimals(found.value), span, outcome


def environment(run: Path, evaluation: Evaluation, settings: Any) -> dict[str, str]:
    """The base model, the device and the versions: those of the result, or of this process while there is none."""
    base = settings.pretrained_model_name_or_path if settings else None
    found = {"base model": shared_name(base)} if base else {}
    found |= {"device": evaluation.device} if evaluation.device else {}
    try:
        versions = read_object(run / METADATA)["versions"]
    except (OSError, ValueError, KeyError):
        versions = {name: installed(name) for name in VERSIONED}
    return found | {str(name): str(number) for name, number in dict(versions).items() if number}


def installed(name: str) -> str:
    """The installed version of a package; empty if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def commands(run: Path, evaluation: Evaluation, settings: Any) -> list[tuple[str, str]]:
    """(what for, command line): what can be done next. The run's folder is given by its name only."""
    name, is_finished = run.resolve().name, (run / METADATA).exists()
    steps = [each.step for each in evaluation.candidates if each.scale == 1 and each.values and each.step != BASE]
    others = [step for step in steps if step != evaluation.chosen or not is_finished]
    found = []
    if settings:
        prompt = settings.default_validation_prompts[-1]
        if is_finished:
            found.append(("generate", program("infer.py", weights=name, prompt=prompt, num_images=4)))
        if others:
            what = f"generate with the weights of step {max(others):,}"
            found.append((what, program("infer.py", weights=f"{name}@{max(others)}", prompt=prompt, num_images=4)))
        if not is_finished:
            config = f"{name}/{CONFIG}"
            found.append(("resume the run", program(settings.command, config, resume_from_checkpoint="latest")))
    if evaluation.start == BASE_MODEL:
        found.append(("measure again", f"customize score {options(name)}"))
    return [*found, ("check every file", f"customize verify {options(name)}")]


def program(script: str, *arguments: str, **settings: object) -> str:
    """A command line without the place of the script."""
    name = called(script)
    return " ".join([f"python {name}" if name.endswith(".py") else name, options(*arguments, **settings)])
