"""What was measured of a run, and what follows from it: `evaluation/evaluation.json` in its folder. Without torch.

Every number of a picture is kept, not its average, so that intervals, choice and verdict can be computed again from the file.
"""

import json
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate, zip_longest
from math import inf
from pathlib import Path
from typing import Any, Literal, NamedTuple

from customize.errors import InputError, Problem
from customize.storage.json_files import read_object
from customize.storage.ownership import latest

FOLDER, NAME = "evaluation", "evaluation.json"
VERSION = 1
Kind = Literal["concept", "bare", "class", "other"]
BASE = 0
"""The step of the base model among the candidates."""
BASE_MODEL = "the base model"


@dataclass(frozen=True)
class ProbePrompt:
    """A prompt of the probe pictures.

    kind: "concept" has the trigger word and a scene, "bare" the trigger word alone, "class" has the class word instead, "other"
    has neither; plain: the prompt without the trigger, in words that the base model knows: its own pictures are drawn with it,
    and obedience is measured against it.
    """

    kind: Kind
    text: str
    plain: str


class Pair(NamedTuple):
    """A picture: a place in the prompts, and a seed. Numbers of different candidates are compared pair by pair."""

    prompt: int
    seed: int


class Measure(NamedTuple):
    """One of the measures of pictures. of: the kind of prompts that it is measured on; better: "high", "low" or "" (neither);
    least, most: the limits of its numbers."""

    of: Kind
    better: Literal["high", "low", ""]
    meaning: str
    least: float = -inf
    most: float = inf


MEASURES: dict[str, Measure] = {
    "likeness": Measure("concept", "high", "0: as the base model draws the class; 1: as your images are alike"),
    "nearer": Measure(
        "concept", "high", "share of comparisons in which the picture is nearer to your images than to the class", 0, 1
    ),
    "obedience": Measure(
        "concept", "high", "share of the other prompts that describe the picture worse than its own prompt", 0, 1
    ),
    "variety": Measure("concept", "high", "difference between seeds, relative to that of the base model", 0),
    "background": Measure("bare", "low", "likeness of what surrounds the subject to the surroundings in your images"),
    "copying": Measure("bare", "low", "0: as near to one of your images as these are to each other; 1: the same", 0, 1),
    "class likeness": Measure("class", "low", "likeness of pictures of the class to your images"),
    "drift": Measure("other", "low", "change of pictures of other things: 0 none, 1 as much as between unrelated pictures", 0),
}


@dataclass(frozen=True)
class Candidate:
    """The measurements of the weights of one step (0: the base model) at one scale.

    values: by measure, a number for each pair of its kind of prompts, in the order of `Evaluation.pairs_of`;
    losses: by probe set ("training", "held out", "class"), the loss of each noise band relative to the base model's.
    """

    step: int
    scale: float = 1.0
    values: dict[str, tuple[float, ...]] = field(default_factory=dict)
    losses: dict[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """What came of a run, in words. word: the first; findings: names of what else was found, such as "copies", "forgot the
    class", "overrides the prompt", "learned the background"; reasons and advice: sentences."""

    word: Literal["learned", "partly learned", "not learned", "cannot tell"]
    findings: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()


class Taught(NamedTuple):
    """One of several concepts of a run: its facts as those of an `Evaluation`. prompts: how many of the prompts are its own."""

    subject: Literal["object", "style", "person"]
    trigger: str
    class_word: str
    photos: int
    prompts: int


@dataclass(frozen=True)
class Evaluation:
    """Everything that was measured of a run.

    subject: "object", "style" or "person"; trigger, class_word: as in the prompts; scorer: its name, and why it was taken;
    photos: the number of training images of the concept, held_out: of those that were not trained on; anchors: further numbers;
    steps: those of the run; chosen: the step whose weights are the result; seconds: the time of all measurements;
    device: its name; options: how pictures are drawn; words: what is said of the learned vectors (`Method.report`); start: what
    losses and pictures are compared with, which is no base model where training begins with random weights; concepts: where a run
    teaches several, each of them, whose prompts follow one another.
    """

    subject: Literal["object", "style", "person"]
    trigger: str
    class_word: str
    scorer: str
    photos: int
    prompts: tuple[ProbePrompt, ...]
    pairs: tuple[Pair, ...]
    candidates: tuple[Candidate, ...] = ()
    held_out: int = 0
    steps: int = 0
    anchors: dict[str, float] = field(default_factory=dict)
    chosen: int | None = None
    stopped: str = ""
    verdict: Verdict | None = None
    seconds: float = 0.0
    device: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    words: str = ""
    start: str = BASE_MODEL
    concepts: tuple[Taught, ...] = ()

    def places(self) -> list[list[int]]:
        """The places in `pairs` of each concept."""
        ends = list(accumulate(each.prompts for each in self.concepts)) or [len(self.prompts)]
        found: list[list[int]] = [[] for _ in ends]
        for place, pair in enumerate(self.pairs):
            found[bisect_right(ends, pair.prompt)].append(place)
        return found

    def in_turn(self) -> list[int]:
        """All places in `pairs`, the first of each concept before the second of any."""
        return [place for places in zip_longest(*self.places()) for place in places if place is not None]

    def each(self) -> tuple["Evaluation", ...]:
        """The evaluation of each concept alone."""
        if not self.concepts:
            return (self,)
        first = [0, *accumulate(each.prompts for each in self.concepts)]
        return tuple(map(self.of_concept, self.concepts, first))

    def of_concept(self, taught: Taught, first: int) -> "Evaluation":
        """That of a concept. first: the place of the first of its prompts."""
        subject, trigger, class_word, photos, prompts = taught
        own = range(first, first + prompts)
        candidates = []
        for each in self.candidates:
            values = {
                name: tuple(value for value, pair in zip(numbers, self.pairs_of(name), strict=True) if pair.prompt in own)
                for name, numbers in each.values.items()
            }
            candidates.append(replace(each, values={name: numbers for name, numbers in values.items() if numbers}))
        return replace(
            self, subject=subject, trigger=trigger, class_word=class_word, photos=photos, concepts=(),
            prompts=self.prompts[first : first + prompts],
            pairs=tuple(Pair(pair.prompt - first, pair.seed) for pair in self.pairs if pair.prompt in own),
            candidates=tuple(candidates),
        )  # fmt: skip

    def pairs_of(self, measure: str) -> tuple[Pair, ...]:
        """The pairs behind the numbers of a measure."""
        return tuple(pair for pair in self.pairs if self.prompts[pair.prompt].kind == MEASURES[measure].of)

    def candidate(self, step: int, scale: float = 1.0) -> Candidate | None:
        """The measurements of a step at a scale."""
        return next((each for each in self.candidates if (each.step, each.scale) == (step, scale)), None)

    def with_candidate(self, found: Candidate) -> "Evaluation":
        """The same with these measurements, in place of earlier ones of the same step and scale."""
        others = [each for each in self.candidates if (each.step, each.scale) != (found.step, found.scale)]
        return replace(self, candidates=tuple(sorted([*others, found], key=lambda each: (each.step, each.scale))))

    def to_json(self) -> str:
        """The text of the file."""
        return json.dumps({"version": VERSION, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"


def place_of(folder: Path) -> Path:
    """The file of a run, which has another name where a file that is not ours, such as a damaged one, has this one."""
    return latest(folder / FOLDER / NAME, folder)


def read(folder: Path) -> Evaluation:
    """The evaluation of a run. Raises FileNotFoundError if there is none, InputError for a damaged file."""
    path = place_of(folder)
    try:
        return from_values(read_object(path))
    except FileNotFoundError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        remedy = f"remove it, and measure again: customize score {folder}"
        raise InputError(Problem(str(path), f"cannot be read ({error})", remedy)) from error


def from_values(values: Mapping[str, Any]) -> Evaluation:
    """The evaluation from the values in its file."""
    own = {name: value for name, value in values.items() if name != "version"}
    own["prompts"] = tuple(ProbePrompt(**each) for each in own["prompts"])
    own["pairs"] = tuple(Pair(*each) for each in own["pairs"])
    own["concepts"] = tuple(Taught(*each) for each in own.get("concepts", ()))
    own["candidates"] = tuple(
        Candidate(
            each["step"],
            each["scale"],
            {name: tuple(numbers) for name, numbers in each["values"].items()},
            {name: tuple(numbers) for name, numbers in each["losses"].items()},
        )
        for each in own["candidates"]
    )
    if own["verdict"] is not None:
        own["verdict"] = Verdict(**{k: tuple(v) if isinstance(v, list) else v for k, v in own["verdict"].items()})
    return Evaluation(**own)
