"""Generates docs/settings.md, the reference of all settings, from their JSON schemas: `python docs/make_settings.py`."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from customize.methods import DreamBoothSettings, FromScratchSettings, TextualInversionSettings
from customize.methods.from_scratch_settings import OF_BASE_MODELS
from customize.settings.frozen_model import SECTIONS
from customize.settings.inference import InferenceSettings
from customize.settings.scoring import ScoreSettings

PAGE = Path(__file__).parent / "settings.md"
INTRODUCTION = """\
# Settings

All settings of training, of `infer.py` and of `customize score`. A configuration file has them under any table, such as
`rank = 8`; on the command line they are flags, such as `--rank 8`, which override the file. A list takes several values:
`["a", "b"]` in the file, `--prompt "a" "b"` on the command line. A switch is turned on by `--trace` and off by `--no-trace`.
Names that diffusers' scripts, kohya's sd-scripts, OneTrainer, AUTOMATIC1111, ComfyUI and others use for the same settings are
accepted as well: [coming_from.md](coming_from.md).

Few of them matter for a first run. Of the images: {images}. Of what learns: {learns}. Of the time and
the memory it takes: {costs}. Of what comes out: {results}.

Every name is an anchor: `settings.md#rank`. A name that two commands use with different words has the name of the command
before it in the later one. `python docs/make_settings.py` writes this page from the JSON schemas of the settings
(`customize.DreamBoothSettings.model_json_schema()`), which other programs can use too."""
FIRST = {
    "images": "instance_data_dir instance_prompt class_prompt resolution captions masked_loss",
    "learns": "pretrained_model_name_or_path adapter rank placeholder_token initializer_token learnable_property learning_rate",
    "costs": "max_train_steps train_batch_size mixed_precision gradient_checkpointing optimizer prior_preservation",
    "results": "output_dir validation_prompt num_candidates seed",
}
"""The settings that matter for a first run."""

Properties = dict[str, dict[str, Any]]


def page() -> str:
    """The text of docs/settings.md."""
    words, subject, inference = (
        model.model_json_schema()["properties"] for model in (TextualInversionSettings, DreamBoothSettings, InferenceSettings)
    )
    shared = {name: field for name, field in words.items() if subject.get(name) == field}
    scratch = without(FromScratchSettings.model_json_schema()["properties"], OF_BASE_MODELS)
    commands = (
        ("train_textual_inversion.py and train_dreambooth.py", shared),
        ("train_textual_inversion.py", without(words, shared)),
        ("train_dreambooth.py", without(subject, shared)),
        (FromScratchSettings.command, scratch),
        ("infer.py", inference),
        (ScoreSettings.command, ScoreSettings.model_json_schema()["properties"]),
    )
    head = INTRODUCTION.format(**{part: ", ".join(map(link, names.split())) for part, names in FIRST.items()})
    taken: set[str] = set()
    return "\n\n".join([head, *(part for title, properties in commands for part in chapter(title, properties, taken))]) + "\n"


def without(properties: Properties, others: Iterable[str]) -> Properties:
    return {name: field for name, field in properties.items() if name not in others}


def chapter(title: str, properties: Properties, taken: set[str]) -> Iterator[str]:
    """The settings of one command: a table for each section. taken: the anchors before, to which these are added."""
    yield f"## {title}"
    command = title.removesuffix(".py").replace(" ", "-")
    places = {name: f"{command}-{name}" if name in taken else name for name in properties}
    taken |= {*places.values()}
    for section, words in SECTIONS.items():
        rows = [row(name, field, places) for name, field in properties.items() if field["section"] == section]
        if rows:
            head = ["| setting | values | default | meaning |", "|---|---|---|---|"]
            yield f"### [{section}] {words}"
            yield "\n".join([*head, *rows])


def row(name: str, field: dict[str, Any], places: dict[str, str]) -> str:
    """One line of a table. places: the anchors of the settings of the same chapter."""
    meaning = field["description"].replace("<", "&lt;").replace("__", r"\_\_")
    if needed := field.get("only_with"):
        choices = " or ".join(code(value) for value in needed["values"] if value is not True)
        setting = needed["setting"]
        meaning += f" (needs {link(setting, places.get(setting))}{' = ' * bool(choices)}{choices})"
    place = places[name]
    cells = (f'<a id="{place}"></a>{link(name, place)}', values(field), default(field), meaning.replace("|", r"\|"))
    return f"| {' | '.join(cells)} |"


def link(name: str, place: str | None = None) -> str:
    """A setting as a link to its row."""
    return f"[`{name}`](#{place or name})"


def values(field: dict[str, Any]) -> str:
    """Type, range and choices."""
    alternatives = field.get("anyOf", [field])
    (one,) = [each for each in alternatives if each["type"] != "null"]
    many = one["type"] == "array"
    one = one["items"] if many else one
    if choices := one.get("enum", [one["const"]] if "const" in one else []):
        words = ", ".join(map(code, choices))
    else:
        names = {"boolean": "`true` or `false`", "integer": "integer", "number": "number", "object": "table",
                 "string": field.get("text", "text")}  # fmt: skip
        kinds = {"line": "text", "any": "text", "prompt": "text", "weights": "PATH[:SCALE]", "model": "name or path",
                 "placeholder": "word", "modules": "name"}  # fmt: skip
        words = kinds.get(names[one["type"]], names[one["type"]])
    if limits := bounds(one):
        words += f", {limits}" + (f" ({field['unit']})" if "unit" in field else "")
    return ("list of: " if many else "") + words + (", or `none`" if len(alternatives) > 1 else "")


def bounds(one: dict[str, Any]) -> str:
    """The range of a number."""
    signs = {"minimum": "\u2265", "exclusiveMinimum": ">", "maximum": "\u2264", "exclusiveMaximum": "<"}
    found = [f"{sign} {one[name]:,}" for name, sign in signs.items() if name in one]
    return ", ".join([*found, *([f"multiple of {one['multipleOf']}"] if "multipleOf" in one else [])])


def default(field: dict[str, Any]) -> str:
    if words := field.get("default_in_words"):
        return words
    if "default" not in field:
        return "**required**"
    value = field["default"]
    if value in ("", []):
        return "empty"
    return " ".join(map(code, value)) if isinstance(value, list) else code(value)


def code(value: Any) -> str:
    """A value as it is written in a configuration file."""
    return f"`{'none' if value is None else value if isinstance(value, str) else json.dumps(value)}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
