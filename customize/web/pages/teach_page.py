"""The page Teach: photos, what they show, a plan with its reasons, and the run that learns it."""

from dataclasses import replace
from typing import Any

import gradio as gr

from customize.errors import InputError, Problem
from customize.jobs import queue, runs
from customize.jobs.job_folder import Job
from customize.printable import html
from customize.storage.numbered_folders import slug
from customize.teach import Plan, Request, bases, look, plan
from customize.web import photo_store, run_view
from customize.web.live import Followed
from customize.web.photo_section import photos_part
from customize.web.settings_section import checked_of, settings_part, values_of, whole
from customize.web.trial_section import is_trial, trial_part
from customize.web.workspace import Workspace

KINDS = [("an object or an animal", "object"), ("a style", "style"), ("a person", "person")]
EFFORTS = [("quick", "quick"), ("balanced", "balanced"), ("best", "best")]
BEST = ("the best on this machine", "")
HIDDEN: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}


def build(workspace: Workspace) -> None:
    """The steps from photos to a trained model, from top to bottom."""
    gr.Markdown("# Teach a model something of yours\n\n## 1. Photos")
    folder, left_out = photos_part(workspace)
    gr.Markdown("## 2. What is it?")
    with gr.Row():
        what = gr.Textbox(label="What the photos show", placeholder="cat", info="a word or two that a dictionary has")
        kind = gr.Radio(KINDS, value="object", label="It is")
    with gr.Row():
        word = gr.Textbox(label="Word for it (optional)", info="prompts will call it so; one is chosen if this is empty")
        base = gr.Dropdown([BEST], value="", label="Base model")
        effort = gr.Radio(EFFORTS, value="balanced", label="Effort")
    make = gr.Button("Make a plan", variant="primary")
    gr.Markdown("## 3. Plan")
    planned, command, name = gr.HTML(padding=False), gr.State("train_dreambooth"), gr.State("")
    with gr.Accordion("All settings", open=False):
        toml, form = settings_part(command)
    checked = gr.HTML(padding=False)
    followed = Followed(1.5)
    trial_part(workspace, [toml, command, form, name], followed)
    go = gr.Button("Teach it", variant="primary")
    said, job = gr.HTML(padding=False), gr.State("")
    run_part(workspace, job, followed)
    followed.begin()

    def made(*values: Any) -> tuple[str, str, str, str]:
        try:
            found = plan(request_of(workspace, *values))
        except InputError as error:
            return run_view.problems(error), "", "train_dreambooth", ""
        return plan_of(found), found.toml().partition("\n\n")[2], found.command, found.request.noun

    def opened(request: gr.Request) -> Any:
        return settings_again(workspace, request.query_params.get("run"))

    make.click(made, [folder, what, kind, word, base, effort, left_out], [planned, toml, command, name], **HIDDEN)
    toml.change(lambda text, which: checked_of(text, which), [toml, command], checked, **HIDDEN | {"show_progress": "hidden"})
    go.click(lambda *values: started(workspace, *values), [toml, command, form, name], [said, job], **HIDDEN)
    gr.on(None, lambda: (newest(workspace), gr.Dropdown(base_choices())), None, [job, base], **HIDDEN)
    gr.on(None, opened, None, [planned, toml, command, name], **HIDDEN)


def settings_again(workspace: Workspace, asked: str | None) -> Any:
    """The settings of the run that the address of the page names, for another run of them."""
    if (run := runs.find(workspace.folder, asked)) is None or run.command not in queue.MODELS:
        return gr.skip(), gr.skip(), gr.skip(), gr.skip()
    try:
        text = queue.settings_of(run.folder, run.command)
    except InputError as error:
        return run_view.problems(error), gr.skip(), gr.skip(), gr.skip()
    return f"<p>These are the settings of {html(run.name)}.</p>", text, run.command, run.name


def base_choices() -> list[tuple[str, str]]:
    """The base models that a run on this machine may take."""
    found = [(f"{base.title}: {base.why}", base.name) for base in bases.found() if base.offered]
    return [BEST, *found]


def request_of(
    workspace: Workspace, folder: str, what: str, kind: Any, word: str, base: str, effort: Any, without: list[str]
) -> Request:  # fmt: skip
    """What the user asks for."""
    if not folder.strip():
        raise InputError(Problem("photos", "there are none", "upload some, or name a folder"))
    path = photo_store.allowed(workspace, folder)
    shown = path.relative_to(workspace.folder).as_posix() if path.is_relative_to(workspace.folder) else str(path)
    asked = Request(shown, what, kind, word.strip() or None, base or None, effort, tuple(without))
    name = queue.new_run(workspace.folder, slug(asked.noun) or "photos")
    return replace(asked, leave_out=look(path, without).leave_out, output_dir=f"runs/{name}")


def plan_of(found: Plan) -> str:
    """A plan in three lines, and each decision with its reason."""
    lines = "".join(f"<p><strong>{html(line)}</strong></p>" for line in found.lines)
    reasons = "".join(f"<li>{html(reason)}</li>" for reason in found.reasons)
    return f'{lines}<details><summary>Why each setting is as it is</summary><ul class="cz-problems">{reasons}</ul></details>'


def started(workspace: Workspace, text: str, command: str, form: Any, name: str) -> tuple[str, Any]:
    """Puts the run into the queue."""
    text = whole(text, command, form)
    try:
        if not text.strip():
            raise InputError(Problem("plan", "there is none", "make a plan first"))
        values = values_of(text)
        promised = {job.folder for job in queue.jobs(workspace.folder) if job.state == "waiting"}
        folder = workspace.folder / str(values.get("output_dir", ""))
        if folder.exists() or folder in promised:
            values.pop("output_dir", None)
        place = queue.add(workspace.folder, command, values, name)
    except InputError as error:
        return run_view.problems(error), gr.skip()
    job = queue.find(workspace.folder, place.name)
    line = f"<p>The command for this: <code>{html(job.line)}</code></p>" if job else ""
    return f"<p>It is job {html(place.name)}.</p>{line}", place.name


def newest(workspace: Workspace) -> str:
    """The training that the page shows when it is opened: the newest."""
    trained = (job for job in queue.jobs(workspace.folder) if job.command.startswith("train_") and not is_trial(job))
    return next((job.path.name for job in trained), "")


def run_part(workspace: Workspace, job: gr.State, followed: Followed) -> None:
    """The run that goes on, and what came of it."""
    followed.show(gr.HTML(padding=False), lambda name: status_of(workspace, name), [job])
    with gr.Row():
        stop, more = gr.Button("Stop and save", visible=False), gr.Button("Go on", visible=False)
    followed.show(stop, lambda name: gr.Button(visible=is_under_way(queue.find(workspace.folder, name))), [job])
    followed.show(more, lambda name: gr.Button(visible=is_left(*card_of(workspace, name))), [job])
    said = gr.HTML(padding=False)
    slider = gr.ImageSlider(label="Before and after", visible=False, interactive=False, buttons=[])
    followed.show(slider, lambda name: slider_of(workspace, name), [job])
    followed.show(gr.HTML(padding=False), lambda name: pictures_of(workspace, name), [job])
    followed.show(gr.HTML(padding=False), lambda name: run_view.output(queue.find(workspace.folder, name)), [job])
    stop.click(lambda name: stopped(workspace, name), job, said, **HIDDEN)
    more.click(lambda name: went_on(workspace, name), job, [said, job], **HIDDEN)


def card_of(workspace: Workspace, name: str) -> tuple[Job | None, runs.RunCard | None]:
    """A job, and its run if it has begun."""
    job = queue.find(workspace.folder, name)
    return job, runs.card_of(job.folder) if job and job.folder else None


def is_under_way(job: Job | None) -> bool:
    """Whether it may be stopped."""
    return job is not None and job.state in ("waiting", "running")


def is_left(job: Job | None, run: runs.RunCard | None) -> bool:
    """Whether it may go on."""
    return run is not None and run.is_resumable and not is_under_way(job)


def status_of(workspace: Workspace, name: str) -> str:
    """What the job does, or what came of it."""
    job, run = card_of(workspace, name)
    if job is None:
        return ""
    head = "<h2>4. Learning</h2>"
    if run is None or job.state == "waiting":
        waits = "It was made elsewhere: the page Runs starts it." if job.is_from_elsewhere else "It waits for its turn."
        words = {"waiting": waits, "running": "It loads the base model and looks at the photos."}
        return f"{head}<h3>{html(job.name or name)}</h3><p>{words.get(job.state, job.state)} {html(job.message)}</p>"
    use = f'<p><a href="/generate?run={html(run.name)}">Generate with it</a>, <a href="/runs?run={html(run.name)}">report</a></p>'
    return head + run_view.status(run) + (run_view.files(workspace, run.folder) + use if run.state == "finished" else "")


def pictures_of(workspace: Workspace, name: str) -> str:
    """Candidates, curves and samples."""
    _, run = card_of(workspace, name)
    if run is None:
        return ""
    parts = run_view.candidates(workspace, run.folder), run_view.curves(run.folder), run_view.sheet(workspace, run.folder)
    return "".join(parts)


def slider_of(workspace: Workspace, name: str) -> Any:
    """The first sample of the base model and of the result, one over the other."""
    _, run = card_of(workspace, name)
    pair = run_view.before_after(run.folder) if run and run.state == "finished" else None
    return gr.ImageSlider(value=tuple(map(str, pair)) if pair else None, visible=pair is not None)


def stopped(workspace: Workspace, name: str) -> str:
    """Asks the run to save and end, or takes the job out of the queue."""
    job = queue.find(workspace.folder, name)
    if job and queue.cancel(job):
        return "<p>It is taken out of the queue.</p>"
    return "<p>It finishes its step and saves.</p>" if job and queue.stop(job) else "<p>It does not run.</p>"


def went_on(workspace: Workspace, name: str) -> tuple[str, Any]:
    """Puts the rest of a run into the queue."""
    _, run = card_of(workspace, name)
    if run is None or not run.is_resumable:
        return "<p>There is nothing to go on with.</p>", gr.skip()
    return "<p>It goes on.</p>", queue.resume(workspace.folder, run.folder, run.command).name
