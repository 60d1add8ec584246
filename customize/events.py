"""Events that long jobs report, and how they reach their consumers.

A job calls `emit`; its caller receives the events:

    with events.sent_to(print):
        customize.train(settings)

Without a consumer, events are dropped, so the Python API is silent. The command line prints events
(`customize.cli.terminal`); a web page could be another consumer.

The consumer is a context variable instead of a parameter, because notes arise many calls below the job, in modules that
have nothing to do with reporting: a file system without locks, a damaged cache entry, a file that is kept because it
belongs to the user. A job whose events are its result (generating images, verifying a folder) yields them instead.
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
    """Base class of events. Texts may contain any characters: consumers make them printable."""


@dataclass(frozen=True)
class Message(Event):
    """A text for the user. info: progress; note: something worth knowing; warning: something to check."""

    text: str
    level: Level = "info"


@dataclass(frozen=True)
class Summary(Event):
    """Facts about the job at a stage, as rows of a heading and a text; an empty heading continues the row above."""

    stage: Stage
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Progress(Event):
    """`done` of `total` images of a kind are done; the first event has `done` 0."""

    description: str
    unit: str
    done: int
    total: int


@dataclass(frozen=True)
class RunBegun(Event):
    """A run has locked its folder, and writes into it from now on. device: its name."""

    folder: Path
    device: str


@dataclass(frozen=True)
class RunEnded(Event):
    """A run is about to unlock its folder. error: what ended it; None if it is finished."""

    error: BaseException | None = None


@dataclass(frozen=True)
class Phase(Event):
    """What a job does from now on, in a few words; the next step ends it."""

    text: str


@dataclass(frozen=True)
class TrainingStarted(Event):
    """The first step is about to start. step: the number of steps done before resuming, or 0."""

    step: int
    max_train_steps: int


@dataclass(frozen=True)
class StepDone(Event):
    """An optimizer step is done. smoothed_loss: exponential mean of the losses, with weight 0.05 for the newest.

    seconds_per_step, seconds_left: None before the second step; the latter includes validation and checkpoints.
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
    """The state after a step is saved in a folder."""

    step: int
    folder: Path


@dataclass(frozen=True)
class TrainingEnded(Event):
    """The last step is done, or the loop was stopped."""

    step: int


@dataclass(frozen=True)
class DenoisingStep(Event):
    """`done` of `total` network evaluations of the whole job are done."""

    done: int
    total: int


@dataclass(frozen=True)
class TimeEstimate(Event):
    """The seconds that `num_images` images take, estimated from the first `measured` of them."""

    num_images: int
    measured: int
    seconds: float


Consumer = Callable[[Event], None]
_consumers: ContextVar[tuple[Consumer, ...]] = ContextVar("consumers", default=())


@contextmanager
def sent_to(*consumers: Consumer) -> Iterator[None]:
    """Within this context, events go to these consumers only. Do not keep it open across a generator's `yield`."""
    token = _consumers.set(consumers)
    try:
        yield
    finally:
        _consumers.reset(token)


@contextmanager
def also_sent_to(*consumers: Consumer) -> Iterator[None]:
    """Within this context, events go to these consumers too, after the present ones."""
    with sent_to(*_consumers.get(), *consumers):
        yield


def emit(event: Event) -> None:
    """Send an event to the consumers, in order."""
    for consumer in _consumers.get():
        consumer(event)


def info(text: str) -> None:
    """Report progress."""
    emit(Message(text))


def note(text: str) -> None:
    """Report something worth knowing."""
    emit(Message(text, "note"))


def warn(text: str) -> None:
    """Report something that the user should check."""
    emit(Message(text, "warning"))


def summarize(stage: Stage, rows: Iterable[tuple[str, str]]) -> None:
    """Report facts about the job at a stage."""
    emit(Summary(stage, tuple(rows)))
