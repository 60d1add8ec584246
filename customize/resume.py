"""Going on with a run: finds its checkpoint, and makes sure that it is the same run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from customize import checkpoint, run_folder
from customize.errors import InputError, Problem

FREE_TO_CHANGE = {
    "output_dir", "overwrite_output_dir", "resume_from_checkpoint", "checkpointing_steps", "checkpoints_total_limit",
    "save_steps", "validation_prompt", "num_validation_images", "validation_steps", "validation_epochs",
    "validation_scheduler", "report_to", "logging_dir", "push_to_hub", "hub_model_id", "max_train_steps", "num_train_epochs",
}  # fmt: skip
"""Settings that may differ when a run is resumed: the steps that are still to do are the same with either value."""


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
