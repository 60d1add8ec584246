"""What settings must be to each other.

A check sees the values that are fit by themselves, and is left out where it needs one that is not.
"""

import os.path
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from customize import course, sample_prompts
from customize.errors import Problem
from customize.inference import checks as inference
from customize.schedules import step_rules
from customize.setting import Setting


class _Unfit(Exception):
    pass


class View:
    """The values by attribute; asking for one that is faulty or that this command does not have ends the check."""

    def __init__(self, values: Mapping[str, Any]):
        self._values = values

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise _Unfit from None


def applies(line: Setting, settings: Any) -> bool:
    """Whether a setting has an effect, given the others."""
    if line.only_with is None:
        return True
    name, values = line.only_with
    value = getattr(settings, name)
    return value in values if values else value not in (None, "none", ())


def problems(table: Mapping[str, Setting], given: Mapping[str, Any], faulty: set[str]) -> list[Problem]:
    """All problems between settings. given: the fit values that the user gave; faulty: names of the unfit ones."""
    defaults = {name: line.default for name, line in table.items() if not line.required}
    view = View({name: value for name, value in {**defaults, **given}.items() if name not in faulty})
    found: list[Problem] = []
    for check in (_without_effect(table, given), *CHECKS):
        try:
            found += check(view)
        except _Unfit:
            continue
    return found


IMPLIED = {"trace": True, "train_text_encoder": True}
"""Switches that are turned on where a setting is given that has no effect without them."""


def implied(table: Mapping[str, Setting], given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The switches that are not given, and are wanted by what is; a note for each."""
    found: dict[str, Any] = {}
    notes = []
    for name, value in given.items():
        other, _ = (table[name].only_with if name in table else None) or ("", ())
        if (
            other in IMPLIED
            and other not in given
            and other not in found
            and str(value).casefold() not in ("false", "none", "no", "0")
        ):
            found[other] = IMPLIED[other]
            notes.append(f"{name} needs {other}, which is switched on")
    return found, notes


Check = Callable[[Any], Iterator[Problem]]


def _without_effect(table: Mapping[str, Setting], given: Mapping[str, Any]) -> Check:
    def check(settings: Any) -> Iterator[Problem]:
        for name in given:
            if (condition := table[name].only_with) is None or given[name] is None:
                continue
            try:
                if applies(table[name], settings):
                    continue
            except _Unfit:
                continue
            other, values = condition
            wanted = " or ".join(f"{other} = {str(value).lower()}" for value in values) or f"a value for {other}"
            choices = [choice for choice in table[other].choices if choice != "none"] if not values else []
            remedy = f"set {other} = {' or '.join(choices)}" if choices else f"set {wanted}"
            yield Problem(name, f"has no effect without {wanted}", f"{remedy}, or leave {name} out")

    return check


def _data(settings: Any, name: str) -> Iterator[Problem]:
    folder = getattr(settings, name)
    if not folder and not settings.dataset_name:
        yield Problem(name, "is missing: no pictures to learn from", f"set {name} to a folder of pictures (or dataset_name)")
    if folder and settings.dataset_name:
        yield Problem(name, "and dataset_name are both given", "keep one of the two")
    for each in (folder,) if isinstance(folder, str) else folder or ():
        for other in ("output_dir", "latents_cache_dir"):
            if (written := getattr(settings, other)) and _same(each, written):
                yield Problem(other, f"is the same folder as {name}", "write to another folder than the pictures'")


def _train_data(settings: Any) -> Iterator[Problem]:
    yield from _data(settings, "train_data_dir")


def _instance_data(settings: Any) -> Iterator[Problem]:
    yield from _data(settings, "instance_data_dir")


def _same(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _counts(settings: Any) -> Iterator[Problem]:
    wanted = len(settings.placeholder_token)
    for name in ("initializer_token", "num_vectors", "train_data_dir"):
        try:
            count = len(getattr(settings, name))
        except _Unfit:
            continue
        if count > 1 and count != wanted:
            yield Problem(name, f"has {count} values for {wanted} placeholder_token", "give one, or one per placeholder_token")


def _distinct_placeholders(settings: Any) -> Iterator[Problem]:
    tokens = [token.casefold() for token in settings.placeholder_token]
    for token in {token for token in tokens if tokens.count(token) > 1}:
        yield Problem("placeholder_token", f'"{token}" is given twice (upper and lower case are the same)', "choose another word")


def _distinct_files(settings: Any) -> Iterator[Problem]:
    """Several words are a file each, named after the letters, digits, - and _ of the word."""
    from customize.run_folder import embedding_file

    tokens = {token.casefold(): token for token in settings.placeholder_token}
    files = [embedding_file(token, alone=False) for token in tokens]
    clashing = [token for token, file in zip(tokens.values(), files, strict=True) if files.count(file) > 1]
    if clashing:
        yield Problem("placeholder_token", f"{', '.join(clashing)} would be saved in one file", "let their letters differ")


def _directions_only(settings: Any) -> Iterator[Problem]:
    if settings.normalize_embedding and settings.use_8bit_adam:
        yield Problem("use_8bit_adam", "normalize_embedding takes plain steps on the sphere, not Adam's", "leave one of them out")


def _placeholders_of_several_vectors(settings: Any) -> Iterator[Problem]:
    """A word of several vectors is `<cat> <cat>_1 <cat>_2` to the tokenizer: no other word may be called so."""
    tokens = settings.placeholder_token
    counts = settings.num_vectors * len(tokens) if len(settings.num_vectors) == 1 else settings.num_vectors
    for token, count in zip(tokens, counts, strict=False):
        for other in {f"{token}_{index}" for index in range(1, count)} & set(tokens):
            yield Problem("placeholder_token", f'"{other}" is also the name of a vector of "{token}"', "choose another word")


def _prior_preservation(settings: Any) -> Iterator[Problem]:
    kind = settings.prior_preservation
    if kind == "teacher" and settings.adapter == "none":
        yield Problem(
            "prior_preservation",
            "teacher needs an adapter that can be switched off",
            "set adapter = lora, or prior_preservation = images",
        )
    if kind != "none" and settings.class_prompt is None:
        yield Problem("class_prompt", f"is missing: prior_preservation = {kind} needs it", "set it, such as `a photo of dog`")


def _class_images(settings: Any) -> Iterator[Problem]:
    if settings.prior_preservation != "images":
        return
    if settings.class_data_dir is None:
        yield Problem(
            "class_data_dir",
            "is missing: prior_preservation = images keeps its pictures there",
            "name a folder; pictures that it lacks are generated",
        )
    elif settings.instance_data_dir is not None and _same(settings.class_data_dir, settings.instance_data_dir):
        yield Problem(
            "class_data_dir",
            "is the same folder as instance_data_dir",
            "keep the class's pictures in a folder of their own",
        )


def _warmup(settings: Any) -> Iterator[Problem]:
    if settings.max_train_steps is not None:
        yield from warmup_problems(settings, settings.max_train_steps)


def warmup_problems(settings: Any, steps: int) -> list[Problem]:
    """The problem of a warm-up that does not end within a run of so many steps."""
    warmup = course.warmup_steps(settings)
    what = f"{warmup} of {steps} steps: the learning rate would never be reached"
    remedy = f"give a tenth of {'them' if settings.max_train_steps is None else 'max_train_steps'} or less"
    return [Problem("lr_warmup_steps", what, remedy)] if warmup >= steps else []


def _step_rules(settings: Any) -> Iterator[Problem]:
    if settings.lr_scheduler != "piecewise_constant":
        return
    remedy = "give factors and the steps at which they end, as in 1:100,0.1:200,0.01"
    if settings.lr_step_rules is None:
        yield Problem("lr_step_rules", "is missing: lr_scheduler = piecewise_constant needs it", remedy)
        return
    try:
        step_rules(settings.lr_step_rules)
    except ValueError as error:
        yield Problem("lr_step_rules", str(error), remedy)


def _steps_or_epochs(settings: Any) -> Iterator[Problem]:
    if settings.max_train_steps is None and settings.num_train_epochs is None:
        yield Problem("max_train_steps", "is none, and so is num_train_epochs", "give one of the two")


def _trackers(settings: Any) -> Iterator[Problem]:
    if len(settings.report_to) > 1 and {"none", "all"} & set(settings.report_to):
        yield Problem("report_to", "none and all stand alone", "name the trackers, or only none, or only all")


def _overwrite_or_resume(settings: Any) -> Iterator[Problem]:
    if settings.overwrite_output_dir and settings.resume_from_checkpoint is not None:
        yield Problem("resume_from_checkpoint", "and overwrite_output_dir contradict each other", "keep one of the two")


TEXTS = ("instance_prompt", "class_prompt", "prompt", "negative_prompt", "validation_prompt", "initializer_token")
FILES = (".safetensors", ".ckpt", ".pt", ".bin", ".txt", ".csv", ".png", ".jpg", ".jpeg", ".webp")


def _text_that_is_a_path(name: str) -> Check:
    """Where words are wanted, the name of a file or folder would be learned or drawn as words."""

    def check(settings: Any) -> Iterator[Problem]:
        given = getattr(settings, name)
        for text in (given,) if isinstance(given, str) else given or ():
            weights = text.lower().endswith((".safetensors", ".pt", ".bin", ".ckpt"))
            if any(c.isspace() for c in text.strip()) and not os.path.isfile(text):
                continue
            is_file = text.lower().endswith(FILES) and (weights or name == "initializer_token" or os.path.isfile(text))
            if not is_file and not ("/" in text and os.path.isdir(text)):
                continue
            remedy = "write the words themselves"
            if name == "initializer_token" and weights:
                remedy = "name known words to start from, such as cat; --init_weights FILE goes on from learned weights"
            elif weights:
                remedy = "give it to --weights, and write the words themselves"
            elif name == "prompt" and text.lower().endswith((".txt", ".csv")):
                remedy = "give a file of prompts to --prompt_file, or write the words themselves"
            elif os.path.isdir(text):
                remedy = "give the folder to --instance_data_dir or --train_data_dir, and write the words themselves"
            yield Problem(name, f'"{text}" is the name of a {"file" if is_file else "folder"}, where words are wanted', remedy)

    return check


def _output_is_a_folder(settings: Any) -> Iterator[Problem]:
    """A name such as cat.png would become a folder."""
    name = settings.output_dir
    if name and name.lower().endswith((".png", ".jpg", ".jpeg", ".webp", ".safetensors")) and not os.path.isdir(name):
        stem = os.path.splitext(name)[0]
        yield Problem(
            "output_dir", f"{name} is called as a file, and all is written into a folder", f"name a folder, such as {stem}"
        )


CHECKS: tuple[Check, ...] = (
    _output_is_a_folder,
    *map(_text_that_is_a_path, TEXTS),
    *inference.CHECKS,
    _train_data,
    _instance_data,
    _counts,
    _distinct_placeholders,
    _distinct_files,
    _directions_only,
    _placeholders_of_several_vectors,
    _prior_preservation,
    _class_images,
    _warmup,
    _step_rules,
    _steps_or_epochs,
    _trackers,
    _overwrite_or_resume,
)


def notes(settings: Any) -> list[str]:
    """What is allowed but has no effect, a line each."""
    found = []
    view = View(dict(settings))
    for note in (_warmup_of_constant, _hub_without_push, _epochs_beside_steps):
        try:
            found += note(view)
        except _Unfit:
            continue
    if getattr(settings, "validation_prompt", None):
        found += sample_prompts.notes(settings)
    return found


def _warmup_of_constant(settings: Any) -> Iterator[str]:
    if settings.lr_scheduler in course.WITHOUT_WARMUP and settings.lr_warmup_steps > 0:
        yield f"lr_warmup_steps has no effect: the schedule {settings.lr_scheduler} has no warm-up, constant_with_warmup has"


def _epochs_beside_steps(settings: Any) -> Iterator[str]:
    for steps, epochs in ("max_train_steps", "num_train_epochs"), ("validation_steps", "validation_epochs"):
        if getattr(settings, steps) is not None and getattr(settings, epochs) is not None:
            yield f"{epochs} has no effect: {steps} = {getattr(settings, steps)} is given, and wins"


def _hub_without_push(settings: Any) -> Iterator[str]:
    if settings.hub_model_id is not None and not settings.push_to_hub:
        yield "hub_model_id has no effect without push_to_hub"
