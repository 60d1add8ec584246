"""The page Runs: every run of the workspace, whoever started it, read from its folder."""

from collections.abc import Callable

import gradio as gr

from customize.errors import InputError
from customize.evaluation.run_integrity import verify
from customize.jobs import queue, runs
from customize.jobs.job_folder import Job
from customize.jobs.runs import RunCard
from customize.next_command import options
from customize.printable import html, html_lines
from customize.web import run_view
from customize.web.live import Followed
from customize.web.workspace import Workspace

NONE = '<p class="cz-muted">There are no runs yet. Teach something, or start a training in a terminal in this folder.</p>'
ELSEWHERE = "made elsewhere, or changed"
NOTHING = '<p class="cz-muted">Choose a run above.</p>'


def build(workspace: Workspace) -> None:
    """The queue, the cards of all runs, and one or two runs in full."""
    gr.Markdown("# Runs")
    followed = Followed()
    queue_part(workspace, followed)
    cards = gr.HTML(padding=False)
    followed.show(cards, lambda: cards_of(workspace))
    with gr.Row():
        chosen = gr.Dropdown(label="Run", choices=names(workspace), value=None, allow_custom_value=True)
        other = gr.Dropdown(label="Compare with", choices=names(workspace), value=None, allow_custom_value=True)
    for box in (chosen, other):
        followed.show(box, lambda: gr.Dropdown(choices=names(workspace)))
    said = gr.HTML(padding=False)
    with gr.Row():
        stop, resume = gr.Button("Stop and save", visible=False), gr.Button("Resume", visible=False)
        check, delete = gr.Button("Verify files", visible=False), gr.Button("Delete ...", visible=False)
    for button, fits in (stop, is_running), (resume, is_resumable), (check, is_there), (delete, is_ended):
        followed.show(button, visible_if(workspace, fits), [chosen])
    with gr.Row(visible=False) as sure:
        yes, no = gr.Button("Delete this run", variant="stop"), gr.Button("Keep it")
    with gr.Row():
        for box in (chosen, other):
            with gr.Column(min_width=300):
                for show in (said_of, pictures_of, curves_of):
                    followed.show(gr.HTML(padding=False), shown(workspace, show), [box])
    commands = gr.Code(
        label="The commands for this", language="shell", interactive=False, lines=5, wrap_lines=True, visible=False
    )
    followed.show(commands, lambda name: commands_of(workspace, name), [chosen])
    with gr.Accordion("Report", open=False):
        followed.show(gr.HTML(padding=False), shown(workspace, report_of), [chosen])
    followed.show(gr.HTML(padding=False), shown(workspace, log_of), [chosen])
    followed.begin()

    hidden = {"api_visibility": "private"}
    stop.click(lambda name: asked_to_stop(workspace, name), chosen, said, **hidden)
    resume.click(lambda name: resumed(workspace, name), chosen, said, **hidden)
    check.click(lambda name: verified(workspace, name), chosen, said, **hidden)
    delete.click(lambda name: gr.Row(visible=runs.find(workspace.folder, name) is not None), chosen, sure, **hidden)
    no.click(lambda: gr.Row(visible=False), None, sure, **hidden)
    yes.click(lambda name: (deleted(workspace, name), gr.Row(visible=False)), chosen, [said, sure], **hidden)

    def opened(request: gr.Request) -> tuple:
        asked = request.query_params.get("run")
        return gr.Dropdown(choices=names(workspace), value=asked if asked in names(workspace) else None), cards_of(workspace)

    gr.on(None, opened, None, [chosen, cards], **hidden)


def queue_part(workspace: Workspace, followed: Followed) -> None:
    """What runs and waits, and what can be done with a job that waits."""
    waiting = gr.HTML(padding=False)
    followed.show(waiting, lambda: waiting_of(workspace))
    with gr.Row(visible=False) as row:
        number = gr.Dropdown(label="Waiting job", scale=2, allow_custom_value=True)
        cancel, begin = gr.Button("Cancel it"), gr.Button("Start it", visible=False)
    followed.show(number, lambda: gr.Dropdown(choices=waiting_names(workspace)))
    followed.show(row, lambda: gr.Row(visible=bool(waiting_names(workspace))))
    followed.show(begin, lambda name: gr.Button(visible=from_elsewhere(workspace, name) is not None), [number])
    followed.show(gr.HTML(padding=False), lambda name: looked_at(workspace, name), [number])
    cancel.click(lambda name: cancelled(workspace, name), number, waiting, api_visibility="private")
    begin.click(lambda name: accepted(workspace, name), number, waiting, api_visibility="private")


def names(workspace: Workspace) -> list[str]:
    """The names of all runs, the newest first."""
    return [run.name for run in runs.listed(workspace.folder)]


def visible_if(workspace: Workspace, fits: Callable[[RunCard], bool]) -> Callable[[str | None], gr.Button]:
    """A function of a run's name that shows a button where it has something to do."""

    def look(name: str | None) -> gr.Button:
        run = runs.find(workspace.folder, name)
        return gr.Button(visible=run is not None and fits(run))

    return look


def is_there(run: RunCard) -> bool:
    """Every run: it can be checked."""
    return True


def is_running(run: RunCard) -> bool:
    """It can be stopped."""
    return run.state == "running"


def is_ended(run: RunCard) -> bool:
    """It can be deleted."""
    return run.state != "running"


def is_resumable(run: RunCard) -> bool:
    """It can go on."""
    return run.is_resumable


def shown(workspace: Workspace, show: Callable[[Workspace, RunCard], str]) -> Callable[[str | None], str]:
    """A function of a run's name that shows the run."""

    def look(name: str | None) -> str:
        run = runs.find(workspace.folder, name)
        return show(workspace, run) if run else ""

    return look


def said_of(workspace: Workspace, run: RunCard) -> str:
    """State and files of a run."""
    again = f'<p><a href="/?run={html(run.name)}">Teach with its settings</a></p>' if run.command in queue.MODELS else ""
    return run_view.status(run) + run_view.files(workspace, run.folder) + again


def pictures_of(workspace: Workspace, run: RunCard) -> str:
    """The candidates and the samples of a run."""
    return run_view.candidates(workspace, run.folder) + run_view.sheet(workspace, run.folder)


def curves_of(workspace: Workspace, run: RunCard) -> str:
    """The losses of a run."""
    return run_view.curves(run.folder)


def report_of(workspace: Workspace, run: RunCard) -> str:
    """The report of a run."""
    return run_view.report(workspace, run.folder)


def cards_of(workspace: Workspace) -> str:
    """The cards of all runs."""
    found = runs.listed(workspace.folder)
    return f'<div class="cz-cards">{"".join(run_view.card(workspace, each) for each in found)}</div>' if found else NONE


def waiting_jobs(workspace: Workspace) -> list[Job]:
    """The jobs that wait, the next one first."""
    return [job for job in queue.jobs(workspace.folder) if job.state == "waiting"][::-1]


def waiting_names(workspace: Workspace) -> list[str]:
    """The names of the jobs that wait."""
    return [job.path.name for job in waiting_jobs(workspace)]


def waiting_of(workspace: Workspace) -> str:
    """What runs and what waits, in a line each."""
    found = queue.jobs(workspace.folder)[::-1]
    current = [job for job in found if job.state in ("running", "waiting")]
    said = [f"{ELSEWHERE}: it starts when you say so" if job.is_from_elsewhere else job.state for job in current]
    pairs = zip(current, said, strict=True)
    lines = [f"<li>{html(job.path.name)}: {html(job.command)} {words}</li>" for job, words in pairs]
    failed = [job for job in found[-3:] if job.state == "failed" and not (job.folder and job.folder.exists())]
    lines += [f'<li>{html(job.path.name)}: <span class="cz-failed">failed</span>: {html(job.message)}</li>' for job in failed]
    return f"<h2>Queue</h2><ul>{''.join(lines)}</ul>" if lines else ""


def cancelled(workspace: Workspace, name: str | None) -> str:
    """Takes a job out of the queue."""
    for job in waiting_jobs(workspace):
        if job.path.name == name:
            queue.cancel(job)
    return waiting_of(workspace)


def from_elsewhere(workspace: Workspace, name: str | None) -> Job | None:
    """The waiting job of this name, if it does not start by itself."""
    return next((job for job in waiting_jobs(workspace) if job.path.name == name and job.is_from_elsewhere), None)


def looked_at(workspace: Workspace, name: str | None) -> str:
    """The command and the settings of a job from elsewhere, for a look before it is started."""
    if (job := from_elsewhere(workspace, name)) is None:
        return ""
    text = html_lines(job.settings.decode(errors="replace"))
    settings = f'<pre class="cz-line" tabindex="0" aria-label="Its settings">{text}</pre>'
    return f"<p>{html(job.path.name)} was {ELSEWHERE}. It runs <code>{html(job.line)}</code> with these settings:</p>{settings}"


def accepted(workspace: Workspace, name: str | None) -> str:
    """Queues a job from elsewhere at which the user has looked."""
    if job := from_elsewhere(workspace, name):
        queue.accept(job)
    return waiting_of(workspace)


def job_of(workspace: Workspace, run: RunCard) -> Job | None:
    """The newest job that made a run."""
    return next((job for job in queue.jobs(workspace.folder) if job.folder == run.folder), None)


def asked_to_stop(workspace: Workspace, name: str | None) -> str:
    """Asks a run to save and end."""
    run = runs.find(workspace.folder, name)
    if run is None:
        return NOTHING
    done = queue.stop_run(run.folder)
    return "<p>It finishes its step and saves.</p>" if done else "<p>It does not run.</p>"


def resumed(workspace: Workspace, name: str | None) -> str:
    """Puts the rest of a run into the queue."""
    run = runs.find(workspace.folder, name)
    if run is None or not run.is_resumable:
        return NOTHING if run is None else f"<p>It is {run.state}: there is nothing to resume.</p>"
    job = queue.resume(workspace.folder, run.folder, run.command)
    return f"<p>It goes on as job {html(job.name)}.</p>"


def verified(workspace: Workspace, name: str | None) -> str:
    """Checks every file of a run."""
    run = runs.find(workspace.folder, name)
    if run is None:
        return NOTHING
    found = list(verify(run.folder))
    bad = [each for each in found if each.intact is False]
    lines = "".join(f"<li>{html(each)}</li>" for each in found)
    words = f"{len(bad)} of {len(found)} are damaged" if bad else f"all {len(found)} are intact"
    return f"<p><strong>Files: {words}.</strong></p><ul>{lines}</ul>"


def deleted(workspace: Workspace, name: str | None) -> str:
    """Removes what a run wrote, and says what stays."""
    run = runs.find(workspace.folder, name)
    if run is None:
        return NOTHING
    try:
        stays = runs.delete(run.folder)
    except InputError as error:
        return run_view.problems(error)
    except OSError as error:
        return f"<p>It cannot be deleted: {html(error.strerror)}</p>"
    if not stays:
        return f"<p>{html(run.name)} is deleted.</p>"
    lines = "".join(f"<li>{html(each)}</li>" for each in stays[:20])
    return (
        f"<p>The files that {html(run.name)} recorded are deleted. These stay, as it has no record of them:</p><ul>{lines}</ul>"
    )


def log_of(workspace: Workspace, run: RunCard) -> str:
    """What its job printed, and the last lines of log.jsonl."""
    lines = "\n".join(html(line, 200) for line in runs.last_lines(run.folder)[-8:])
    log = f'<pre class="cz-line" tabindex="0" aria-label="log.jsonl">{lines}</pre>'
    log = f"<details><summary>The last lines of its log</summary>{log}</details>"
    return run_view.output(job_of(workspace, run)) + log


def commands_of(workspace: Workspace, name: str | None) -> str:
    """What one would type for everything that the page does with a run."""
    run = runs.find(workspace.folder, name)
    if run is None:
        return ""
    folder, config = f"runs/{run.name}", f"runs/{run.name}/config.toml"
    lines = [f"customize {run.command} {options(config)} --resume_from_checkpoint latest"] if run.is_resumable else []
    if run.state == "finished":
        lines.append(f"customize infer {options(weights=folder, prompt=run.word)}")
    return "\n".join([*lines, f"customize verify {options(folder)}", f"customize score {options(folder)}"])
