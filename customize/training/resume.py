"""Resumes a run: finds its checkpoint, and verifies that it belongs to the same run."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

from customize.data import bucket_report
from customize.data.buckets import uses
from customize.data.examples import USUAL_RESOLUTION, Example, Examples
from customize.data.samples.concept_turns import Turns
from customize.errors import InputError, Problem
from customize.families import Source
from customize.families.files.autoencoder import files_of, locate_autoencoder
from customize.families.specs import spec_of
from customize.printable import first_few, printable
from customize.settings import derived
from customize.settings.field import table
from customize.storage import checkpoint, run_folder
from customize.training.resumable import (
    IDENTITY,
    OPTIMIZER,
    SKIPPED_DRAWS,
    OptimizerState,
    Resumable,
    SkippedDraws,
    saved_parts,
)
from customize.weights import init_weights

IMAGES, CLASS_IMAGES, HELD_OUT, MASKS = "pictures", "class_pictures", "held_out_pictures", "masks"
BASE_FILES = "base model's files"
"""Entries of the identity."""
NOT_COMPARED = {"versions", "changes", "run", IMAGES, CLASS_IMAGES, HELD_OUT, MASKS}
"""Entries of the identity that are not compared like settings."""
TABLES = ("versions", IMAGES, CLASS_IMAGES, HELD_OUT, MASKS)
BLOCKS, BLOCK = 64, 1 << 16
START_OVER = "start a new run in another --output_dir"


def identity(settings, source: Source, examples: Examples, num_processes: int) -> dict[str, Any]:
    """What identifies a run: method, base model, training images and captions, and the effective value of every setting that
    its steps depend on."""
    files = fingerprint(source)
    kept = {
        name: value for name, value in settings.values().items() if name not in derived.SCHEDULE and not is_free(settings, name)
    }
    spec, resolution = spec_of(source), known_resolution(settings, source)
    kept |= derived.learning_rates(settings, uses(settings, examples.instances, resolution), num_processes)
    kept |= {"resolution": settings.resolution or spec.resolution(source), "prediction_type": spec.prediction_type(source)}
    if buckets := bucket_report.identity(settings, [*examples.instances, *examples.classes], resolution):
        kept["aspect_ratio_buckets"] = buckets
    if "lora_targets" in kept:
        kept |= {"lora_targets": sorted(set(settings.lora_targets)), "lora_alpha": settings.lora_alpha or settings.rank}
    if tables := kept.pop("concept", ()):
        shares = Turns.of(settings, examples.instances).shares
        kept["concept"] = [compared(settings, own, share) for own, share in zip(tables, shares, strict=True)]
    if settings.placeholders:
        kept |= {"initializer_token": [*settings.starts.values()], "num_vectors": [*settings.placeholders.values()]}
    else:
        kept.pop("placeholder_token", None)
    without_effect = ["crop_variants"] if settings.center_crop and not any(settings.augmentation) else []
    for name in [*without_effect, *(BASE_SETTINGS if files else [])]:
        del kept[name]
    images = {example.name: [example.digest, *example.captions] for example in examples.instances}
    versions = {name: version(name) for name in run_folder.VERSIONED}
    kept |= {"init_weights": init_weights.digest(settings)[:16]}
    kept |= {"vae": digest_of(files_of(locate_autoencoder(settings.vae)))} if settings.vae else {}
    others = {"method": settings.command, BASE_FILES: files, "num_processes": num_processes}
    others |= {CLASS_IMAGES: of_class_images(settings, examples.classes), HELD_OUT: digests(examples.held_out)}
    others |= {MASKS: {example.name: example.mask.digest for example in examples.instances if example.mask}}
    return json.loads(json.dumps({**kept, **others, IMAGES: images, "versions": versions, "changes": [], "run": uuid4().hex}))


def known_resolution(settings, source: Source) -> int:
    """The resolution of a run, as far as it is known before its base model is loaded."""
    return settings.resolution or spec_of(source).resolution(source) or USUAL_RESOLUTION


def planned_steps(settings, source: Source, examples: Examples, num_processes: int) -> int:
    """The number of steps of a run, by its known resolution."""
    return derived.max_train_steps(
        settings, uses(settings, examples.instances, known_resolution(settings, source)), num_processes
    )


BASE_SETTINGS = ("pretrained_model_name_or_path", "revision", "variant")
"""Settings that name the base model; where its files are local, their fingerprint is compared instead."""


def is_free(settings, name: str) -> bool:
    """Whether a setting may differ when a run is resumed. Its consequences are compared: images, captions and learning rates.
    Folders of images, and of a local base model, may be moved, since their contents are compared."""
    return name in derived.RATES or table(type(settings))[name].scope == "run"


def compared(settings, own: Mapping[str, Any], share: int) -> dict[str, Any]:
    """What identifies a concept, besides its images. own: its table; share: its turns in a round."""
    return {name: value for name, value in own.items() if not is_free(settings, name)} | {"share": share}


def digests(examples: Sequence[Example]) -> dict[str, str]:
    """The hashes of the images, by name."""
    return {example.name: example.digest for example in examples}


def of_class_images(settings, examples: Sequence[Example]) -> dict[str, Any]:
    """The hashes of the class images, by name; with the captions of those that have other ones than their class prompt."""
    prompts = [(part.prompts.get("class_prompt"),) for part in settings.parts]
    own = {each.name: each.captions for each in examples if each.captions != prompts[each.concept]}
    return {name: [digest, *own[name]] if name in own else digest for name, digest in digests(examples).items()}


def fingerprint(source: Source) -> str:
    """A hash of the base model's files; empty for a model on the hub, which is identified by name and revision."""
    files = spec_of(source).files(source)
    return digest_of(files) if files else ""


def digest_of(files: Sequence[Path]) -> str:
    """A hash of the size of each file and of 64 blocks spread over it. It detects another model, but not every changed byte."""
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        with open(path, "rb") as file:
            for place in range(0, size, max(BLOCK, size // BLOCKS)):
                file.seek(place)
                digest.update(file.read(BLOCK))
    return digest.hexdigest()


def find_checkpoint(
    settings, folder: Path, current: dict[str, Any], report: Callable[[str], None], max_train_steps: int | None = None
) -> checkpoint.Checkpoint | None:
    """The checkpoint to resume from, if the settings name one; changed learning rates are recorded in `current`.

    max_train_steps: the last step of the run. Raises InputError when the checkpoint belongs to another run or lies beyond.
    """
    if not settings.resume_from_checkpoint:
        return None
    checkpoints = folder / run_folder.CHECKPOINTS
    path = checkpoint.find(checkpoints, settings.resume_from_checkpoint, report)
    if path is None:
        report("no checkpoint yet: starting from the beginning")
        return None
    found = checkpoint.load(path)
    earlier = found.state.get(IDENTITY)
    if not is_identity(earlier) or SkippedDraws().faults(saved_parts(found)[SKIPPED_DRAWS], found.step):
        raise InputError(checkpoint.not_ours(path, "state.json does not identify its run"))
    may_change = derived.RATES if getattr(settings, "change_learning_rate", False) else ()
    problems = differences(earlier, current, may_change)
    if max_train_steps is not None and found.step > max_train_steps:
        what = f"is {max_train_steps}, but {path} is of step {found.step}"
        problems.append(Problem("max_train_steps", what, "set it higher, or resume from an earlier checkpoint"))
    changes = changed_rates(found, earlier, current) if may_change else []
    problems += later_checkpoints(checkpoints, found.step) if changes else []
    if problems:
        raise InputError(problems)
    current["run"] = earlier.get("run", current.get("run"))
    current["changes"] = [*earlier.get("changes", []), *changes]
    for _, name, was, now in changes:
        report(f"note: {name} was {was!r} up to step {found.step}, is {now!r} from then on")
    for name, now in current.get("versions", {}).items():
        if (before := earlier.get("versions", {}).get(name, now)) != now:
            report(f"note: {name} was {before}, is {now} now: the last bits of the following steps may differ")
    report(f"resuming after step {found.step} ({path})")
    return found


def done(found: checkpoint.Checkpoint | None) -> tuple[int, int]:
    """(steps done, draws skipped) before the run is resumed."""
    return (found.step, len(saved_parts(found)[SKIPPED_DRAWS])) if found else (0, 0)


def is_identity(value: Any) -> bool:
    """Whether a value has the structure of what `identity` returns."""
    try:
        plain = json.loads(json.dumps(value)) == value
    except (TypeError, ValueError, RecursionError):
        return False
    return (
        plain
        and isinstance(value, dict)
        and all(isinstance(value.get(name, {}), dict) for name in TABLES)
        and isinstance(value.get("changes", []), list)
    )


def fitting(found: checkpoint.Checkpoint, parts: Mapping[str, Resumable]) -> checkpoint.Checkpoint:
    """The checkpoint with the optimizer settings of this run. parts: those of this run's state.

    Raises InputError where a part of the state is not this run's.
    """
    saved = saved_parts(found)
    if problems := other_parts(found, saved.keys() - {IDENTITY}, parts.keys()):
        raise InputError(problems)
    faults = [fault for name, part in parts.items() for fault in part.faults(saved.get(name), found.step)]
    if faults:
        what = f"other tensors than this run's: {first_few(faults, 3)}"
        raise InputError(checkpoint.not_ours(Path(checkpoint.name(found.step)), what))
    optimizer = parts[OPTIMIZER]
    assert isinstance(optimizer, OptimizerState)
    return replace(found, state={**found.state, OPTIMIZER: optimizer.of_this_run(saved[OPTIMIZER])})


def other_parts(found: checkpoint.Checkpoint, saved: Set[str], own: Set[str]) -> list[Problem]:
    """The problems of parts that only the checkpoint or only this run's state has. saved, own: their names."""
    differences = ((own - saved, "has no state of"), (saved - own, "has the state of"))
    remedy = f"resume with the callbacks that the run was started with, or {START_OVER}"
    return [
        Problem(
            checkpoint.name(found.step), printable(f"{what} {first_few(sorted(names))}, a part that a callback brings"), remedy
        )
        for names, what in differences
        if names
    ]


def differences(earlier: dict[str, Any], now: dict[str, Any], may_change: Sequence[str] = ()) -> list[Problem]:
    """The problems of settings, files and images that differ from the run to resume. may_change: settings that may differ."""
    names = earlier.keys() | now.keys()
    if earlier.get("method") != now.get("method"):  # each method has its own settings
        names = {"method", *(earlier.keys() & now.keys())}
    changed = sorted(name for name in names if earlier.get(name) != now.get(name) and name not in may_change)
    problems = [
        Problem(name, f"was {earlier.get(name)!r} in the run to resume, is {now.get(name)!r} now", remedy(name))
        for name in changed
        if name not in (*NOT_COMPARED, BASE_FILES)
    ]
    if BASE_FILES in changed:
        what = "differ from those of the run to resume: another model, a changed one, or a run started by an earlier version"
        problems.append(Problem(BASE_FILES, what, f"name the base model that the run was started with, or {START_OVER}"))
    if IMAGES in changed:
        problems += other_images("images and captions", earlier.get(IMAGES, {}), now.get(IMAGES, {}))
    if earlier.get(HELD_OUT, {}) != now.get(HELD_OUT, {}):
        problems += other_images("held-out images", earlier.get(HELD_OUT, {}), now.get(HELD_OUT, {}))
    if earlier.get(MASKS, {}) != now.get(MASKS, {}):
        problems += other_images("masks", earlier.get(MASKS, {}), now.get(MASKS, {}))
    return problems + class_differences(earlier, now)


def remedy(name: str) -> str:
    """The remedy for a setting that differs."""
    if name in derived.RATES:
        return f"set it as it was, or add --change_learning_rate to resume with the new one, or {START_OVER}"
    return f"set it as it was, or {START_OVER}"


def class_differences(earlier: dict[str, Any], now: dict[str, Any], complete: bool = False) -> list[Problem]:
    """The problems of class images that differ from the run's. complete: whether all exist; else missing ones are ignored."""
    before, after = earlier.get(CLASS_IMAGES, {}), now.get(CLASS_IMAGES, {})
    if not complete and len(after) < len(before):
        before = {name: digest for name, digest in before.items() if name in after}
    return other_images("class_data_dir", before, after) if before != after else []


def refuse_other_class_images(
    settings, found: checkpoint.Checkpoint | None, current: dict[str, Any], of_class: Sequence[Example]
) -> None:
    """Records the class images of the run, including generated ones, in `current`. Raises InputError if the run to resume had
    others."""
    current[CLASS_IMAGES] = of_class_images(settings, of_class)
    if found and (problems := class_differences(found.state[IDENTITY], current, complete=True)):
        raise InputError(problems)


def other_images(where: str, before: dict[str, Any], after: dict[str, Any]) -> list[Problem]:
    """The problem of images that differ, by name."""
    names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    is_folder = where == "class_data_dir"
    what = f"{'contains images that differ' if is_folder else 'differ'} from those of the run to resume: {first_few(names)}"
    return [Problem(where, what, f"restore them, or {START_OVER}")]


def changed_rates(found: checkpoint.Checkpoint, earlier: dict[str, Any], now: dict[str, Any]) -> list[list[Any]]:
    """[step, setting, old value, new value] of each learning rate setting that is changed on request."""
    return [[found.step, name, earlier.get(name), now.get(name)] for name in derived.RATES if earlier.get(name) != now.get(name)]


def later_checkpoints(folder: Path, step: int) -> list[Problem]:
    """The problem of later checkpoints, which `latest` would load although they used the learning rate before the change."""
    later = [path.name for path in checkpoint.every(folder) if path.name > checkpoint.name(step)]
    what = f"changes the learning rate after step {step}, but {first_few(later, 3)} in {folder} used the earlier one"
    return [Problem("change_learning_rate", what, "resume from latest, or move them away first")] if later else []
