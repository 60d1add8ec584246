"""The form of the page that generates images: from what its fields hold to the settings of infer.py, and back.

A form is a dict of plain values by field. Most fields are settings of the same name; an empty one is not given. Three are not:
`words` (the chosen weights, as paths), `scales` (a scale by path) and `more` (TOML lines, for every other setting).
"""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from customize.errors import InputError, Problem
from customize.inference.metadata.parsed import short
from customize.inference.metadata.read_png import GenerationInfo
from customize.inference.metadata.seeds import RANDOM
from customize.inference.run.grid import grid
from customize.next_command import options
from customize.prompts import CALLS, parse
from customize.settings.field import table, written
from customize.settings.files import toml_file
from customize.settings.inference import InferenceSettings
from customize.settings.sampler_names import shown
from customize.settings.scale import path_and_scale

FIELDS = (
    "prompt", "negative_prompt", "pretrained_model_name_or_path", "width", "height", "num_inference_steps", "guidance_scale",
    "scheduler", "seed", "num_images", "image", "strength", "mask_image", "mask_blur", "sweep",
)  # fmt: skip
"""The settings that have a field of their own."""
WORDS, SCALES, MORE = "words", "scales", "more"
NOT_HERE = ("merge", "prompt_file", "like", "output_dir", "overwrite_output_dir", "skip_existing")
"""Settings that the page does not take: what they do is a matter of folders and files, which it manages itself."""


@dataclass(frozen=True)
class Filled:
    """What a form comes to: the given settings by name, the settings as a whole, and the problems of each field."""

    values: Mapping[str, Any]
    settings: InferenceSettings
    problems: Mapping[str, Sequence[Problem]]

    @property
    def all_problems(self) -> list[Problem]:
        """The problems of all fields."""
        return [problem for own in self.problems.values() for problem in own]

    @property
    def toml(self) -> str:
        """The settings as a TOML file for infer.py, without those at their defaults."""
        return self.settings.to_toml({name: getattr(self.settings, name) for name in self.values})

    @property
    def command(self) -> str:
        """The command that generates the same images."""
        words = {name: _word(getattr(self.settings, name)) for name in self.values}
        return f"customize infer {options(**words)}".strip()


def fill(form: Mapping[str, Any]) -> Filled:
    """The settings of a form, checked by the rules of infer.py. Opens no file; `files.check` of the command does that."""
    values, problems = given(form)
    settings, found = InferenceSettings.examine(values, {problem.where for problem in problems})
    problems += found
    if not problems:
        problems += _of_texts(settings)
    values = {name: value for name, value in values.items() if name in table(InferenceSettings)}
    return Filled(values, settings, by_field(problems))


def given(form: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """The settings that a form gives, by name, and the problems of its TOML lines."""
    lines = table(InferenceSettings)
    values = {name: _fitting(lines[name].type, form[name]) for name in FIELDS if not _empty(form.get(name))}
    values = {name: value for name, value in values.items() if name == "seed" or value != lines[name].default}
    values.setdefault("seed", RANDOM)
    scales = form.get(SCALES) or {}
    if words := [with_scale(path, scales.get(path, 1)) for path in form.get(WORDS) or ()]:
        values["weights"] = tuple(words)
    try:
        more, _ = toml_file.of_text(form.get(MORE) or "", "more settings")
    except InputError as error:
        return values, [Problem(MORE, f"{each.where}: {each.what}", each.remedy) for each in error.problems]
    problems = [Problem(MORE, f"{name} {what}", f"leave {name} out") for name in more if (what := _refused(name, form))]
    return values | {name: value for name, value in more.items() if not _refused(name, form)}, problems


def _refused(name: str, form: Mapping[str, Any]) -> str:
    """Why a setting may not stand among the TOML lines; empty if it may."""
    if name in NOT_HERE:
        return "is not taken by this page"
    return "has a field of its own" if not _empty(form.get(WORDS if name == "weights" else name)) else ""


def _of_texts(settings: InferenceSettings) -> list[Problem]:
    """The problems of prompts and of sweeps, which are languages of their own."""
    found: list[Problem] = []
    for check in (*_prompt_checks(settings), lambda: grid(settings)):
        try:
            check()
        except InputError as error:
            found += error.problems
    return found


def _prompt_checks(settings: InferenceSettings) -> list[Any]:
    prompts = [("prompt", each) for each in settings.prompt] + [("negative_prompt", settings.negative_prompt)]
    readable = [each for each in prompts if not settings.plain_prompt and not CALLS.search(each[1])]
    return [lambda name=name, prompt=prompt: parse(prompt, name) for name, prompt in readable]


def by_field(problems: Sequence[Problem]) -> dict[str, list[Problem]]:
    """The problems by the field that they belong to; those of settings without a field are of `more`."""
    found: dict[str, list[Problem]] = {}
    for problem in problems:
        field = WORDS if problem.where == "weights" else problem.where if problem.where in FIELDS else MORE
        found.setdefault(field, []).append(problem)
    return found


def form_of(info: GenerationInfo, here: Collection[str] = ()) -> tuple[dict[str, Any], list[str]]:
    """The form of the settings that an image's metadata holds, and notes on what could not be taken.

    here: the weights of the workspace. Images name weights without their folders; one that is neither here nor a path is noted.
    """
    settings, lines = _with_known_sampler(info.settings), table(InferenceSettings)
    if len(prompts := settings.get("prompt", ())) == 1:  # several stay among the TOML lines
        settings["prompt"] = prompts[0]
    ours = [name for name in FIELDS if name in settings and not (name == "prompt" and len(prompts) != 1)]
    form: dict[str, Any] = {name: settings.pop(name) for name in ours}
    notes, by_name = list(info.notes), {Path(path).name: path for path in here}
    named = [path_and_scale(each) for each in settings.pop("weights", ())]
    weights = [(path if os.path.exists(path) else by_name.get(path), scale) for path, scale in named]
    notes += [f"weights {short(path)}: not in runs/" for (path, _), (known, _) in zip(named, weights, strict=True) if not known]
    weights = [(path, scale) for path, scale in weights if path]
    form[WORDS] = [path for path, _ in weights]
    form[SCALES] = {path: scale for path, scale in weights if scale != 1}
    if info.program == "customize" and "pretrained_model_name_or_path" not in form and not named:
        form["pretrained_model_name_or_path"] = info.base_model
    if "width" not in form and "height" not in form and not form.get("image"):
        form["width"], form["height"] = info.size
    rest = {name: value for name, value in settings.items() if value != lines[name].default and name not in NOT_HERE}
    form[MORE] = toml_lines(rest)
    return form, notes


def _with_known_sampler(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with their sampler under the name that people know, which includes Karras' spacing."""
    found, karras = dict(settings), settings.get("use_karras_sigmas")
    if name := found.get("scheduler"):
        found["scheduler"] = shown(name, name, karras)
        if karras and found["scheduler"].endswith("Karras"):
            del found["use_karras_sigmas"]
    return found


def toml_lines(values: Mapping[str, Any]) -> str:
    """The values as lines of TOML, without tables."""
    whole = InferenceSettings.examine(values)[0].to_toml(values) if values else ""
    return "\n".join(line for line in whole.splitlines() if line and not line.startswith("["))


def with_scale(path: str, scale: object) -> str:
    """`PATH:SCALE`, or the path alone where the scale is 1. scale: a number, or the text of a schedule."""
    text = f"{scale:g}" if isinstance(scale, int | float) else str(scale)
    return path if text == "1" else f"{path}:{text}"


def _empty(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_empty, value))
    return value is None or (isinstance(value, str) and not value.strip())


def _fitting(kind: type, value: Any) -> Any:
    """A number of a browser, where 30 may be 30.0 or text, as the setting's type; what is none remains as it is."""
    if kind in (int, float) and isinstance(value, str):
        return _number(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    return tuple(each for each in value if not _empty(each)) if isinstance(value, list | tuple) else value


def _number(text: str) -> float | str:
    """The number that a text is, else the text."""
    for kind in (int, float):
        try:
            return kind(text.strip())
        except ValueError:
            continue
    return text


def _word(value: Any) -> Any:
    return [written(each) for each in value] if isinstance(value, tuple) else written(value)
