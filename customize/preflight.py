"""All that can be wrong with a training run before a model is loaded, in one report."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from customize import checkpoint, run_folder
from customize.data import Examples, load_examples
from customize.errors import InputError, Problem
from customize.families import Source, locate
from customize.families.source import known_token_problems, vocabulary

FREE_TO_CHANGE = {
    "output_dir", "overwrite_output_dir", "resume_from_checkpoint", "checkpointing_steps", "checkpoints_total_limit", "save_steps",
    "validation_prompt", "num_validation_images", "validation_steps", "validation_epochs", "validation_scheduler", "report_to",
    "logging_dir", "push_to_hub", "hub_model_id", "max_train_steps", "num_train_epochs",
}  # fmt: skip
"""Settings that may differ when a run is resumed: the steps that are still to do are the same with either value."""


def check(settings) -> tuple[Path, Source, Examples]:
    """The run's folder, the located base model and the examples. Raises one InputError with every problem found."""
    folder, source, examples, _ = together(
        lambda: run_folder.check(settings),
        lambda: check_source(settings),
        lambda: load_examples(settings),
        lambda: check_machine(settings),
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
    source = locate(settings.pretrained_model_name_or_path, settings.variant)
    if problems := known_token_problems(vocabulary(source), getattr(settings, "placeholder_token", ())):
        raise InputError(problems)
    return source


def check_machine(settings) -> None:
    """What the settings ask of this machine is there: a GPU for fp16, the trackers, access to the hub."""
    problems = []
    if settings.mixed_precision == "fp16" and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        remedy = "use --mixed_precision bf16 or no on a machine without GPU"
        problems.append(Problem("mixed_precision", "fp16 needs a GPU, and there is none", remedy))
    if "wandb" in settings.report_to and importlib.util.find_spec("wandb") is None:
        problems.append(Problem("report_to", "wandb is not installed", "pip install wandb, or --report_to tensorboard"))
    if settings.push_to_hub:
        problems += hub_problems(settings)
    if problems:
        raise InputError(problems)


def hub_problems(settings) -> list[Problem]:
    """What keeps the result from being uploaded, found out before the training and not after it."""
    from huggingface_hub import HfApi

    try:
        HfApi(token=settings.hub_token).whoami()
    except Exception as error:  # whatever the hub's client raises: the cause is passed on
        cause = str(error).strip().splitlines()[0]
        return [Problem("push_to_hub", f"no access to the hub ({cause})", "log in with `hf auth login`, or leave it out")]
    return []


def find_checkpoint(settings, folder: Path, say: Callable[[str], None]) -> checkpoint.Checkpoint | None:
    """The state to go on from, when the settings ask for one. Raises InputError when it belongs to another run."""
    if not settings.resume_from_checkpoint:
        return None
    path = checkpoint.find(folder / run_folder.CHECKPOINTS, settings.resume_from_checkpoint, say)
    if path is None:
        say("no checkpoint yet: starting at the beginning")
        return None
    found = checkpoint.load(path)
    if problems := differences(found.state["settings"], settings):
        raise InputError(problems)
    say(f"going on after step {found.step} ({path})")
    return found


def differences(earlier: dict[str, Any], settings) -> list[Problem]:
    """The settings that would make the rest of the run another one than was begun."""
    now = json.loads(json.dumps(settings.values()))
    names = sorted((earlier.keys() | now.keys()) - FREE_TO_CHANGE)
    return [
        Problem(name, f"was {earlier.get(name)!r} in the run to be resumed, is {now.get(name)!r} now",
                "set it as it was, or start anew in another --output_dir")
        for name in names
        if earlier.get(name) != now.get(name)
    ]  # fmt: skip
