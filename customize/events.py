"""What a long job reports while it works, and the way to whoever wants to know.

A job calls `emit`; whoever starts it receives the events:

    with events.sent_to(print):
        customize.train(settings)

Nothing is received where nobody asked, so the Python API is silent. The command line prints events (`customize.cli.terminal`); a
web page is one more consumer.

The receiver is held in a context variable, not passed as a parameter, because notes arise many calls below the job, in
modules that have nothing to do with reporting: a lock on a file system without locks, a damaged entry of a cache, a file that
stays because it is the user's. A job whose events are its result (generating images, verifying a folder) yields them instead.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from PIL.Image import Image

Level = Literal["info", "note", "warning"]
Stage = Literal["started", "prepared", "saved", "finished"]


@dataclass(frozen=True)
class Event:
    """Something that happened. Texts are plain: whoever shows them makes them printable."""


@dataclass(frozen=True)
class Message(Event):
    """A text for the user. info: what happens; note: something worth knowing; warning: something to look at."""

    text: str
    level: Level = "info"


@dataclass(frozen=True)
class Summary(Event):
    """What is known of the job at a stage, as rows of a heading and a text; an empty heading continues the row above."""

    stage: Stage
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Progress(Event):
    """Images of a kind that are done, of those to be made; the first event has `done` 0."""

    description: str
    unit: str
    done: int
    total: int


@dataclass(frozen=True)
class TrainingStarted(Event):
    """The first step is about to be done. step: optimizer steps done by the run that is resumed, or 0."""

    step: int
    max_train_steps: int


@dataclass(frozen=True)
class StepDone(Event):
    """An optimizer step is done. smoothed_loss: exponential mean of the losses, of which the newest counts 0.05.

    seconds_per_step, seconds_left: None before the second step; the latter with what validation and checkpoints will take.
    """

    step: int
    max_train_steps: int
    loss: float
    smoothed_loss: float
    gradient_norm: float
    learning_rate: float
    seconds_per_step: float | None
    seconds_left: float | None


@dataclass(frozen=True)
class ValidationImagesDrawn(Event):
    """The images of each validation prompt after a step; step 0 is the base model."""

    step: int
    images: "Mapping[str, Sequence[Image]]"


@dataclass(frozen=True)
class CheckpointSaved(Event):
    """The state after a step is safe in a folder."""

    step: int
    folder: Path


@dataclass(frozen=True)
class TrainingEnded(Event):
    """The last step is done, or the loop was stopped."""

    step: int


@dataclass(frozen=True)
class DenoisingStep(Event):
    """Evaluations of the network that are done, of those that all images of the job take."""

    done: int
    total: int


@dataclass(frozen=True)
class TimeEstimate(Event):
    """The seconds that `num_images` take, measured on the first `measured` of them."""

    num_images: int
    measured: int
    seconds: float


Consumer = Callable[[Event], None]
_consumers: ContextVar[tuple[Consumer, ...]] = ContextVar("consumers", default=())


@contextmanager
def sent_to(*consumers: Consumer) -> Iterator[None]:
    """Within it events go to these consumers only; with none, to nobody. Not to be held across a generator's `yield`."""
    token = _consumers.set(consumers)
    try:
        yield
    finally:
        _consumers.reset(token)


def emit(event: Event) -> None:
    """Hands an event to the consumers, in their order."""
    for consumer in _consumers.get():
        consumer(event)


def info(text: str) -> None:
    """Reports what happens."""
    emit(Message(text))


def note(text: str) -> None:
    """Reports something worth knowing."""
    emit(Message(text, "note"))


def warn(text: str) -> None:
    """Reports something that the user should look at."""
    emit(Message(text, "warning"))


def summarize(stage: Stage, rows: Iterable[tuple[str, str]]) -> None:
    """Reports what is known of the job at a stage."""
    emit(Summary(stage, tuple(rows)))
