"""Going on with a run: finds its checkpoint, and makes sure that it is the same run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from customize import checkpoint, run_folder
from customize.data import Examples
from customize.errors import InputError, Problem
from customize.findings import first_few

FREE_TO_CHANGE = {
    "output_dir", "overwrite_output_dir", "resume_from_checkpoint", "checkpointing_steps", "checkpoints_total_limit",
    "save_steps", "validation_prompt", "num_validation_images", "validation_steps", "validation_epochs",
    "validation_scheduler", "report_to", "logging_dir", "push_to_hub", "hub_model_id", "max_train_steps", "num_train_epochs",
}  # fmt: skip
"""Settings that may differ when a run is resumed: the steps that are still to do are the same with either value."""


def identity(settings, examples: Examples, num_processes: int) -> dict[str, Any]:
    """What makes a run the one that it is: settings, pictures with their captions, and the size of its batches."""
    kept = {name: value for name, value in settings.values().items() if name not in FREE_TO_CHANGE}
    if not settings.lr_scheduler.startswith("constant"):  # the length shapes the curve
        kept["max_train_steps"] = settings.max_train_steps
    pictures = {example.name: [example.digest, *example.captions] for example in examples.instances}
    return json.loads(json.dumps({**kept, "num_processes": num_processes, "pictures": pictures}))


def find_checkpoint(settings, folder: Path, same: dict[str, Any], say: Callable[[str], None]) -> checkpoint.Checkpoint | None:
    """The state to go on from, when the settings ask for one. Raises InputError when it belongs to another run."""
    if not settings.resume_from_checkpoint:
        return None
    path = checkpoint.find(folder / run_folder.CHECKPOINTS, settings.resume_from_checkpoint, say)
    if path is None:
        say("no checkpoint yet: starting at the beginning")
        return None
    found = checkpoint.load(path)
    if problems := differences(found.state["identity"], same):
        raise InputError(problems)
    say(f"going on after step {found.step} ({path})")
    return found


def differences(earlier: dict[str, Any], now: dict[str, Any]) -> list[Problem]:
    """What would make the rest of the run another one than was begun."""
    remedy = "set it as it was, or start anew in another --output_dir"
    changed = sorted(name for name in earlier.keys() | now.keys() if earlier.get(name) != now.get(name))
    problems = [
        Problem(name, f"was {earlier.get(name)!r} in the run to be resumed, is {now.get(name)!r} now", remedy)
        for name in changed
        if name != "pictures"
    ]
    if "pictures" in changed:
        before, after = earlier["pictures"], now["pictures"]
        names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        what = f"not those of the run to be resumed: {first_few(names)}"
        problems.append(Problem("pictures and captions", what, "put them back, or start anew in another --output_dir"))
    return problems
