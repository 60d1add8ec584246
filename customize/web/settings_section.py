"""The settings of a run on the page: TOML that can be edited, checked as the command line does, and a search of all settings."""

import re
from typing import Any

import gradio as gr

from customize.errors import InputError
from customize.jobs import queue
from customize.printable import html
from customize.settings.field import Setting, table
from customize.settings.files import toml_file
from customize.web import run_view

HIDDEN: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


def settings_part(command: gr.State) -> gr.Code:
    """All settings as TOML, and a search box that explains and sets any of them."""
    with gr.Row():
        name = gr.Dropdown(setting_names("train_dreambooth"), label="Setting", value=None)
        value = gr.Textbox(label="Value", placeholder="empty: its default")
        put = gr.Button("Set")
    about = gr.HTML(padding=False)
    toml = gr.Code(label="The settings of the run (TOML)", language=None, lines=12, max_lines=30)
    name.change(lambda which, one: about_of(which, one), [command, name], about, **HIDDEN)
    command.change(lambda which: gr.Dropdown(setting_names(which)), command, name, **HIDDEN)
    put.click(lambda *values: with_value(*values), [command, name, value, toml], [toml, about], **HIDDEN)
    return toml


def setting_names(command: str) -> list[str]:
    """The names of all settings of a command."""
    return [name for name, line in table(queue.MODELS[command]).items() if not line.secret and line.type is not dict]


def about_of(command: str, name: str | None) -> str:
    """What a setting does, its values and its default."""
    line = table(queue.MODELS[command]).get(name or "")
    if line is None:
        return ""
    return f"<p>{html(line.description)}. Give {html(line.expected)}; default: {html(line.default_text)}.</p>"


def with_value(command: str, name: str | None, value: str, text: str) -> tuple[Any, str]:
    """The TOML with one setting changed, and its comments kept; what is wrong if it cannot be."""
    model = queue.MODELS[command]
    if not name:
        return gr.skip(), ""
    line = table(model)[name]
    if not value.strip():
        return assigned(text, line.section, name, ""), f"<p>{html(name)} has its default, {html(line.default_text)}.</p>"
    try:
        settings = model(**{**values_of(text), name: typed(line, value)})
    except InputError as error:
        return gr.skip(), run_view.problems(error)
    assignment = settings.to_toml({name: settings.values().get(name)}).strip().partition("\n")[2] or f'{name} = "none"'
    return assigned(text, line.section, name, assignment), f"<p><code>{html(assignment)}</code> is set.</p>"


def assigned(text: str, section: str, name: str, assignment: str) -> str:
    """A TOML text with this line in place of the one that sets the name, or in the table of its section. "": without it."""
    lines = text.strip("\n").split("\n")
    for number, line in enumerate(lines):
        if re.match(rf"\s*{name}\s*=", line):
            return "\n".join([*lines[:number], *[assignment] * bool(assignment), *lines[number + 1 :]]) + "\n"
    if not assignment:
        return text
    if (head := f"[{section}]") in lines:
        lines.insert(lines.index(head) + 1, assignment)
        return "\n".join(lines) + "\n"
    return "\n".join([*lines, "", head, assignment]).lstrip("\n") + "\n"


def typed(line: Setting, text: str) -> Any:
    """A value as typed: words in quotes or after commas are several."""
    if line.many:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return text.strip()


def values_of(text: str) -> dict[str, Any]:
    """The settings in a TOML text. Raises InputError."""
    return toml_file.of_text(text, "settings")[0]


def checked_of(text: str, command: str) -> str:
    """What is wrong with the settings, by the rules of the command line."""
    if not text.strip():
        return ""
    try:
        queue.MODELS[command](**values_of(text))
    except InputError as error:
        return run_view.problems(error)
    return '<p class="cz-muted">These settings are valid.</p>'
