"""The settings of a run on the page: a form of all of them and the same as TOML, checked as the command line does."""

from typing import Any

import gradio as gr

from customize.errors import InputError
from customize.jobs import queue
from customize.settings.files import toml_file
from customize.web import run_view, settings_form

HIDDEN: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


def settings_part(command: gr.State) -> tuple[gr.Code, gr.HTML]:
    """The TOML and the form, each of which follows the other."""
    form = gr.HTML(**settings_form.arguments(queue.MODELS[command.value]))
    said = gr.HTML(padding=False)
    toml = gr.Code(label="The same as TOML, to copy or edit", language=None, lines=8, max_lines=30)

    def put(event: gr.EventData, which: str, text: str) -> tuple[Any, ...]:
        done = {"changes": event.changes, "number": event.number}
        try:
            new = settings_form.with_changes(queue.MODELS[which], text, event.changes)
        except InputError as error:
            return gr.skip(), state_of(text, which, done), run_view.problems(error)
        return new, state_of(new, which, done), ""

    last: dict[str, Any] = {"trigger_mode": "always_last", **HIDDEN}
    form.set(put, [command, toml], [toml, form, said], **last)
    toml.change(lambda which, text: state_of(text, which), [command, toml], form, **last)
    command.change(lambda which: gr.HTML(form=settings_form.form(queue.MODELS[which])), command, form, **HIDDEN)
    return toml, form


def state_of(text: str, command: str, done: Any = None) -> dict[str, Any]:
    """What the form shows of a TOML text."""
    try:
        values = values_of(text)
    except InputError:
        values = None
    return settings_form.state(queue.MODELS[command], values, done=done)


def whole(text: str, command: str, form: Any) -> str:
    """The TOML with what was typed into the form and is not written yet."""
    return settings_form.completed(queue.MODELS[command], text, form)


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
