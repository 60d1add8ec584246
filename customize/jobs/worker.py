"""The worker: `python -m customize.jobs.worker WORKSPACE` takes the jobs of a workspace in order, one at a time.

Only one lives, by the lock of `jobs/`. A training is a child process in a session of its own, the same command that a user would
type, so that it goes on whatever happens to the worker; the next worker waits for it before it starts another. Images are drawn
in the worker itself, which keeps the pipeline for the next ones, and starts itself anew before anything else gets the device.
"""

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from customize import library_logs
from customize.errors import InputError
from customize.jobs import job_folder, program, progress
from customize.jobs.job_folder import Job, State, identity, state_of
from customize.jobs.queue import MODELS, RESUME
from customize.settings.field import table
from customize.settings.files import toml_file
from customize.storage import lock

IDLE = 600.0
"""Seconds without a job after which a worker ends, and with it the pipeline that it keeps."""
LOOK = 0.3
"""Seconds between two looks at the folder."""
FILES_OF_THEIR_OWN = ("like", "prompt_file", "merge")
"""Settings of infer.py that its command line reads before it starts: such a job is a child process too."""


def main(workspace: Path, idle: float = IDLE) -> None:
    """Runs jobs until none has come for `idle` seconds. Returns at once if another worker lives."""
    os.chdir(workspace)
    while has_work(workspace):
        try:
            with lock.hold(workspace / "jobs"):
                work(workspace, idle)
        except InputError:  # another one lives
            return


def has_work(workspace: Path) -> bool:
    """Whether a job waits, or one runs that nobody waits for."""
    return any(job.waits or job.state == "running" for job in job_folder.every(workspace))


def work(workspace: Path, idle: float) -> None:
    """Takes one job after another."""
    since = time.monotonic()
    while time.monotonic() - since < idle:
        job = next_job(workspace)
        if job is None:
            time.sleep(LOOK)
            continue
        run(workspace, job)
        since = time.monotonic()


def next_job(workspace: Path) -> Job | None:
    """The job to run: first one that a worker before has left, then the oldest of ours that waits."""
    found = job_folder.every(workspace)[::-1]
    for job in found:
        if job.state == "running":
            return job
    return next((job for job in found if job.waits and job.take()), None)


def run(workspace: Path, job: Job) -> None:
    """Runs a job to its end, or waits for the end of one that runs already."""
    if job.state == "running":
        adopt(job)
    elif not has_our_form(workspace, job):
        job.changed(state="failed", message="is not a job that this program writes", ended=time.time())
    elif draws_here(job):
        from customize.jobs.drawing import draw

        draw(workspace, job)
    else:
        if "torch" in sys.modules:  # it keeps memory of the device as long as it lives
            (job.path / job_folder.TAKEN).unlink()
            os.execve(sys.executable, program.words("customize.jobs.worker", str(workspace)), program.environment())
        child(workspace, job)


def has_our_form(workspace: Path, job: Job) -> bool:
    """Whether its command line is one that the queue writes: the user may have started one from elsewhere."""
    config, *others = job.arguments or ("",)
    place = Path(os.path.realpath(workspace / config))
    inside = place.is_relative_to(os.path.realpath(workspace)) and place.name == job_folder.CONFIG
    has_form = job.command in MODELS and inside and others in ([], [*RESUME]) and job_folder.is_plain(job.output)
    return has_form and not has_secret(job, place)


def has_secret(job: Job, config: Path) -> bool:
    """Whether its settings have an access token, which this program writes into no file: its owner would get the results."""
    with suppress(InputError):
        known = table(MODELS[job.command])
        return any(known[name].secret for name in toml_file.read(str(config))[0] if name in known)
    return False


def draws_here(job: Job) -> bool:
    """Whether it draws images that this process can draw."""
    if job.command != "infer" or len(job.arguments) != 1:
        return False
    try:
        values, _ = toml_file.read(job.arguments[0])
    except InputError:
        return False
    return not any(values.get(name) for name in FILES_OF_THEIR_OWN)


def child(workspace: Path, job: Job) -> None:
    """Runs the command of a job as a process of its own, and waits for it."""
    options: dict[str, Any] = {"start_new_session": True} if os.name != "nt" else {"creationflags": 0x00000200}
    with open(job.output, "ab") as output:
        process = subprocess.Popen(
            program.words("customize", job.command, *job.arguments), stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, cwd=workspace, env=program.environment(), **options,
        )  # fmt: skip
    job = job.changed(state="running", pid=process.pid, since=identity(process.pid) or "", started=time.time())
    ended(job, process.wait())


def adopt(job: Job) -> None:
    """Waits for a process that a worker before has started. How it ended is told by the progress of its run."""
    while job.lives():
        time.sleep(LOOK)
    said = progress.read(job.folder) if job.folder else None
    state: Any = said["state"] if said and said.get("pid") == job.pid else "running"
    if state in ("finished", "stopped", "failed"):
        job.changed(state=state, ended=time.time())
    else:
        job.changed(state="failed", message="it was killed", ended=time.time())


def ended(job: Job, status: int) -> None:
    """Writes how a job ended, with the last line of its output if it failed."""
    state: State = state_of(status)
    message = "" if state != "failed" else "it was killed" if status == -9 else last_words(job)
    job.changed(state=state, exit_status=status, message=message, ended=time.time())


def last_words(job: Job) -> str:
    """The reason in the output of a job that failed: the last line that is not a remedy."""
    lines = tail(job.output).splitlines()
    reasons = [line.strip() for line in lines if line.strip() and not line.strip().startswith(("->", "This is a bug"))]
    return reasons[-1][:300] if reasons else "it printed nothing"


def tail(path: Path, most: int = 20_000) -> str:
    """The end of a text file; empty if there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - most, 0))
            return file.read(most).decode(errors="replace")
    except OSError:
        return ""


if __name__ == "__main__":
    sys.argv[0] = "customize"  # as commands to repeat are printed
    library_logs.quiet()
    main(Path(sys.argv[1]).absolute())
