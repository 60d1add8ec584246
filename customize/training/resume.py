"""Resumes a run: finds its checkpoint, and verifies that it belongs to the same run."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

from customize.data.examples import Example, Examples
from customize.errors import InputError, Problem
from customize.families import Source
from customize.families.specs import spec_of
from customize.printable import first_few
from customize.settings import derived
from customize.settings.field import table
from customize.storage import checkpoint, run_folder
from customize.training.resumable import OPTIMIZER, SKIPPED_DRAWS, Resumable, SkippedDraws, saved_parts
from customize.weights import init_weights

PICTURES, CLASS_PICTURES, BASE_FILES = "pictures", "class_pictures", "base model's files"
NOT_COMPARED = {"versions", "changes", "run", PICTURES, CLASS_PICTURES}
"""Entries of the identity that are not compared like settings."""
TABLES = ("versions", PICTURES, CLASS_PICTURES)
BLOCKS, BLOCK = 64, 1 << 16
ANEW = "start a new run in another --output_dir"


def identity(settings, source: Source, examples: Examples, num_processes: int) -> dict[str, Any]:
    """What identifies a run: method, base model, training images and captions, and the effective value of every setting that
    its steps depend on."""
    number, files = len(examples.instances), fingerprint(source)
    kept = {
        name: value for name, value in settings.values().items() if name not in derived.SCHEDULE and not is_free(settings, name)
    }
    kept |= derived.learning_rates(settings, number, num_processes)
    spec = spec_of(source)
    kept |= {"resolution": settings.resolution or spec.resolution(source), "prediction_type": spec.prediction_type(source)}
    if "lora_targets" in kept:
        kept |= {"lora_targets": sorted(set(settings.lora_targets)), "lora_alpha": settings.lora_alpha or settings.rank}
    if "placeholder_token" in kept:
        count = len(settings.placeholder_token)
        kept |= {name: spread(kept[name], count) for name in ("initializer_token", "num_vectors")}
    for name in [*(["crop_variants"] if settings.center_crop else []), *(BASE_SETTINGS if files else [])]:
        del kept[name]
    images = {example.name: [example.digest, *example.captions] for example in examples.instances}
    versions = {name: version(name) for name in run_folder.VERSIONED}
    kept |= {"init_weights": init_weights.digest(settings)[:16]}
    about = {"method": settings.command, BASE_FILES: files, "num_processes": num_processes}
    of_class = {CLASS_PICTURES: digests(examples.classes)}
    return json.loads(
        json.dumps({**kept, **about, PICTURES: images, **of_class, "versions": versions, "changes": [], "run": uuid4().hex})
    )


BASE_SETTINGS = ("pretrained_model_name_or_path", "revision", "variant")
"""Settings that name the base model; where its files are local, their fingerprint is compared instead."""


def is_free(settings, name: str) -> bool:
    """Whether a setting may differ when a run is resumed. Its consequences are compared: images, captions and learning rates.
    Folders of images, and of a local base model, may be moved, since their contents are compared."""
    return name in derived.RATES or table(type(settings))[name].scope == "run"


def spread(values: Sequence[Any], count: int) -> list[Any]:
    """One value for each word; a single value is repeated."""
    return list(values) * (count if len(values) == 1 else 1)


def digests(examples: Sequence[Example]) -> dict[str, str]:
    """The hashes of the images, by name."""
    return {example.name: example.digest for example in examples}


def fingerprint(source: Source) -> str:
    """A hash over the base model's files: the size of each and 64 blocks spread over it. It detects another model, though not
    every changed byte. Empty for a model on the hub, which name and revision identify."""
    files = spec_of(source).files(source)
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        with open(path, "rb") as file:
            for place in range(0, size, max(BLOCK, size // BLOCKS)):
                file.seek(place)
                digest.update(file.read(BLOCK))
    return digest.hexdigest() if files else ""


def find_checkpoint(
    settings, folder: Path, same: dict[str, Any], say: Callable[[str], None], max_train_steps: int | None = None
) -> checkpoint.Checkpoint | None:
    """The checkpoint to resume from, where the settings name one; changed learning rates are noted in `same`.

    max_train_steps: the last step of the run. Raises InputError when the checkpoint belongs to another run or lies beyond.
    """
    if not settings.resume_from_checkpoint:
        return None
    checkpoints = folder / run_folder.CHECKPOINTS
    path = checkpoint.find(checkpoints, settings.resume_from_checkpoint, say)
    if path is None:
        say("no checkpoint yet: starting at the beginning")
        return None
    found = checkpoint.load(path)
    earlier = found.state.get("identity")
    if not is_identity(earlier) or SkippedDraws().faults(saved_parts(found)[SKIPPED_DRAWS], found.step):
        raise InputError(checkpoint.not_ours(path, "state.json does not tell which run it is of"))
    may_change = derived.RATES if getattr(settings, "change_learning_rate", False) else ()
    problems = differences(earlier, same, may_change)
    if max_train_steps is not None and found.step > max_train_steps:
        what = f"is {max_train_steps}, and {path} is of step {found.step} already"
        problems.append(Problem("max_train_steps", what, "set it higher, or go on from an earlier checkpoint"))
    changes = changed_rates(found, earlier, same) if may_change else []
    problems += of_another_course(checkpoints, found.step) if changes else []
    if problems:
        raise InputError(problems)
    same["run"] = earlier.get("run", same.get("run"))
    same["changes"] = [*earlier.get("changes", []), *changes]
    for _, name, was, now in changes:
        say(f"note: {name} was {was!r} up to step {found.step}, is {now!r} from there on")
    for name, now in same.get("versions", {}).items():
        if (before := earlier.get("versions", {}).get(name, now)) != now:
            say(f"note: {name} was {before}, is {now} now: the last bits of what follows may differ")
    say(f"going on after step {found.step} ({path})")
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
    faults = [fault for name, part in parts.items() for fault in part.faults(saved.get(name), found.step)]
    if faults:
        what = f"other tensors than this run's: {first_few(faults, 3)}"
        raise InputError(checkpoint.not_ours(Path(checkpoint.name(found.step)), what))
    own = parts[OPTIMIZER].state_dict()
    return replace(found, state={**found.state, OPTIMIZER: {**own, "state": saved[OPTIMIZER]["state"]}})


def differences(earlier: dict[str, Any], now: dict[str, Any], may_change: Sequence[str] = ()) -> list[Problem]:
    """The problems of settings, files and images that differ from the run to be resumed. may_change: settings that may differ."""
    names = earlier.keys() | now.keys()
    if earlier.get("method") != now.get("method"):  # each has settings of its own
        names = {"method", *(earlier.keys() & now.keys())}
    changed = sorted(name for name in names if earlier.get(name) != now.get(name) and name not in may_change)
    problems = [
        Problem(name, f"was {earlier.get(name)!r} in the run to be resumed, is {now.get(name)!r} now", remedy(name))
        for name in changed
        if name not in (*NOT_COMPARED, BASE_FILES)
    ]
    if BASE_FILES in changed:
        what = (
            "are not those of the run to be resumed: it is another model, or it was changed, or an earlier version began the run"
        )
        problems.append(Problem(BASE_FILES, what, f"name the one that it was begun with, or {ANEW}"))
    if PICTURES in changed:
        problems += other_images("images and captions", earlier.get(PICTURES, {}), now.get(PICTURES, {}))
    return problems + class_differences(earlier, now)


def remedy(name: str) -> str:
    """The remedy for a setting that differs."""
    if name in derived.RATES:
        return f"set it as it was, or add --change_learning_rate to go on with this one, or {ANEW}"
    return f"set it as it was, or {ANEW}"


def class_differences(earlier: dict[str, Any], now: dict[str, Any], complete: bool = False) -> list[Problem]:
    """The problems of class images that differ from the run's. complete: whether all exist; else missing ones are ignored."""
    before, after = earlier.get(CLASS_PICTURES, {}), now.get(CLASS_PICTURES, {})
    if not complete and len(after) < len(before):
        before = {name: digest for name, digest in before.items() if name in after}
    return other_images("class_data_dir", before, after) if before != after else []


def refuse_other_class_images(found: checkpoint.Checkpoint | None, same: dict[str, Any], of_class: Sequence[Example]) -> None:
    """Notes the class images of the run, with those that were generated, in `same`. Raises InputError when a run that is
    resumed had others."""
    same[CLASS_PICTURES] = digests(of_class)
    if found and (problems := class_differences(found.state["identity"], same, complete=True)):
        raise InputError(problems)


def other_images(where: str, before: dict[str, Any], after: dict[str, Any]) -> list[Problem]:
    """The problem of images that differ, by name."""
    names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    is_folder = where == "class_data_dir"
    what = f"{'holds images that are' if is_folder else 'are'} not those of the run to be resumed: {first_few(names)}"
    return [Problem(where, what, f"put them back, or {ANEW}")]


def changed_rates(found: checkpoint.Checkpoint, earlier: dict[str, Any], now: dict[str, Any]) -> list[list[Any]]:
    """[step, setting, old value, new value] of each learning rate setting that is changed on request."""
    return [[found.step, name, earlier.get(name), now.get(name)] for name in derived.RATES if earlier.get(name) != now.get(name)]


def of_another_course(folder: Path, step: int) -> list[Problem]:
    """The problem of later checkpoints, which `latest` would load although they used the learning rate before the change."""
    later = [path.name for path in checkpoint.every(folder) if path.name > checkpoint.name(step)]
    what = f"changes the rate after step {step}, and {first_few(later, 3)} in {folder} went on with the earlier one"
    return [Problem("change_learning_rate", what, "go on from latest, or move them away first")] if later else []
