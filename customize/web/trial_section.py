"""The trial of a plan, as a job: two steps that are taken and discarded tell time, memory and disk space of the whole run."""

from typing import Any

import gradio as gr

from customize.errors import InputError, Problem
from customize.jobs import queue
from customize.jobs.job_folder import Job
from customize.jobs.worker import tail
from customize.printable import html, html_lines
from customize.web import run_view
from customize.web.live import Followed
from customize.web.settings_section import HIDDEN, values_of, whole
from customize.web.workspace import Workspace

NAME = "trial of"
"""The name of each trial begins with it."""
WORDS = {"waiting": "It waits for its turn.", "running": "It prepares the run, takes two steps and discards them."}


def trial_part(workspace: Workspace, inputs: list[Any], followed: Followed) -> None:
    """A button that starts a trial, and what the trial printed. inputs: TOML, command, form of the settings, what is taught."""
    begin, said, job = gr.Button("Measure time and memory"), gr.HTML(padding=False), gr.State("")
    begin.click(lambda *values: begun(workspace, *values), inputs, [said, job], **HIDDEN)
    followed.show(gr.HTML(padding=False), lambda name: report(queue.find(workspace.folder, name)), [job])


def begun(workspace: Workspace, text: str, command: str, form: Any, noun: str) -> tuple[str, Any]:
    """Puts a trial of these settings into the queue."""
    text = whole(text, command, form)
    try:
        if not text.strip():
            raise InputError(Problem("plan", "there is none", "make a plan first"))
        values = {name: value for name, value in values_of(text).items() if name != "output_dir"}
        place = queue.add(workspace.folder, command, {**values, "dry_run": True}, f"{NAME} {noun}")
    except InputError as error:
        return run_view.problems(error), gr.skip()
    return "", place.name


def is_trial(job: Job) -> bool:
    """Whether a job only measures."""
    return job.name.startswith(NAME)


def report(job: Job | None) -> str:
    """What a trial does, or what it found."""
    if job is None:
        return ""
    if job.state != "finished":
        return f"<p>{html(WORDS.get(job.state, job.state))} {html(job.message)}</p>"
    label = "What the trial found"
    return f'<p>{label}:</p><pre class="cz-line" tabindex="0" aria-label="{label}">{html_lines(tail(job.output))}</pre>'
