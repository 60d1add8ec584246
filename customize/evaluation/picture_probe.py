"""Draws the probe pictures of a run, and measures them against the user's photos and against the base model's pictures."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from PIL import Image
from torch import Tensor

from customize.evaluation import measures
from customize.evaluation.record import BASE, FOLDER, Candidate, Evaluation, Kind
from customize.evaluation.scorers import Features, Scorer
from customize.inference.pipeline import Pipeline
from customize.storage import checkpoint, manifest
from customize.storage.atomic import new_folder
from customize.storage.untrusted_files import regular_file

PICTURES = "pictures"
BASE_FOLDER = "base"
"""The folder of the base model's pictures of the plain prompts."""
KINDS = get_args(Kind)
AT_ONCE = 8
"""Pictures that are drawn in one batch."""


@dataclass
class PictureProbe:
    """The probe of one run. Pictures are kept in the run's folder, and those that are there are not drawn again.

    evaluation: prompts and pairs; photos: the training images; options: of `Pipeline.generate`; base: a context in which the
    networks are the base model's; autocast: a context in which pictures are drawn; masks: [R, P] in [0, 1], the part of the
    subject in each patch of the photos, None where there are none; can_differ: whether the weights of a step may draw another
    picture of a prompt than the base model does: the pictures of all other prompts are not drawn again.
    """

    pipeline: Pipeline
    evaluation: Evaluation
    scorer: Scorer
    photos: Sequence[Image.Image]
    folder: Path
    options: dict[str, Any]
    base: Callable[[], AbstractContextManager[Any]]
    autocast: Callable[[], AbstractContextManager[Any]]
    masks: Tensor | None = None
    can_differ: Callable[[int, str], bool] = lambda step, prompt: step != BASE
    own: list[Image.Image] = field(default_factory=list)
    features: dict[str, Features] = field(default_factory=dict)

    def start(self) -> Candidate:
        """Draws and measures the base model, whose numbers are those of step 0; called before anything is measured."""
        self.own = self.of_base()
        with self.base():
            self.see()
        return self.measure(BASE)

    def see(self) -> None:
        """Takes the features of the photos, and of the base model's pictures."""
        self.features = {"photos": self.scorer.features(self.photos)}
        self.features |= {kind: self.scorer.features(of) for kind in KINDS if (of := self.of_kind(self.own, kind))}

    def measure(self, step: int, scale: float = 1.0) -> Candidate:
        """The numbers of the present weights, which are those of `step` at this scale."""
        drawn = self.of_weights(step, scale)
        with self.base():
            return Candidate(step, scale, self.values(drawn))

    def of_base(self) -> list[Image.Image]:
        """The base model's pictures of the plain prompts."""
        with self.base():
            return self.pictures(BASE_FOLDER, [self.evaluation.prompts[pair.prompt].plain for pair in self.evaluation.pairs])

    def of_weights(self, step: int, scale: float = 1.0) -> list[Image.Image]:
        """The pictures of the present weights, which are those of `step` at this scale; those that cannot differ from the base
        model's are taken from there."""
        prompts = [self.evaluation.prompts[pair.prompt] for pair in self.evaluation.pairs]
        same = [each.text == each.plain and not self.can_differ(step, each.text) for each in prompts]
        known = [picture if is_same else None for picture, is_same in zip(self.of_base(), same, strict=True)] if any(same) else []
        return self.pictures(folder_of(step, scale), [each.text for each in prompts], known)

    def values(self, drawn: Sequence[Image.Image]) -> dict[str, tuple[float, ...]]:
        """The numbers of these pictures by measure, those of the pairs of the measure. What cannot be measured is left out."""
        seen = {kind: self.seen(kind, pictures) for kind in KINDS if (pictures := self.of_kind(drawn, kind))}
        found = {**self.of_concept(drawn, seen["concept"]), **self.of_the_rest(seen)}
        return {name: tuple(each.double().tolist()) for name, each in found.items() if each is not None and each.isfinite().all()}

    def seen(self, kind: str, pictures: list[Image.Image]) -> Features:
        """The features of pictures of a kind: known, where they are the base model's."""
        is_known = self.own and pictures == self.of_kind(self.own, kind)
        return self.features[kind] if is_known else self.scorer.features(pictures)

    def of_concept(self, drawn: Sequence[Image.Image], own: Features) -> dict[str, Tensor | None]:
        """The numbers of the pictures of the concept."""
        photos, base = self.features["photos"], self.features["concept"]
        prompts = self.prompts_of("concept")
        plain = list(dict.fromkeys(self.evaluation.prompts[place].plain for place in prompts.tolist()))
        places = torch.tensor([plain.index(self.evaluation.prompts[place].plain) for place in prompts.tolist()])
        found = {"likeness": self.likeness(own), "variety": measures.variety(own, prompts, base)}
        if len(plain) < 2:
            return found
        found["nearer"] = measures.nearer(own, photos, base, prompts)
        if self.evaluation.subject == "style":
            found["obedience"] = measures.obedience_of_style(own, base, prompts)
        elif (match := self.scorer.match(self.of_kind(drawn, "concept"), plain)) is not None:
            found["obedience"] = measures.obedience(match, places)
        return found

    def of_the_rest(self, seen: dict[str, Features]) -> dict[str, Tensor | None]:
        """The numbers of all other pictures."""
        photos, found = self.features["photos"], {}
        if bare := seen.get("bare"):
            found["background"] = self.background(bare)
            found["copying"] = measures.copying(bare, photos)
        if of_class := seen.get("class"):
            found["class likeness"] = self.likeness(of_class)
        if other := seen.get("other"):
            found["drift"] = measures.drift(other, self.features["other"])
        return found

    def likeness(self, pictures: Features) -> Tensor | None:
        """The likeness of pictures to the photos: of the subject, or of the style."""
        photos, base = self.features["photos"], self.features["concept"]
        if self.evaluation.subject == "style":
            if pictures.style is None or base.style is None or photos.style is None:
                return None
            return measures.style_shift(pictures.style, base.style, photos.style)
        return self.found_in(pictures, base, self.masks)

    def background(self, bare: Features) -> Tensor | None:
        """How alike the surroundings in the bare pictures and in the photos are; None where the photos' own differ."""
        if self.masks is None:
            return None
        around, photos = 1 - self.masks, self.features["photos"]
        floor = measures.patch_similarity(self.features["bare"], photos, around).amax(1).mean()
        among = measures.without_itself(measures.patch_similarity(photos, photos, around)).mean()
        if not (among - floor) / (1 - floor) > measures.ONE_BACKGROUND:
            return None
        return self.found_in(bare, self.features["bare"], around)

    def found_in(self, pictures: Features, base: Features, mask: Tensor | None) -> Tensor:
        """How well the best fitting photo is found in each picture: 0 as in pictures of the base model, 1 as in other photos."""
        photos = self.features["photos"]
        seen, floor, among = (measures.patch_similarity(each, photos, mask) for each in (pictures, base, photos))
        return measures.anchored(seen.amax(1), floor.amax(1), measures.without_itself(among))

    def prompts_of(self, kind: str) -> Tensor:
        """The prompt of each picture of a kind, int64."""
        places = [pair.prompt for pair in self.evaluation.pairs]
        return torch.tensor([place for place in places if self.evaluation.prompts[place].kind == kind])

    def of_kind(self, pictures: Sequence[Image.Image], kind: str) -> list[Image.Image]:
        """Those pictures whose prompt is of this kind."""
        of = [self.evaluation.prompts[pair.prompt].kind for pair in self.evaluation.pairs]
        return [picture for picture, own in zip(pictures, of, strict=True) if own == kind]

    def pictures(self, name: str, texts: Sequence[str], known: Sequence[Image.Image | None] = ()) -> list[Image.Image]:
        """The pictures in the folder of this name, a picture for each pair; drawn with these prompts if they are not there.
        known: those that need not be drawn, None for others."""
        folder = self.folder / FOLDER / PICTURES / name
        if not manifest.faults(folder) and (folder / manifest.NAME).exists():
            return [read_picture(folder / f"{place:03d}.png") for place in range(len(texts))]
        drawn = self.draw(texts, known)
        with new_folder(folder) as unfinished:
            for place, picture in enumerate(drawn):
                picture.save(unfinished / f"{place:03d}.png")
            manifest.write(unfinished)
        return drawn

    def draw(self, texts: Sequence[str], known: Sequence[Image.Image | None] = ()) -> list[Image.Image]:
        """A picture for each pair, those that are known among them. Equal prompts with equal seeds are drawn once."""
        keys = list(zip(texts, (pair.seed for pair in self.evaluation.pairs), strict=True))
        found = {key: picture for key, picture in zip(keys, known, strict=False) if picture is not None}
        wanted = [key for key in dict.fromkeys(keys) if key not in found]
        for first in range(0, len(wanted), AT_ONCE):
            batch = wanted[first : first + AT_ONCE]
            with self.autocast():
                drawn = self.pipeline.generate(
                    [text for text, _ in batch], seeds=[seed for _, seed in batch], plain_prompt=True, **self.options
                )
            found |= dict(zip(batch, drawn, strict=True))
        return [found[key] for key in keys]


def folder_of(step: int, scale: float) -> str:
    """The folder of the pictures of a step at a scale."""
    return checkpoint.name(step) + (f"@{scale:g}" if scale != 1 else "")


def read_picture(path: Path) -> Image.Image:
    """A picture that was written by `pictures`."""
    with regular_file(path) as stream, Image.open(stream, formats=["PNG"]) as image:
        return image.convert("RGB")
