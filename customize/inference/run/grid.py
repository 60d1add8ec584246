"""Sweeps: settings with several values each, and the labelled grid of their images.

`guidance_scale=1,2.5,5` `seed=1..4` `strength=0.2..1..0.2` `prompt=a cat|a dog`: values are separated by commas, texts by
bars. The first sweep gives the columns of the contact sheet, the second and third the rows.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any, Literal

from customize.errors import InputError, Problem
from customize.inference.metadata.seeds import RANDOM
from customize.settings.field import Setting, of_scope, table, written
from customize.settings.inference import InferenceSettings
from customize.settings.suggestions import unknown
from customize.settings.texts import PATHS

SETTING = "sweep"
MOST_AXES, MOST_VALUES = 3, 1000
NOT_SWEPT = of_scope(InferenceSettings, "run", "file")
PROMPTS = ("prompt", "negative_prompt")


@dataclass(frozen=True)
class Axis:
    """The valid values of one swept setting."""

    name: str
    values: tuple[Any, ...]

    @property
    def labels(self) -> list[str]:
        """Labels of the rows or columns; paths are shortened."""
        if table(InferenceSettings)[self.name].text in PATHS:
            return [f"{self.name.replace('_', ' ')} {text}" for text in short_names(self.values)]
        texts = [" ".join(value) if isinstance(value, tuple) else written(value) for value in self.values]
        return texts if self.name == "prompt" else [f"{self.name.replace('_', ' ')} {text or '(none)'}" for text in texts]


GENERAL = ("pytorch_lora_weights", "learned_embeds")
"""Generic file names: the folder's name is used instead."""


def short_names(values: Sequence[Any]) -> list[str]:
    """Paths, or groups of paths, by their last name and scale, with as many parent folders as needed to distinguish them."""
    texts = [[str(each) for each in (value if isinstance(value, tuple) else (value,)) if each is not None] for value in values]
    for kept in range(1, 6):
        names = [" + ".join(last_names(each, kept) for each in text) or "(none)" for text in texts]
        if len(set(names)) == len(set(map(tuple, texts))):
            break
    return names


def last_names(path: str, kept: int) -> str:
    """The last `kept` names of a path, without its suffix; for our generic file names, the run folder instead of the file."""
    parts = [part for part in re.split(r"[/\\]", path) if part]
    last, colon, scale = parts[-1].partition(":") if parts else ("", "", "")
    stem = last.removesuffix(".safetensors")
    parts = parts[:-2] + [parts[-2]] if stem in GENERAL and len(parts) > 1 else [*parts[:-1], stem]
    return "/".join(parts[-kept:]) + (f":{scale}" if colon else "")


@dataclass(frozen=True)
class ImageRequest:
    """A request for one image: settings without a sweep, prompts (usually one) and seed.

    link: its index in a chain; from 1 on, the setting `link_to` is the previous image of the chain.
    """

    settings: InferenceSettings
    prompts: tuple[str, ...]
    seed: int
    link: int = 0
    link_to: Literal["image", "low_res_image"] = "image"


@dataclass(frozen=True)
class Grid:
    """All images of a run in the order of the contact sheet, in rows of equal length."""

    rows: list[list[ImageRequest]]
    column_labels: list[str]
    row_labels: list[str]

    @property
    def requests(self) -> list[ImageRequest]:
        """The images in reading order."""
        return [request for row in self.rows for request in row]


def grid(settings: InferenceSettings) -> Grid:
    """The requests of the settings. Without a sweep: one row per prompt, one column per seed.

    Raises InputError with every invalid value.
    """
    seeds = range(settings.seed, settings.seed + settings.num_images)
    axes = read_axes(settings)
    check_count(settings, axes)
    if not axes:
        links = range(settings.chain)
        rows = [[ImageRequest(settings, p, seed, link) for seed in seeds for link in links] for p in prompts_per_image(settings)]
        columns = [f"seed {seed}" + f", {link + 1}" * (len(links) > 1) for seed in seeds for link in links]
        return Grid(rows, columns, [", ".join(prompts) for prompts in prompts_per_image(settings)])
    columns, *others = axes
    rows, labels = [], []
    for chosen in product(*(range(len(axis.values)) for axis in reversed(others))):
        fixed = {axis.name: axis.values[place] for axis, place in zip(reversed(others), chosen, strict=True)}
        heading = [axis.labels[place] for axis, place in zip(reversed(others), chosen, strict=True)]
        row = [point(settings, {**fixed, columns.name: value}) for value in columns.values]
        for prompts in zip(*map(prompts_per_image, row), strict=True):
            for image in range(settings.num_images):
                rows.append([ImageRequest(each, prompts[i], each.seed + image) for i, each in enumerate(row)])
                own = [", ".join(prompts[0])] if len(prompts_per_image(row[0])) > 1 else []
                own += [f"seed + {image}"] if image else []
                labels.append(", ".join([*heading, *own]))
    return Grid(rows, columns.labels, labels if any(labels) else [])


def check_count(settings: InferenceSettings, axes: Sequence[Axis]) -> None:
    """Raises InputError if the settings request more than `max_images` images; counts them without building requests."""
    swept = {axis.name: len(axis.values) for axis in axes}
    own = {
        "prompt": 1 if "prompt" in swept else len(prompts_per_image(settings)),
        "num_images": settings.num_images,
        "chain": settings.chain,
        "stages": 1 + len(settings.upscalers),
    }
    if (count := prod([*swept.values(), *own.values()])) > settings.max_images:
        factors = " x ".join(f"{number:,} {name}" for name, number in [*swept.items(), *own.items()] if number > 1)
        what = f"{count:,} images requested ({factors}), more than max_images = {settings.max_images:,}"
        name = SETTING if swept else "num_images"
        raise InputError(Problem(name, what, f"request fewer, or add --max_images {count}"))


def prompts_per_image(settings: InferenceSettings) -> list[tuple[str, ...]]:
    """The prompts of each image: one per image, or all of them if an image combines several prompts."""
    together = settings.illusion != "none" or settings.between is not None
    return [settings.prompt] if together else [(prompt,) for prompt in settings.prompt or ("",)]


def point(settings: InferenceSettings, values: Mapping[str, Any]) -> InferenceSettings:
    """The settings with these values in place of the sweep. Raises InputError."""
    given = {name: value for name, value in settings.values().items() if name != SETTING}
    try:
        return InferenceSettings(**{**given, **values})
    except InputError as error:
        raise InputError(Problem(SETTING, f"{each.where} {each.what}", each.remedy) for each in error.problems) from error


def read_axes(settings: InferenceSettings) -> list[Axis]:
    """The axes that the setting `sweep` names. Raises InputError with all that is wrong with them."""
    axes, problems = [], []
    for text in settings.sweep:
        try:
            axes.append(read_axis(text))
        except InputError as error:
            problems += error.problems
    names = [axis.name for axis in axes]
    if len(axes) > MOST_AXES:
        problems.append(Problem(SETTING, f"{len(axes)} sweeps at once", f"use at most {MOST_AXES}"))
    if len(set(names)) < len(names):
        problems.append(Problem(SETTING, f"{max(names, key=names.count)} is swept twice", "put all its values into one sweep"))
    if problems:
        raise InputError(problems)
    return axes


def read_axis(text: str) -> Axis:
    """Parses `name=values`. Raises InputError."""
    name, equals, rest = text.partition("=")
    name = name.strip().lstrip("-").replace("-", "_")
    known = {key: line for key, line in table(InferenceSettings).items() if key not in NOT_SWEPT}
    if not equals or not rest.strip():
        raise InputError(Problem(SETTING, f"{text!r} has no values", "write it as guidance_scale=1,2.5,5"))
    if name not in known:
        problem = unknown(name, dict.fromkeys(known, ""))
        what = "cannot be swept" if name in NOT_SWEPT else problem.what
        raise InputError(Problem(SETTING, f"{name} {what}", problem.remedy))
    bars = "|" in rest or name in PROMPTS
    values = [each for part in rest.split("|" if bars else ",") for each in spread(part, known[name])]
    if len(values) > MOST_VALUES:
        raise InputError(Problem(SETTING, f"{len(values)} values of {name}", f"use at most {MOST_VALUES}"))
    return Axis(name, tuple(fit(each, known[name]) for each in values))


def spread(text: str, line: Setting) -> Iterator[str]:
    """Expands the ranges `FROM..TO` and `FROM..TO..STEP` of numbers, both ends included; yields any other value unchanged."""
    ends = text.strip().split("..")
    if line.type not in (int, float) or len(ends) not in (2, 3):
        yield text.strip()
        return
    try:
        first, last, step = (line.type(each) for each in (*ends[:2], *(ends[2:] or "1")))
        count = (last - first) // step + 1 if line.type is int else int((last - first) / step + 1e-9) + 1
    except (ValueError, ZeroDivisionError, OverflowError):
        raise InputError(Problem(SETTING, f"{text!r} is not a range", "write it as 1..4 or 0.2..1..0.2")) from None
    if not 1 <= count <= MOST_VALUES:
        raise InputError(Problem(SETTING, f"{text!r} is a range of {max(count, 0)} values", f"use 1 to {MOST_VALUES}"))
    yield from (f"{first + i * step:{'d' if line.type is int else '.10g'}}" for i in range(count))


def fit(text: str, line: Setting) -> Any:
    """Converts a text to a valid value of the setting. Raises InputError."""
    if line.optional and text.casefold() == "none":
        return None
    try:
        value: Any = {bool: _boolean, int: int, float: float, str: str}[line.type](text)
    except (ValueError, KeyError):
        raise InputError(Problem(SETTING, f"{line.name}: {text!r} is not {line.expected}", "give valid values")) from None
    if line.name == "seed" and value == RANDOM:
        raise InputError(Problem(SETTING, "seed: -1 (random) cannot be swept", "remove it, and use --num_images"))
    if fault := line.fault(value):
        raise InputError(Problem(SETTING, f"{line.name}: {line.quoted(value)} {fault}", "give valid values"))
    return (value,) if line.many else value


def _boolean(text: str) -> bool:
    return {"true": True, "false": False}[text.casefold()]


def batches(places: Iterable[int], key: Callable[[int], Any], size: int) -> Iterator[list[int]]:
    """Groups the places of images into batches of at most `size` with equal keys."""
    groups: dict[Any, list[int]] = {}
    for place in places:
        groups.setdefault(key(place), []).append(place)
    for group in groups.values():
        yield from (group[start : start + size] for start in range(0, len(group), size))
