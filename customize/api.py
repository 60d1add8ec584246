"""The Python API besides settings and errors: jobs as function calls, which print nothing."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from customize import events, library_logs
from customize.errors import InputError, Problem
from customize.events import Event
from customize.settings.inference import InferenceSettings
from customize.settings.scoring import ScoreSettings
from customize.settings.training import TrainingSettings
from customize.storage import manifest, run_folder
from customize.storage.json_files import read_object

if TYPE_CHECKING:
    from PIL.Image import Image

    from customize.evaluation.record import Evaluation
    from customize.inference.run.generate import GeneratedBatch
    from customize.training.loop import Callback


@dataclass(frozen=True)
class GeneratedImage:
    """An image, and the prompts (an illusion has several) and the seed that it was generated with.

    settings: all settings of this image, without a sweep; metadata: the same as text chunks of a PNG, by name.
    """

    image: "Image"
    prompts: tuple[str, ...]
    seed: int
    settings: InferenceSettings
    metadata: Mapping[str, str]

    def save(self, path: str | Path) -> None:
        """Save as PNG, JPEG or WebP, by suffix, with the settings inside: `--like PATH` reproduces the image."""
        from customize.inference.metadata.write_png import saving
        from customize.storage.atomic import write_image

        kind = Path(path).suffix.lower().removeprefix(".").replace("jpeg", "jpg")
        write_image(Path(path), self.image, **saving(kind, dict(self.metadata)))


@dataclass(frozen=True)
class TrainingResult:
    """The result of a run in `folder`. files: the learned weights; trigger_words: the words that trigger them in a prompt, as
    in `example_prompt`; steps: the number of optimizer steps."""

    folder: Path
    files: tuple[Path, ...]
    trigger_words: tuple[str, ...]
    example_prompt: str
    steps: int

    @classmethod
    def read(cls, folder: str | Path) -> "TrainingResult":
        """Read the result from the folder of a finished run. Raises OSError if the run is not finished."""
        folder = Path(folder)
        metadata = read_object(folder / run_folder.METADATA)
        files = tuple(folder / name for name in manifest.read(folder) if name.endswith(".safetensors"))
        return cls(folder, files, tuple(metadata["trigger_words"]), metadata["example_prompt"], metadata["steps"])


def train(
    settings: TrainingSettings, on_event: Callable[[Event], None] | None = None, callbacks: "Sequence[Callback]" = ()
) -> TrainingResult | None:
    """Train according to the settings, like `train_dreambooth.py` and `train_textual_inversion.py`, and return the result.

    on_event: receives events (`customize.events`): steps, checkpoints, validation images, notes.
    callbacks: called by the loop in addition to its own (`customize.training.loop.Callback`); they may stop it.
    settings: the prompts of sample images are generated if `validation_prompt` is None, the default; () draws no sample images.
    With `dry_run` nothing is trained or returned. Raises InputError before anything is written, and ResourceError,
    NumericsError or Interrupted after the last good state is saved.
    """
    library_logs.quiet()
    from customize.jobs.progress import ProgressFile
    from customize.training import preflight

    with events.sent_to(on_event) if on_event else nullcontext(), events.also_sent_to(ProgressFile()):
        folder = preflight.run(settings, callbacks)
    return None if settings.dry_run else TrainingResult.read(folder)


def generate(settings: InferenceSettings, on_event: Callable[[Event], None] | None = None) -> Iterator[GeneratedImage]:
    """Generate images according to the settings, like `infer.py`, lazily and without writing files.

    on_event: receives events (`customize.events`): notes, and each denoising step.
    Raises InputError immediately for invalid settings and files, NumericsError for NaN and infinity.
    """
    library_logs.quiet()
    from customize.inference.run import command
    from customize.inference.run.model_checks import completed

    if settings.merge is not None:
        raise InputError(Problem("merge", "does not generate images", "run it as a command: customize infer --merge"))
    with events.sent_to(on_event) if on_event else nullcontext():
        settings = completed(settings)
        job = command.check(settings)
        for note in command.notes(settings, job):
            events.warn(note)

    def images() -> Iterator[GeneratedImage]:
        from customize.inference.run.generate import PipelineCache, generate_batches

        models = PipelineCache()
        models.load(job.grid.requests[0].settings)
        if settings.lesson == "none":
            models.check_steps(job.grid)
        drawn: GeneratedBatch
        for drawn in generate_batches(settings, job, models, lambda place: Path(f"{place:03d}.{settings.image_format}")):
            for place, image, texts in zip(drawn.places, drawn.images, drawn.texts, strict=True):
                request = job.grid.requests[place]
                yield GeneratedImage(image, request.prompts, request.seed, request.settings, texts)

    return received(images(), on_event) if on_event else images()


def received(images: Iterator[GeneratedImage], on_event: Callable[[Event], None]) -> Iterator[GeneratedImage]:
    """The same images; the events of generating each go to `on_event`, but not those of the caller between two images."""
    while True:
        with events.sent_to(on_event):
            image = next(images, None)
        if image is None:
            return
        yield image


def score(settings: ScoreSettings, on_event: Callable[[Event], None] | None = None) -> "Evaluation":
    """Measure what weights have learned, like `customize score`, and return the record: the numbers of every picture, and the
    verdict. Writes the same files.

    on_event: receives events (`customize.events`): rows, progress, notes.
    Raises InputError before anything is written, and ResourceError, NumericsError or Interrupted with what was measured kept.
    """
    library_logs.quiet()
    from customize.evaluation.score import after_the_fact

    with events.sent_to(on_event) if on_event else nullcontext():
        return after_the_fact.run(settings)


def check(settings: TrainingSettings | InferenceSettings) -> tuple[Problem, ...]:
    """All problems of the files that the settings name (images, captions, base model, folders); empty if a job would start.

    Writes nothing, and does not import torch. Problems of the settings themselves are raised when they are created.
    """
    from customize.inference.run import command, merge
    from customize.settings import environment
    from customize.training import preflight

    if isinstance(settings, TrainingSettings):
        return (*preflight.examine(settings).problems, *environment.lacking(settings))
    try:
        merge.check(settings) if settings.merge is not None else command.check(settings)
    except InputError as error:
        return error.problems
    return ()
