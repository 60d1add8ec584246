"""The queue of a workspace: jobs wait in `jobs/`, and one worker at a time takes them in order, because there is one device.

Nothing here runs a job or imports torch: a job is written, and a worker is started if none lives. Whoever wrote it may then go.
"""

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from customize.errors import InputError, Problem
from customize.jobs import job_folder, program
from customize.jobs.job_folder import CONFIG, Job
from customize.methods import SETTINGS
from customize.printable import printable
from customize.settings.field import table
from customize.settings.files import toml_file
from customize.settings.frozen_model import Validated
from customize.settings.inference import InferenceSettings
from customize.settings.rules.rule import implied
from customize.storage import lock, numbered_folders, run_folder
from customize.storage.atomic import write_text
from customize.storage.disk import make_folder

MODELS: Mapping[str, type[Validated]] = {model.command.removesuffix(".py"): model for model in (*SETTINGS, InferenceSettings)}
"""The settings of each command that a job may run."""
RESUME = ("--resume_from_checkpoint", "latest")
"""The words with which a run goes on."""
STARTING = 10.0
"""Seconds in which a worker that was started takes the lock."""
started: dict[Path, tuple[subprocess.Popen, float]] = {}
"""The last worker that this process started for a workspace, and when."""


def add(workspace: Path, command: str, values: Mapping[str, Any], name: str = "") -> Path:
    """Writes a job that runs `customize COMMAND` with these settings, and returns its folder. A worker is started if none lives.

    values: settings by name; a training without `output_dir` gets a new folder in `runs`. Raises InputError for invalid settings.
    """
    if command not in MODELS:
        raise InputError(Problem("command", f'"{printable(command)}" is no job', f"give one of {', '.join(MODELS)}"))
    model, slug = MODELS[command], numbered_folders.slug(name)
    trains = "max_train_steps" in table(model)
    own = dict(implied(table(model), dict(values))[0]) | dict(values)
    if trains and own.get("output_dir") is None:
        own["output_dir"] = (Path("runs") / new_run(workspace, slug or command.removeprefix("train_"))).as_posix()
    settings = model(**own)
    top = "runs" if trains else "images"
    place = os.path.abspath(workspace / (own.get("output_dir") or "."))
    if not Path(place).is_relative_to(os.path.abspath(workspace)):
        what = f"{printable(own['output_dir'])} is not in this workspace, which has all that the page shows"
        raise InputError(Problem("output_dir", what, f"name a folder in {top}/, or none"))
    path = numbered_folders.new_folder(workspace / "jobs", slug=slug)
    config = path / CONFIG
    shown = config.relative_to(workspace).as_posix()
    given = {name: value for name, value in settings.values().items() if name in own}
    write_text(config, f"# customize {command} {shown}\n\n{settings.to_toml(given)}")
    folder = workspace / own["output_dir"] if own.get("output_dir") else None
    put(Job(path, command, (shown,), name=printable(name, 100), folder=folder, created=time.time()))
    return path


def resume(workspace: Path, run: Path, command: str) -> Path:
    """Writes a job that goes on with a run from its latest checkpoint."""
    config = run / run_folder.CONFIG
    words = (os.path.relpath(config, workspace), *RESUME)
    path = numbered_folders.new_folder(workspace / "jobs", slug=numbered_folders.slug(run.name))
    put(Job(path, command, words, name=run.name, folder=run, created=time.time()))
    return path


def settings_of(run: Path, command: str) -> str:
    """The settings of a run as TOML, for another one: without its place. Raises InputError where they are not valid here."""
    values, _ = toml_file.read(str(run / run_folder.CONFIG))
    settings = MODELS[command](**values)
    lines, of_one_run = table(type(settings)), {"output_dir", RESUME[0].removeprefix("--")}
    own = {name: value for name, value in settings.values().items() if value != lines[name].default}
    return settings.to_toml({name: own[name] for name in own if not of_one_run & {name, *(lines[name].only_with or ())[:1]}})


def put(job: Job) -> None:
    """Writes a job with its settings as they are now, signed. A worker is started if none lives."""
    job.changed(config=job_folder.digest(job.settings))
    wake(job.path.parents[1])


def accept(job: Job) -> bool:
    """Queues a job from elsewhere, at which the user has looked; False if it is none."""
    if not job.is_from_elsewhere:
        return False
    with suppress(OSError):
        (job.path / job_folder.TAKEN).unlink()
    put(job)
    return True


def new_run(workspace: Path, stem: str) -> str:
    """The name of a new run folder that neither exists nor is promised to another job."""
    promised = [job.folder for job in job_folder.every(workspace) if job.folder and job.state == "waiting"]
    taken = {path.name for path in promised} | {path.name for path in (workspace / "runs").glob(f"{stem}-*")}
    return next(name for number in range(1, 10**6) if (name := numbered_folders.name(stem, number)) not in taken)


def jobs(workspace: Path) -> list[Job]:
    """All jobs, the newest first. A worker is started if one waits and none lives, as after a restart of the machine."""
    found = job_folder.every(workspace)
    if any(job.waits or job.state == "running" for job in found):
        wake(workspace)
    return found


def find(workspace: Path, name: str) -> Job | None:
    """The job of this name."""
    return next((job for job in jobs(workspace) if job.path.name == name), None)


def cancel(job: Job) -> bool:
    """Takes a job that waits out of the queue; False if it has begun."""
    if job.state != "waiting" or not job.take():
        return False
    job.changed(state="cancelled", ended=time.time())
    return True


def stop(job: Job) -> bool:
    """Asks a running job to end: a training finishes its step and saves, a generation keeps the images that are done. False if it
    does not run."""
    now = job_folder.read(job.path)
    if now is None or now.state != "running" or not now.lives():
        return False
    return signalled(now.pid)


def stop_run(run: Path) -> bool:
    """The same for a run, whoever started it."""
    return signalled(lock.holder(run))


def signalled(pid: int | None) -> bool:
    """Whether a process could be asked to end."""
    with suppress(OSError):
        if pid:
            os.kill(pid, signal.SIGTERM)
            return True
    return False


def wake(workspace: Path) -> None:
    """Starts a worker, unless one lives: a process of its own, which survives whoever starts it."""
    folder = workspace / "jobs"
    process, since = started.get(workspace, (None, 0.0))
    is_starting = process is not None and process.poll() is None and time.monotonic() - since < STARTING
    if is_starting or lock.holder(folder) is not None:
        return
    make_folder(folder)
    options: dict[str, Any] = {"start_new_session": True} if os.name != "nt" else {"creationflags": 0x00000208}
    log = folder / "worker.txt"
    with open(log if job_folder.is_plain(log) else os.devnull, "ab") as output:
        process = subprocess.Popen(
            program.words("customize.jobs.worker", str(workspace)), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            cwd=workspace, env=program.environment(), **options,
        )  # fmt: skip
    started[workspace] = process, time.monotonic()
