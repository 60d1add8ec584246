"""What a resumed run has of its evaluation: up to the step that it starts from, and whether it has ended."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from customize import events
from customize.errors import InputError
from customize.evaluation import record
from customize.evaluation.picture_probe import PICTURES
from customize.evaluation.record import Evaluation
from customize.settings.training_parts.evaluation import WITH_PICTURES
from customize.storage import checkpoint
from customize.storage.json_files import read_object
from customize.storage.resources import optional_file
from customize.storage.run_folder import METADATA, remove_own

WEIGHTS = "weights"
"""The folder, in that of the record, of the weights that were kept."""


def read(folder: Path) -> Evaluation | None:
    """The record of a run, if there is one that can be read."""
    with optional_file("the evaluation of the run cannot be read", InputError):
        if record.place_of(folder).exists():
            return record.read(folder)
    return None


def is_measured(folder: Path, step: int) -> bool:
    """Whether the record of a run has the weights of a step."""
    evaluation = read(folder)
    return evaluation is not None and evaluation.candidate(step) is not None


def continued(folder: Path, new: Evaluation, step: int) -> Evaluation | None:
    """The record up to this step of a run that is resumed, if it measured the same as `new` does; pictures of later steps, and
    of another evaluation, are removed."""
    earlier = read(folder) if step else None
    same = earlier is not None and measures_like(earlier, new)
    for drawn in sorted((folder / record.FOLDER / PICTURES).glob("*")):
        name = drawn.name.partition("@")[0]  # step-000350, or step-000350@0.8
        if not same or (checkpoint.is_name(name) and checkpoint.step_of(Path(name)) > step):
            remove_own(drawn)
    if earlier is None or not same:
        if earlier and any(each.values for each in earlier.candidates):
            events.note("pictures are drawn or compared in another way than before: those of earlier steps are not compared")
        return None
    found = tuple(each for each in earlier.candidates if each.step <= step)
    return replace(earlier, candidates=found, steps=new.steps, held_out=new.held_out)


def measures_like(one: Evaluation, other: Evaluation) -> bool:
    """Whether the numbers of two evaluations can be compared."""
    of_one, of_other = ((each.prompts, each.pairs, each.photos, each.scorer, each.options) for each in (one, other))
    return of_one == of_other


def has_ended(settings, evaluation: Evaluation | None, step: int, max_train_steps: int) -> bool:
    """Whether a run ends after this step."""
    stopped = evaluation is not None and evaluation.stopped and settings.stop == "auto"
    return step >= max_train_steps or bool(stopped and step == max((each.step for each in evaluation.candidates), default=0))


def result_step(settings, folder: Path, step: int, max_train_steps: int) -> int | None:
    """The step of the result of a run that has a checkpoint of `step`; None if it has not ended."""
    evaluation = read(folder) if settings.evaluation in WITH_PICTURES[1] else None
    if not has_ended(settings, evaluation, step, max_train_steps):
        return None
    if settings.keep != "best" or settings.evaluation not in WITH_PICTURES[1]:
        return step
    return (kept_result(folder) if evaluation is None else evaluation.chosen) or step


def kept_result(folder: Path) -> int | None:
    """The step of a result that is there, if its weights were kept as the best: what is known of a run whose record is lost."""
    with suppress(OSError, ValueError):
        step = read_object(folder / METADATA).get("steps")
        if type(step) is int and (folder / record.FOLDER / WEIGHTS / checkpoint.name(step)).is_dir():
            return step
    return None
