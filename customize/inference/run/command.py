"""The command infer.py: checks everything, then generates images (`generate.py`) and writes them (`output.py`) one by one.

torch is not imported before all checks have passed.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from customize import device as machine
from customize import events
from customize.data.images.image_file import open_image
from customize.errors import InputError, Interrupted, NumericsError, Problem, ResourceError
from customize.families.files.prompt_embeddings import missing
from customize.families.specs import spec_of
from customize.inference.masks import Mask, mask_of, open_mask
from customize.inference.run import image_folder, image_summary, merge, processes
from customize.inference.run.extra_networks import BREAKS, resolve_grid
from customize.inference.run.grid import grid
from customize.inference.run.image_folder import ImageFolder
from customize.inference.run.job import Job
from customize.inference.run.model_checks import base_source, completed
from customize.inference.run.processes import Processes
from customize.inference.run.upscaling import PREVIOUS, check_model_of, staged
from customize.printable import first_few, printable
from customize.prompts import CALLS, parse
from customize.prompts import plain as literal
from customize.settings.environment import fp16_problems
from customize.settings.inference import InferenceSettings
from customize.storage import out_of_memory
from customize.storage.resources import resources
from customize.storage.untrusted_files import unreadable

if TYPE_CHECKING:
    from PIL.Image import Image

    from customize.inference.metadata.reproduce import Like
    from customize.inference.run.generate import PipelineCache

FOR_DISK = "free space, or give an --output_dir on another disk"
FOR_MEMORY = "use a smaller --batch_size, a smaller image, or --mixed_precision bf16"


def run(settings: InferenceSettings, models: "PipelineCache | None" = None) -> ImageFolder | None:
    """Generates `num_images` images of each prompt, for every swept value, into `output_dir` or a new folder.

    Writes 000.png, 001.png, ... as each is finished, numbered after existing images, with their settings as metadata;
    config.toml, which reproduces them; sheet.png for 2 to `output.MOST_ON_SHEET` images; trace.jsonl and the files of
    `observers.Observers.write`. With `like`, reports whether the image is identical. With `merge`, only runs `merge.run`.
    models: may hold a pipeline already. Returns where the images are.
    Raises InputError before anything is written; ResourceError if memory or disk run out, and Interrupted on a signal: finished
    images are kept, and the message contains the command to resume.
    """
    if found := list(processes.problems(settings)):
        raise InputError(found)
    if settings.merge is not None:
        merge.run(settings)
        return None
    settings, shared = completed(settings), Processes.of_environment()
    job = check(settings)
    for note in notes(settings, job):
        events.warn(note)
    plain = without_like(settings)
    with raised_signals(), resources(FOR_MEMORY, FOR_DISK):
        from customize.inference.run.generate import PipelineCache

        shared.start()
        if (agreed := shared.agreed(settings)) != settings:  # a random seed is that of the first process
            settings, job, plain = agreed, check(agreed), without_like(agreed)
        requests = job.grid.requests
        source = base_source(requests[0].settings)
        device = machine.describe(machine.best_device())
        events.summarize("started", image_summary.before_loading(plain, requests, source, device))
        models = models or PipelineCache()
        models.begin(job.grid.requests[0].settings)
        if settings.lesson == "none":
            models.check_steps(job.grid)
        if removed := image_folder.removal(settings):
            names = first_few([path.name for path in removed])
            events.info(f"overwrite_output_dir removes {len(removed)} files of earlier runs in {settings.output_dir}: {names}")
        place = draw(plain, job, models, shared)
    events.summarize("finished", image_summary.finished(plain, requests, place))
    if job.like and job.is_reproduction:
        events.info(f"{settings.like}: {job.like.verdict(open_image(place.image(0)))}")
    return place


def draw(settings: InferenceSettings, job: Job, models: "PipelineCache", shared: Processes) -> ImageFolder:
    """Generates and writes the images of a job, and returns where they are. models: holds the pipeline of the first one."""
    from customize.inference.run.generate import generate_batches
    from customize.inference.run.output import write_images, write_sheet

    with shared.claimed(settings, len(job.grid.requests)) as place:
        events.summarize("started", [("folder", printable(place.folder))])
        try:
            with resources(FOR_MEMORY, FOR_DISK):
                drawn = generate_batches(settings, job, models, place.image, place.finished.copy(), shared)
                images, starts = write_images(settings, job.grid, place, drawn)
                shared.wait()
                if shared.is_first:
                    write_sheet(settings, job.grid, place, images, starts)
        except (ResourceError, NumericsError) as error:
            raise type(error)(f"{error}\n{place.how_to_resume}") from error
        except Interrupted as error:
            raise Interrupted(error.signal, f"stopped; {place.how_to_resume}") from error
    return place


@contextmanager
def raised_signals() -> Iterator[None]:
    """Raises Interrupted on Ctrl-C, SIGTERM and SIGHUP within the context; files are complete at any moment. Also where a library
    took it for a failure of its own, such as one to load a file."""
    received: list[signal.Signals] = []

    def receive(number: int, frame: object) -> None:
        received.append(signal.Signals(number))
        raise Interrupted(received[0], "stopped")

    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():  # handlers can only be set there
        numbers = []
    previous = {number: signal.signal(number, receive) for number in numbers}
    try:
        yield
    except Exception as error:
        if received and not isinstance(error, Interrupted):
            raise Interrupted(received[0], "stopped") from error
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def check(settings: InferenceSettings) -> Job:
    """Opens and checks all input files and folders, without torch. Raises one InputError with all problems."""
    problems: list[Problem] = []

    def attempt(check: Callable[[], Any]) -> Any:
        try:
            return check()
        except InputError as error:
            if out_of_memory.caused(error):
                raise
            problems.extend(each for each in error.problems if each not in problems)
        except OSError as error:
            if out_of_memory.caused(error):
                raise
            problems.append(unreadable(error))

    if settings.prompt_file is not None:
        what = f"{settings.prompt_file} has not been read"
        problems.append(Problem("prompt_file", what, "create the settings with customize.read_settings"))
    attempt(lambda: image_folder.check(without_like(settings)))
    like = attempt(lambda: read_like(settings))
    found = attempt(lambda: staged(resolve_grid(grid(without_like(settings)))))
    different = {request.settings: None for request in found.requests} if found else [settings]
    images: dict[str, Image] = {}
    masks: dict[Mask, Image] = {}
    remarks: list[str] = []
    colours: list[str] = []
    models: set[tuple] = set()
    for each in different:
        if (model := (each.pretrained_model_name_or_path, each.variant, each.weights, each.low_res_image)) not in models:
            models.add(model)
            attempt(lambda each=each: check_model_of(each))
        for name, prompts in ("prompt", each.prompt), ("negative_prompt", [each.negative_prompt]):
            for prompt in () if each.plain_prompt else prompts:
                if found or not CALLS.search(prompt):
                    attempt(lambda name=name, prompt=prompt: parse(prompt, name))
        for path in (each.image, each.low_res_image):
            if path and path != PREVIOUS and path not in images:
                images[path] = attempt(lambda path=path: open_image(path, remarks=colours))
        if (mask := mask_of(each)) and mask not in masks:
            masks[mask], found_notes = attempt(lambda mask=mask, each=each: open_mask(*mask, images[each.image])) or (None, ())
            remarks += [note for note in found_notes if note not in remarks]
    problems += fp16_problems(settings)
    if not problems:
        problems += [*texts_without_embeddings(different), *unread_texts(different)]
    if not problems:
        problems += would_be_removed(settings, image_folder.removal(settings))
    if problems:
        raise InputError(problems)
    return Job(found, images, masks, like, (*remarks, *(f"image: {printable(remark)}" for remark in colours)))


def would_be_removed(settings: InferenceSettings, removed: Sequence[Path]) -> Iterator[Problem]:
    """A problem for each input file that `overwrite_output_dir` would remove."""
    doomed = {os.path.realpath(path) for path in removed}
    weights = [("weights", path) for path, _ in settings.weights_and_scales]
    images = {"image": settings.image, "low_res_image": settings.low_res_image, "mask_image": settings.mask_image}
    for name, path in (*images.items(), ("like", settings.like), *weights):
        if path and os.path.realpath(path) in doomed:
            what = f"overwrite_output_dir would remove {path}"
            yield Problem(name, what, "omit overwrite_output_dir: new images are numbered after existing ones")


def read_like(settings: InferenceSettings) -> "Like | None":
    """Reads the image of `like`, if it is set. Raises InputError."""
    if settings.like is None:
        return None
    from customize.inference.metadata.reproduce import Like

    like = Like.read(settings.like)
    like.check(settings)
    return like


def without_like(settings: InferenceSettings) -> InferenceSettings:
    """The settings without `like`; they already contain the values that were read from its image."""
    return settings.model_copy(update={"like": None})


def notes(settings: InferenceSettings, job: Job) -> list[str]:
    """Notes for the user before generation starts."""
    broken = any(BREAKS.search(text) for text in (*settings.prompt, settings.negative_prompt))
    of_prompts = ["a line break or tab in a prompt counts as a space"] if broken else []
    return [*(job.like.info.notes if job.like else ()), *job.remarks, *of_prompts]


def texts_without_embeddings(different: Iterable[InferenceSettings]) -> list[Problem]:
    """A problem for the texts that a file of encoded prompts lacks."""
    texts: dict[str, list[str]] = {}
    names = {each.prompt_embeddings: each.pretrained_model_name_or_path or "MODEL" for each in different}
    for each in different:
        if each.prompt_embeddings:
            texts.setdefault(each.prompt_embeddings, []).extend(texts_of(each))
    return [problem for file, own in texts.items() for problem in missing(file, own, names[file])]


def unread_texts(different: Iterable[InferenceSettings]) -> dict[Problem, None]:
    """A problem for each text that the base model cannot read."""
    of_model: dict[object, list[InferenceSettings]] = {}
    for each in different:
        of_model.setdefault((each.pretrained_model_name_or_path, each.weights), []).append(each)
    specs = [(spec_of(base_source(alike[0])), alike) for alike in of_model.values()]
    found = (spec.prompt_problem(text) for spec, alike in specs for each in alike for text in texts_of(each))
    return dict.fromkeys(filter(None, found))


def texts_of(settings: InferenceSettings) -> Iterator[str]:
    """Every text that is encoded for a prompt, without weights of words."""
    read = literal if settings.plain_prompt else parse
    for prompt in (*settings.prompt, settings.negative_prompt):
        for clause in read(prompt).clauses:
            yield from ("".join(span.text for span in text) for text in clause.schedule(settings.steps))
