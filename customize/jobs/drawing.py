"""Draws the images of a job in the worker's own process, whose pipeline stays loaded for the next one. Imports torch."""

import os
import time
import traceback
from collections.abc import Iterable
from pathlib import Path

from customize import device, events
from customize.errors import InputError, Interrupted, NumericsError, ResourceError
from customize.events import DenoisingStep, Event, Message, Summary
from customize.inference.run import command
from customize.inference.run.generate import PipelineCache
from customize.inference.run.image_folder import ImageFolder
from customize.jobs.job_folder import Job, identity
from customize.jobs.progress import ProgressFile, ending
from customize.printable import printable
from customize.settings.files import toml_file
from customize.settings.inference import InferenceSettings
from customize.storage import run_folder

_kept: dict[str, object] = {"models": PipelineCache(), "files": None}


class Output:
    """A consumer that writes what the terminal would print into the output of a job."""

    def __init__(self, path: Path):
        self.file = open(path, "a", encoding="utf-8", buffering=1)

    def __call__(self, event: Event) -> None:
        match event:
            case Message(text, level):
                self.say([f"{'' if level == 'info' else 'note: '}{text}"])
            case Summary(rows=rows):
                self.say(f"{heading:<10}{text}".rstrip() for heading, text in rows)
            case DenoisingStep(done, total) if done in (1, total):
                self.say([f"step {done:,} of {total:,}"])

    def say(self, lines: Iterable[str]) -> None:
        """Writes lines without control characters."""
        for text in lines:
            self.file.writelines(f"{printable(line)}\n" for line in text.split("\n"))


def draw(workspace: Path, job: Job) -> None:
    """Draws the images of a job, and writes how it ended. Stops with the images that are done where the process is asked to."""
    output, report = Output(job.output), ProgressFile()
    status, error, place = 0, None, None
    with events.sent_to(output, report):
        try:
            with command.raised_signals():  # a job can be stopped as soon as it is known to run
                job = job.changed(state="running", pid=os.getpid(), since=identity(os.getpid()) or "", started=time.time())
                events.emit(events.RunBegun(job.path, device.describe(device.best_device()).name))
                values, _ = toml_file.read(job.arguments[0])
                place = drawn(InferenceSettings(**values))
        except (InputError, ResourceError, NumericsError, Interrupted) as found:
            error, status = found, status_of(found)
            output.say([str(found)])
        except Exception as found:
            error, status = found, 1
            output.say(["".join(traceback.format_exception(found))])
        events.emit(events.RunEnded(error))
    state, message = ("finished", "") if error is None else ending(error)
    folder = place.folder.absolute() if place else job.folder
    job.changed(state=state, exit_status=status, message=message, folder=folder, ended=time.time())


def drawn(settings: InferenceSettings) -> ImageFolder:
    """Draws with the pipeline at hand, if its files are those of last time."""
    files = fingerprint(settings)
    if files != _kept["files"]:
        _kept["models"] = None  # frees the memory before the next one is loaded
        _kept["models"] = PipelineCache()
    models = _kept["models"]
    assert isinstance(models, PipelineCache)
    _kept["files"] = None  # unknown, if this fails
    place = command.run(settings, models)
    assert place is not None
    _kept["files"] = files
    return place


def fingerprint(settings: InferenceSettings) -> tuple:
    """Names, sizes and times of the files of weights: a run that went on has others under the same name."""
    found = []
    for path in (settings.pretrained_model_name_or_path or "", *(path for path, _ in settings.weights_and_scales)):
        place = Path(path)
        files = sorted(place.rglob("*.safetensors")) if (place / run_folder.CONFIG).is_file() else [place]
        found += [(str(each), each.stat().st_size, each.stat().st_mtime_ns) for each in files if each.exists()]
    return tuple(found)


def status_of(error: Exception) -> int:
    """The exit status of infer.py that ends like this."""
    if isinstance(error, Interrupted):
        return 128 + error.signal
    return {InputError: 2, ResourceError: 3, NumericsError: 4}[type(error)]
