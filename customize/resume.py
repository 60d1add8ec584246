"""Going on with a run: finds its checkpoint, and makes sure that it is the same run."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from customize import checkpoint, run_folder
from customize.data import Examples
from customize.errors import InputError, Problem
from customize.families import Source
from customize.families.source import files_read
from customize.findings import first_few
from customize.optimizers import is_state_of

FREE_TO_CHANGE = {
    "output_dir", "overwrite_output_dir", "resume_from_checkpoint", "checkpointing_steps", "checkpoints_total_limit",
    "save_steps", "validation_prompt", "num_validation_images", "validation_steps", "validation_epochs",
    "validation_scheduler", "report_to", "logging_dir", "push_to_hub", "hub_model_id", "max_train_steps", "num_train_epochs",
    "on_nan", "latents_cache_dir", "dry_run", "train_data_dir", "instance_data_dir",
}  # fmt: skip
"""Settings that may differ when a run is resumed: the steps that are still to do are the same with either value.
Folders of pictures, and of a base model that is no name on the hub, may be moved: what is in them is compared."""

NOT_COMPARED = {"versions", "pictures"}
BASE_FILES = "base model's files"
BLOCKS, BLOCK = 64, 1 << 16


def identity(settings, source: Source, examples: Examples, num_processes: int) -> dict[str, Any]:
    """What makes a run the one that it is: method, base model, settings, captioned pictures, and the size of its batches."""
    kept = {name: value for name, value in settings.values().items() if name not in FREE_TO_CHANGE}
    if not settings.lr_scheduler.startswith("constant"):  # the length shapes the curve
        kept["max_train_steps"] = settings.max_train_steps
    if files := fingerprint(source):
        del kept["pretrained_model_name_or_path"]
    pictures = {example.name: [example.digest, *example.captions] for example in examples.instances}
    versions = {name: version(name) for name in run_folder.VERSIONED}
    about = {"method": settings.command, BASE_FILES: files, "num_processes": num_processes}
    return json.loads(json.dumps({**kept, **about, "pictures": pictures, "versions": versions}))


def fingerprint(source: Source) -> str:
    """A hash over those files of the base model that are read: the size of each and 64 blocks spread over it.
    Another model is found out, a single changed byte may not be. Empty for one on the hub: its name and revision tell."""
    files = files_read(source)
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        with open(path, "rb") as file:
            for place in range(0, size, max(BLOCK, size // BLOCKS)):
                file.seek(place)
                digest.update(file.read(BLOCK))
    return digest.hexdigest() if files else ""


def find_checkpoint(settings, folder: Path, same: dict[str, Any], say: Callable[[str], None]) -> checkpoint.Checkpoint | None:
    """The state to go on from, when the settings ask for one. Raises InputError when it belongs to another run."""
    if not settings.resume_from_checkpoint:
        return None
    path = checkpoint.find(folder / run_folder.CHECKPOINTS, settings.resume_from_checkpoint, say)
    if path is None:
        say("no checkpoint yet: starting at the beginning")
        return None
    found = checkpoint.load(path)
    earlier = found.state.get("identity")
    if not (is_identity(earlier) and is_left_out(found.state.get("left_out", []), found.step)):
        raise InputError(checkpoint.not_ours(path, "state.json does not tell which run it is of"))
    if problems := differences(earlier, same):
        raise InputError(problems)
    for name, now in same.get("versions", {}).items():
        if (before := earlier.get("versions", {}).get(name, now)) != now:
            say(f"note: {name} was {before}, is {now} now: the last bits of what follows may differ")
    say(f"going on after step {found.step} ({path})")
    return found


def is_identity(value: Any) -> bool:
    """Whether it is something that `identity` could have given, as far as it is used."""
    try:
        plain = json.loads(json.dumps(value)) == value
    except (TypeError, ValueError, RecursionError):
        return False
    return plain and isinstance(value, dict) and all(isinstance(value.get(name, {}), dict) for name in NOT_COMPARED)


def is_left_out(value: Any, step: int) -> bool:
    """Whether they are steps up to this one."""
    return isinstance(value, list) and all(type(each) is int and 0 <= each <= step for each in value)


def fitting(found: checkpoint.Checkpoint, method, settings, scaler) -> checkpoint.Checkpoint:
    """The checkpoint, if this run could have saved it; of the optimizer's settings, which follow from the run's, it has ours.

    scaler: fp16's, or None. Raises InputError for other tensors than those that the method learns and its optimizer keeps.
    """
    optimizer, said, mine = method.build_optimizer(settings), found.state.get("optimizer"), method.learned()
    state = said.get("state") if isinstance(said, dict) else None
    faults = [
        f"the learned {name}"
        for name in sorted(mine.keys() | found.learned.keys())
        if name not in mine or name not in found.learned or mine[name].shape != found.learned[name].shape
    ]
    faults += [] if is_state_of(optimizer, state) else ["the state of the optimizer"]
    faults += [] if scaler is None or is_scaling(found.state.get("scaler"), scaler.state_dict()) else ["the scale of fp16"]
    if faults:
        what = f"other tensors than this run's: {first_few(faults, 3)}"
        raise InputError(checkpoint.not_ours(Path(checkpoint.name(found.step)), what))
    ours = {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    return replace(found, state={**found.state, "optimizer": ours})


def is_scaling(said: Any, ours: dict[str, Any]) -> bool:
    """Whether it is the state of a loss scaler."""
    return isinstance(said, dict) and said.keys() == ours.keys() and all(type(said[name]) is type(ours[name]) for name in ours)


def differences(earlier: dict[str, Any], now: dict[str, Any]) -> list[Problem]:
    """What would make the rest of the run another one than was begun."""
    remedy = "set it as it was, or start anew in another --output_dir"
    names = earlier.keys() | now.keys()
    if earlier.get("method") != now.get("method"):  # each has settings of its own
        names = {"method", *(earlier.keys() & now.keys())}
    changed = sorted(name for name in names if earlier.get(name) != now.get(name))
    problems = [
        Problem(name, f"was {earlier.get(name)!r} in the run to be resumed, is {now.get(name)!r} now", remedy)
        for name in changed
        if name not in (*NOT_COMPARED, BASE_FILES)
    ]
    if BASE_FILES in changed:
        what = (
            "are not those of the run to be resumed: it is another model, or it was changed, or an earlier version began the run"
        )
        problems.append(Problem(BASE_FILES, what, "name the one that it was begun with, or start anew in another --output_dir"))
    if "pictures" in changed:
        before, after = earlier.get("pictures", {}), now.get("pictures", {})
        names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        what = f"not those of the run to be resumed: {first_few(names)}"
        problems.append(Problem("pictures and captions", what, "put them back, or start anew in another --output_dir"))
    return problems
