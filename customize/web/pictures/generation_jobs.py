"""The jobs that generate images: what the page starts, and what it shows of them and of the others before them in the queue."""

from collections.abc import Sequence

from customize.jobs import job_folder, progress, queue
from customize.jobs.job_folder import Job
from customize.jobs.runs import number, whole
from customize.printable import html
from customize.units import duration
from customize.web.pictures.generation_form import Filled
from customize.web.workspace import Workspace

COMMAND = "infer"
FAILED_SHOWN = 3
"""A job that failed is shown until as many later ones have been started."""


def start(workspace: Workspace, filled: Filled) -> None:
    """Puts the settings of a form into the queue. Raises InputError if they are refused."""
    prompts = filled.settings.prompt
    queue.add(workspace.folder, COMMAND, dict(filled.values), prompts[0] if prompts else "image")


def shown(workspace: Workspace) -> str:
    """What runs, what waits, and what failed lately, as HTML."""
    return html_of(queue.jobs(workspace.folder))


def html_of(jobs: Sequence[Job]) -> str:
    """The jobs that matter now. jobs: the newest first."""
    failed = [job for job in jobs[:FAILED_SHOWN] if job.state == "failed" and job.command == COMMAND]
    running = [job for job in jobs if job.state == "running"]
    waiting = [job for job in jobs if job.state == "waiting"][::-1]
    parts = [*map(_running, running), *(_waiting(job, place) for place, job in enumerate(waiting, 1)), *map(_failed, failed)]
    return "".join(parts)


def act(workspace: Workspace, action: str, name: str) -> None:
    """Stops the job of this name, or takes it out of the queue."""
    job = queue.find(workspace.folder, name)
    if job is not None and action in ACTIONS:
        ACTIONS[action](job)


ACTIONS = {"stop": queue.stop, "cancel": queue.cancel}


def _running(job: Job) -> str:
    said = progress.read(job.path if job.command == COMMAND else job.folder or job.path) or {}
    step, total, left = whole(said.get("step")), whole(said.get("total")), number(said.get("seconds_left"))
    words = f"{step} of {total}" if total else "loading the model"
    words += f", {duration(left)} left" if left is not None else ""
    known = f' value="{step}" max="{total}"' if total else ""
    bar = f'<progress aria-label="{html(_title(job))}"{known}></progress>'
    phase = html(said.get("phase") or "", 100)
    return _card(job, f'{html(words)}<span class="soft">{phase}</span>', bar, "stop", "Stop")


def _waiting(job: Job, place: int) -> str:
    if job.is_from_elsewhere:
        return _card(job, "made elsewhere, or changed: the page Runs shows what it does, and starts it", "", "cancel", "Cancel")
    return _card(job, f"waits, number {place} in the queue", "", "cancel", "Cancel")


def _failed(job: Job) -> str:
    what, _, remedy = job.message.partition("->")
    words = f'<div class="problem">{html(what.strip())}<span>{html("→ " + remedy.strip()) if remedy else ""}</span></div>'
    log = f'<span class="soft">{html(f"jobs/{job.path.name}/{job_folder.OUTPUT}")} has all that it printed</span>'
    return f'<div class="job"><b>Failed: {html(_title(job))}</b>{words}{log}</div>'


def _card(job: Job, words: str, bar: str, action: str, label: str) -> str:
    button = f'<button type="button" data-action="{action}" data-job="{html(job.path.name)}">{label}</button>'
    kind = "" if job.command == COMMAND else f'<span class="soft">{html(job.command.replace("_", " "))}</span>'
    heading = f'<div class="in-line"><b>{html(_title(job))}</b>{kind}{button}</div>'
    return f'<div class="job">{heading}{bar}<div class="in-line">{words}</div></div>'


def _title(job: Job) -> str:
    return job.name or job.path.name
