"""What infer.py does: everything is checked, then images are generated (`generate.py`) and written (`output.py`) one by one.

Nothing here imports torch before all is checked.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from customize import device as machine
from customize import events
from customize.data.images.image_file import open_image
from customize.errors import InputError, Interrupted, NumericsError, Problem, ResourceError
from customize.families import Source, locate
from customize.families.files.autoencoder import locate_autoencoder
from customize.inference.masks import Mask, mask_of, open_mask
from customize.inference.metadata.seeds import with_seed
from customize.inference.run import image_folder, image_summary, merge
from customize.inference.run.extra_networks import BREAKS, resolve_grid
from customize.inference.run.grid import grid
from customize.inference.run.job import Job
from customize.printable import first_few, printable
from customize.prompts import CALLS, parse
from customize.settings.environment import fp16_problems
from customize.settings.inference import InferenceSettings
from customize.storage import out_of_memory
from customize.storage.resources import resources
from customize.storage.untrusted_files import unreadable
from customize.weights.learned_weights import find_learned

if TYPE_CHECKING:
    from PIL.Image import Image

    from customize.inference.metadata.reproduce import Like

LATENT_WARNING = (
    "views move latents here, and an autoencoder is not equivariant: a turned latent decodes to about the turned picture, which "
    "shows as strokes and seams. --illusion looking_glass works on pixels, a decode and two encodes for each view and step"
)
FOR_DISK = "make room, or name an --output_dir on another disk"
FOR_MEMORY = "take a smaller --batch_size, a smaller picture, or --mixed_precision bf16"


def run(settings: InferenceSettings) -> None:
    """Generates `num_images` pictures of each prompt, at every value that is swept, into `output_dir` or a new folder.

    Written there: 000.png, 001.png, ..., numbered on from what is there, that carry their settings, each as it is finished;
    config.toml, with which they come out again; sheet.png for 2 to `output.MOST_ON_SHEET` images; trace.jsonl and what
    `observers.Observers.write` names. With `like`, says whether the picture came out the same.
    With `merge` no picture, but what `merge.run` says.
    Raises InputError before anything is written; ResourceError when memory or disk give out, Interrupted when a signal
    comes: what is finished stays, and they tell how to go on.
    """
    if settings.merge is not None:
        return merge.run(settings)
    settings = with_seed(settings)
    job = check(settings)
    for note in notes(settings, job):
        events.warn(note)
    count, plain = len(job.grid.requests), on_its_own(settings)
    with raised_signals(), resources(FOR_MEMORY, FOR_DISK):
        from customize.inference.run.generate import PipelineCache, generate_batches
        from customize.inference.run.output import write_images

        requests = job.grid.requests
        source = base_of(requests[0].settings)
        device = machine.describe(machine.best_device())
        events.summarize("started", image_summary.before_loading(plain, requests, source, device))
        models = PipelineCache()
        models.load(job.grid.requests[0].settings)
        if settings.lesson == "none":
            models.check_steps(job.grid)
        if removed := image_folder.removal(settings):
            names = first_few([path.name for path in removed])
            events.info(f"overwrite_output_dir removes {len(removed)} files of earlier runs in {settings.output_dir}: {names}")
        with image_folder.claimed(plain, count) as place:
            events.summarize("started", [("folder", printable(place.folder))])
            try:
                with resources(FOR_MEMORY, FOR_DISK):
                    write_images(plain, job.grid, place, generate_batches(plain, job, models, place.image, place.finished.copy()))
            except (ResourceError, NumericsError) as error:
                raise type(error)(f"{error}\n{place.how_to_go_on}") from error
            except Interrupted as error:
                raise Interrupted(error.signal, f"stopped; {place.how_to_go_on}") from error
    events.summarize("finished", image_summary.finished(plain, requests, place))
    if job.like and job.is_reproduction:
        events.info(f"{settings.like}: {job.like.verdict(open_image(place.image(0)))}")


@contextmanager
def raised_signals() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP are raised as Interrupted meanwhile: every file is whole at any moment."""

    def receive(number: int, frame: object) -> None:
        raise Interrupted(signal.Signals(number), "stopped")

    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():  # where no handler can be set
        numbers = []
    previous = {number: signal.signal(number, receive) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def check(settings: InferenceSettings) -> Job:
    """Raises one InputError for all that is wrong with files and folders; torch is not needed for it."""
    problems: list[Problem] = []

    def attempt(look: Callable[[], Any]) -> Any:
        try:
            return look()
        except InputError as error:
            if out_of_memory.gave_out(error):
                raise
            problems.extend(each for each in error.problems if each not in problems)
        except OSError as error:
            if out_of_memory.gave_out(error):
                raise
            problems.append(unreadable(error))

    if settings.prompt_file is not None:
        what = f"{settings.prompt_file} has not been read"
        problems.append(Problem("prompt_file", what, "make the settings by customize.read_settings"))
    attempt(lambda: image_folder.check(on_its_own(settings)))
    like = attempt(lambda: likened(settings))
    found = attempt(lambda: resolve_grid(grid(on_its_own(settings))))
    different = {request.settings: None for request in found.requests} if found else [settings]
    images: dict[str, Image] = {}
    masks: dict[Mask, Image] = {}
    remarks: list[str] = []
    colours: list[str] = []
    models: set[tuple] = set()
    for each in different:
        if (model := (each.pretrained_model_name_or_path, each.variant, each.weights)) not in models:
            models.add(model)
            attempt(lambda each=each: check_model(each))
        for name, prompts in ("prompt", each.prompt), ("negative_prompt", [each.negative_prompt]):
            for prompt in () if each.plain_prompt else prompts:
                if found or not CALLS.search(prompt):
                    attempt(lambda name=name, prompt=prompt: parse(prompt, name))
        if each.image and each.image not in images:
            images[each.image] = attempt(lambda each=each: open_image(each.image, remarks=colours))
        if (drawn := mask_of(each)) and drawn not in masks:
            masks[drawn], told = attempt(lambda drawn=drawn, each=each: open_mask(*drawn, images[each.image])) or (None, ())
            remarks += [note for note in told if note not in remarks]
    problems += fp16_problems(settings)
    if not problems:
        problems += would_be_removed(settings, image_folder.removal(settings))
    if problems:
        raise InputError(problems)
    return Job(found, images, masks, like, (*remarks, *(f"image: {printable(remark)}" for remark in colours)))


def would_be_removed(settings: InferenceSettings, removed: Sequence[Path]) -> Iterator[Problem]:
    """What is read and would be removed, being told to overwrite."""
    doomed = {os.path.realpath(path) for path in removed}
    weights = [("weights", path) for path, _ in settings.weights_and_scales]
    for name, path in (("image", settings.image), ("mask_image", settings.mask_image), ("like", settings.like), *weights):
        if path and os.path.realpath(path) in doomed:
            what = f"{path} is what overwrite_output_dir would remove"
            yield Problem(name, what, "leave overwrite_output_dir out: images number on")


def likened(settings: InferenceSettings) -> "Like | None":
    """The picture that others are to be made like, if there is one. Raises InputError."""
    if settings.like is None:
        return None
    from customize.inference.metadata.reproduce import Like

    like = Like.read(settings.like)
    like.check(settings)
    return like


def on_its_own(settings: InferenceSettings) -> InferenceSettings:
    """The settings, which hold all that was taken from another picture, without its name."""
    return settings.model_copy(update={"like": None})


def notes(settings: InferenceSettings, job: Job) -> list[str]:
    """What the user should know before it starts."""
    of_latents = [LATENT_WARNING] if settings.illusion in ("anagram", "alternating_anagram") else []
    broken = any(BREAKS.search(text) for text in (*settings.prompt, settings.negative_prompt))
    of_prompts = ["a line break or tab in a prompt counts as a blank"] if broken else []
    return [*(job.like.told.notes if job.like else ()), *job.remarks, *of_latents, *of_prompts]


def base_of(settings: InferenceSettings) -> Source:
    """The base model of the weights, or the one that is named."""
    learned = find_learned(settings.pretrained_model_name_or_path, settings.weights_and_scales)
    return locate(learned.base or "demo", revision=settings.revision, variant=settings.variant)


def check_model(settings: InferenceSettings) -> None:
    """Raises InputError when weights or base model are not there or not sound."""
    learned = find_learned(settings.pretrained_model_name_or_path, settings.weights_and_scales)
    if not learned.files:
        locate(learned.base or "demo", variant=settings.variant)
    if settings.vae:
        locate_autoencoder(settings.vae)
