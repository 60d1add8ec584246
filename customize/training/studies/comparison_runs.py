"""Checks and trains the runs of a comparison, one after another. Each is an ordinary run in a folder of its own."""

import gc
from collections.abc import Sequence
from pathlib import Path

from customize import events
from customize.errors import InputError, NumericsError, Problem
from customize.settings.files import toml_file
from customize.storage import manifest, run_folder
from customize.training import output_folder, preflight
from customize.training.studies.comparison_plan import PlannedRun, differences


def check(runs: Sequence[PlannedRun]) -> list[Problem]:
    """All problems of the runs' images, base model and folders. What does not depend on rate and seed is checked once for each
    method."""
    problems: list[Problem] = []
    checked: set[str] = set()
    for planned in runs:
        found: list[Problem] = []
        if planned.method not in checked:
            preflight.attempt(lambda run=planned: preflight.check(run.settings), found)
        else:
            preflight.attempt(lambda run=planned: output_folder.check(run.settings), found)
        checked.add(planned.method)
        problems += [each for each in found if each not in problems]
        if names := other_settings(planned):
            what = f"is a run with other settings: {', '.join(names)}"
            problems.append(Problem(str(planned.folder), what, "give the same ones, or name another --output_dir"))
    return problems


def other_settings(planned: PlannedRun) -> list[str]:
    """The settings in which a run that was begun in the folder differs from the planned one, but for its number of steps."""
    config = planned.folder / run_folder.CONFIG
    if not config.is_file():
        return []
    try:
        return [name for name in differences(planned, toml_file.read(str(config))[0]) if name not in STEPS]
    except InputError:
        return ["config.toml cannot be read"]


STEPS = ("max_train_steps", "num_train_epochs")


def is_done(planned: PlannedRun) -> bool:
    """Whether the folder has the complete result of the planned run."""
    if manifest.faults(planned.folder, others=True):
        return False
    return not differences(planned, toml_file.read(str(planned.folder / run_folder.CONFIG))[0])


def train(runs: Sequence[PlannedRun], failed: dict[str, str]) -> None:
    """Trains every run that is not done, and resumes those that were stopped. A run whose numbers become NaN or infinite is put
    into `failed`, by the name of its folder, and not repeated; everything else ends the comparison."""
    for number, planned in enumerate(runs, 1):
        name = planned.folder.name
        if name in failed or is_done(planned):
            continue
        events.info(f"\nrun {number} of {len(runs)}: {name}")
        try:
            preflight.run(planned.settings)
        except NumericsError as error:
            failed[name] = str(error).partition("\n")[0]
            events.warn(f"{name}: {failed[name]}; the comparison goes on")
        gc.collect()


def size_of(folder: Path) -> int | None:
    """Bytes of the learned weights in a run's result, in one layout; None if there is none."""
    try:
        names = [name for name in manifest.read(folder) if name.endswith(".safetensors")]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    once = [name for name in names if name != run_folder.KOHYA_LORA or run_folder.LORA not in names]
    return sum((folder / name).stat().st_size for name in once)
