"""Draws the probe pictures of a run, and measures them against the user's photos and against the base model's pictures."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from customize.evaluation import measures
from customize.evaluation.record import BASE, FOLDER, Candidate, Evaluation
from customize.evaluation.scorers import Features, Scorer
from customize.inference.pipeline import Pipeline
from customize.storage import checkpoint, manifest
from customize.storage.atomic import new_folder
from customize.storage.untrusted_files import regular_file

PICTURES = "pictures"
BASE_FOLDER = "base"
"""The folder of the base model's pictures of the plain prompts."""
AT_ONCE = 8
"""Pictures that are drawn in one batch."""


@dataclass
class PictureProbe:
    """The probe of one run. Pictures are kept in the run's folder, and those that are there are not drawn again.

    evaluation: prompts and pairs; photos: the training images; options: of `Pipeline.generate`; base: a context in which the
    networks are the base model's; autocast: a context in which pictures are drawn.
    """

    pipeline: Pipeline
    evaluation: Evaluation
    scorer: Scorer
    photos: Sequence[Image.Image]
    folder: Path
    options: dict[str, Any]
    base: Callable[[], AbstractContextManager[Any]]
    autocast: Callable[[], AbstractContextManager[Any]]
    features: dict[str, Features] = field(default_factory=dict)

    def start(self) -> Candidate:
        """Draws and measures the base model, whose numbers are those of step 0; called before anything is measured."""
        with self.base():
            own = self.pictures(BASE_FOLDER, [self.evaluation.prompts[pair.prompt].plain for pair in self.evaluation.pairs])
            self.features = {"photos": self.scorer.features(self.photos)}
            self.features |= {kind: self.scorer.features(self.of_kind(own, kind)) for kind in ("concept", "class", "other")}
        return self.measure(BASE)

    def measure(self, step: int, scale: float = 1.0) -> Candidate:
        """The numbers of the present weights, which are those of `step` at this scale."""
        name = checkpoint.name(step) + (f"@{scale:g}" if scale != 1 else "")
        drawn = self.pictures(name, [self.evaluation.prompts[pair.prompt].text for pair in self.evaluation.pairs])
        with self.base():
            return Candidate(step, scale, self.values(drawn))

    def values(self, drawn: Sequence[Image.Image]) -> dict[str, tuple[float, ...]]:
        """The numbers of these pictures by measure, those of the pairs of the measure."""
        found = {}
        concept = self.of_kind(drawn, "concept")
        own, photos, base = self.scorer.features(concept), self.features["photos"], self.features["concept"]
        to_photos = measures.patch_similarity(own, photos)
        floor, ceiling = measures.patch_similarity(base, photos), measures.patch_similarity(photos, photos)
        ceiling = measures.leave_one_out(ceiling)
        found["likeness"] = measures.anchored(to_photos.mean(1), floor.mean(1), ceiling)
        found["nearer"] = measures.nearer(to_photos, measures.patch_similarity(own, base))
        plain = list(dict.fromkeys(each.plain for each in self.evaluation.prompts if each.kind == "concept"))
        pairs = self.evaluation.pairs_of("obedience")
        if (match := self.scorer.match(concept, plain)) is not None:
            places = [plain.index(self.evaluation.prompts[pair.prompt].plain) for pair in pairs]
            found["obedience"] = measures.obedience(match, torch.tensor(places))
        found["copying"] = measures.copying(own.pooled @ photos.pooled.T)
        found["variety"] = measures.variety(own, torch.tensor([pair.prompt for pair in pairs]), base)
        if of_class := self.of_kind(drawn, "class"):
            seen = measures.patch_similarity(self.scorer.features(of_class), photos)
            found["class likeness"] = measures.anchored(seen.mean(1), floor.mean(1), ceiling)
        if other := self.of_kind(drawn, "other"):
            found["drift"] = measures.drift(self.scorer.features(other), self.features["other"])
        return {name: tuple(values.double().tolist()) for name, values in found.items() if values.isfinite().all()}

    def of_kind(self, pictures: Sequence[Image.Image], kind: str) -> list[Image.Image]:
        """Those pictures whose prompt is of this kind."""
        of = [self.evaluation.prompts[pair.prompt].kind for pair in self.evaluation.pairs]
        return [picture for picture, own in zip(pictures, of, strict=True) if own == kind]

    def pictures(self, name: str, texts: Sequence[str]) -> list[Image.Image]:
        """The pictures in the folder of this name, a picture for each pair; drawn with these prompts if they are not there."""
        folder = self.folder / FOLDER / PICTURES / name
        if not manifest.faults(folder) and (folder / manifest.NAME).exists():
            return [read_picture(folder / f"{place:03d}.png") for place in range(len(texts))]
        drawn = self.draw(texts)
        with new_folder(folder) as unfinished:
            for place, picture in enumerate(drawn):
                picture.save(unfinished / f"{place:03d}.png")
            manifest.write(unfinished)
        return drawn

    def draw(self, texts: Sequence[str]) -> list[Image.Image]:
        """A picture for each pair. Equal prompts with equal seeds are drawn once."""
        wanted = list(dict.fromkeys(zip(texts, (pair.seed for pair in self.evaluation.pairs), strict=True)))
        found = {}
        for first in range(0, len(wanted), AT_ONCE):
            batch = wanted[first : first + AT_ONCE]
            with self.autocast():
                drawn = self.pipeline.generate(
                    [text for text, _ in batch], seeds=[seed for _, seed in batch], plain_prompt=True, **self.options
                )
            found |= dict(zip(batch, drawn, strict=True))
        return [found[text, pair.seed] for text, pair in zip(texts, self.evaluation.pairs, strict=True)]


def read_picture(path: Path) -> Image.Image:
    """A picture that was written by `pictures`."""
    with regular_file(path) as stream, Image.open(stream, formats=["PNG"]) as image:
        return image.convert("RGB")
