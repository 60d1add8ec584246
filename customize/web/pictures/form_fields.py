"""The fields of the form that generates images, as Gradio components in the order in which they are read."""

from collections.abc import Mapping
from typing import Any

import gradio as gr

from customize.inference.run.grid import MOST_AXES, NOT_SWEPT
from customize.settings.field import Setting, table
from customize.settings.inference import InferenceSettings
from customize.settings.sampler_names import KNOWN, sampler, unsupported
from customize.web.pictures.generation_form import MORE, WORDS
from customize.web.pictures.picture_html import CLASS, CLICKS, problems

RECORD = "record"
SWEPT_FIRST = (
    "guidance_scale", "num_inference_steps", "seed", "scheduler", "strength", "scale", "weights", "prompt", "negative_prompt",
)  # fmt: skip
"""The settings that people compare most, at the top of the list."""
EXAMPLES = "1, 5, 9 or 1..9"


def area(clicks: bool = True, script: str = CLICKS, name: str = "") -> gr.HTML:
    """A place for HTML of this module. clicks: whether it has buttons; script: what the browser runs for them; name: of a
    further class."""
    return gr.HTML(
        "", elem_classes=[CLASS, *([name] if name else [])], js_on_load=script if clicks else None, apply_default_css=False
    )


class FormFields:
    """Creates the fields one by one, where the layout has them. components: by name; below: the places of their problems."""

    def __init__(self) -> None:
        self.components: dict[str, gr.components.Component] = {}
        self.below: dict[str, gr.HTML] = {}
        self.lines: Mapping[str, Setting] = table(InferenceSettings)

    def add(self, name: str, component: Any, problems_below: bool = True) -> Any:
        """Takes a component as the field of this name, and makes the place of its problems below it."""
        self.components[name] = component
        if problems_below:
            self.place(name)
        return component

    def place(self, name: str) -> None:
        """Makes the place where the problems of a field are shown."""
        self.below[name] = area(clicks=False)

    def number(self, name: str, label: str, **options: Any) -> Any:
        """A field for a number, which starts with the default of its setting."""
        with gr.Column(min_width=80):
            return self.add(name, gr.Number(self.lines[name].default, label=label, min_width=80, **options))

    def optional_number(self, name: str, label: str, without: str) -> Any:
        """A field for a number that may be empty. without: what then holds, in words."""
        with gr.Column(min_width=80):
            return self.add(name, gr.Textbox("", label=label, placeholder=without, max_lines=1, min_width=80))

    def sweeps(self) -> None:
        """Rows of a setting and its values, each of which is an axis of the grid."""
        swept = [name for name in self.lines if name not in NOT_SWEPT and name not in SWEPT_FIRST]
        for number, axis in enumerate(("Columns", "Rows", "More rows")[:MOST_AXES]):
            with gr.Row():
                setting = gr.Dropdown(["", *SWEPT_FIRST, *swept], value="", label=f"{axis}: setting", min_width=140)
                values = gr.Textbox("", label=f"{axis}: values", placeholder=EXAMPLES, max_lines=1, min_width=140)
            self.add(f"sweep_setting_{number}", setting, False)
            self.add(f"sweep_values_{number}", values, False)
        self.place("sweep")

    @property
    def inputs(self) -> list[gr.components.Component]:
        """The components, in the order of `read`'s values."""
        return list(self.components.values())

    def read(self, values: tuple[Any, ...]) -> dict[str, Any]:
        """The form that these values of `inputs` are, see `generation_form`."""
        form = dict(zip(self.components, values, strict=True))
        axes = [(form.pop(f"sweep_setting_{i}"), form.pop(f"sweep_values_{i}")) for i in range(MOST_AXES)]
        form["sweep"] = [f"{name}={text}" for name, text in axes if name]
        return form | (recorded(form) if form.pop(RECORD, False) else {})

    def shown(self, form: Mapping[str, Any]) -> list[Any]:
        """Updates of `inputs` that show a form; a field that it does not have is set to its default."""
        axes = [text.partition("=")[::2] for text in form.get("sweep") or ()] + [("", "")] * MOST_AXES
        values = []
        for name in self.components:
            if name.startswith("sweep_"):
                values.append(axes[int(name[-1])][name.startswith("sweep_values")])
            elif form.get(name) is not None:
                values.append(form[name] if isinstance(form[name], list | bool) else _as_shown(self.components[name], form[name]))
            else:
                default = self.lines[name].default if name in self.lines else {WORDS: [], RECORD: False}.get(name)
                values.append("" if name == "seed" or default in (None, ()) and name != WORDS else default)
        return values

    def problem_places(self) -> list[gr.HTML]:
        """The places of problems, in the order of `problem_texts`."""
        return list(self.below.values())

    def problem_texts(self, found: Mapping[str, Any]) -> list[str]:
        """What each place shows; problems of a field without a place are shown below the TOML lines."""
        others = [each for field, own in found.items() if field not in self.below for each in own]
        return [
            problems(found.get(field, ()), field == MORE) + (problems(others, True) if field == MORE else "")
            for field in self.below
        ]


def _as_shown(component: gr.components.Component, value: Any) -> Any:
    return value if isinstance(component, gr.Number) else str(value)


RECORDING = ("trace", "trace_page", "attention")


def recorded(form: Mapping[str, Any], attention: bool = True) -> dict[str, Any]:
    """The TOML lines of a form, with those that record the steps of an image. attention: also what each word attends to."""
    lines = [line for line in (form.get(MORE) or "").splitlines() if line.partition("=")[0].strip() not in RECORDING]
    return {MORE: "\n".join([*lines, *(f"{name} = true" for name in RECORDING[: 2 + attention])])}


def samplers() -> list[tuple[str, str]]:
    """The samplers under the names that people know, with the value of each; the spacings that change results most come along."""
    spaced = [(name, spacing) for name in KNOWN for spacing in ("", "Karras")]
    known = [f"{name} {spacing}".strip() for name, spacing in spaced if not unsupported(sampler(name, spacing))]
    return [("the model's own", ""), *((name, name) for name in known)]
