"""Measures how well scorers tell subjects apart on photographs: no training, real photos take the place of generated pictures.

    git clone https://github.com/google/dreambooth
    python benchmarks/photo_likeness.py dreambooth/dataset --scorer efficientnet

The folder has one folder of photos for each subject. CLASSES are the subjects of the DreamBooth dataset (Ruiz et al. 2023) that
share a class with others; all others only take part where all subjects are compared with all.

Printed are the areas under the curve of photos of the same subject against photos of others, for the similarity of whole images
and for that of patches, on which likeness rests; and likeness itself, as in `picture_probe.py`, of each photo that was left out.
There the pictures of the class are photos of other subjects of it: four of them are the floor, the others should be at 0.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from customize.evaluation import measures
from customize.evaluation.scorers import Features
from customize.evaluation.scorers.efficientnet import EfficientNetScorer
from customize.evaluation.scorers.transformers_models import TransformersScorer
from customize.evaluation.verdict import LEARNED

CLASSES = (
    ("backpack", "backpack_dog"),
    ("bear_plushie", "grey_sloth_plushie", "wolf_plushie"),
    ("cat", "cat2"),
    ("colorful_sneaker", "shiny_sneaker"),
    ("dog", "dog2", "dog3", "dog5", "dog6", "dog7", "dog8"),
    ("duck_toy", "monster_toy", "poop_emoji", "rc_car", "robot_toy"),
)
FLOOR = 4
"""Photos of other subjects of the class that stand for the base model's pictures."""


def photos(folder: Path) -> tuple[list[Image.Image], list[str]]:
    """The photos in the folders of a folder, at most 512 pixels wide and high, and their subjects."""
    found, subjects = [], []
    for path in sorted(folder.glob("*/*")):
        if path.suffix.lower() in (".jpg", ".jpeg", ".png"):
            image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
            image.thumbnail((512, 512))
            found.append(image)
            subjects.append(path.parent.name)
    return found, subjects


def area(same: Tensor, others: Tensor) -> float:
    """How often a number of `same` is above one of `others`."""
    above, equal = same[:, None] > others, same[:, None] == others
    return float(above.double().mean() + 0.5 * equal.double().mean())


def some(features: Features, places: Sequence[int]) -> Features:
    """The features of some of the images."""
    return Features(features.pooled[list(places)], features.patches[list(places)])


def likeness(features: Features, own: Sequence[int], others: Sequence[int]) -> tuple[list[float], list[float]]:
    """The likeness of each photo of a subject when it is left out, and of photos of others; NaN where it cannot be measured."""
    mine, theirs = [], []
    for left_out in own:
        rest = some(features, [place for place in own if place != left_out])
        floor = measures.patch_similarity(some(features, others[:FLOOR]), rest).amax(1)
        ceiling = measures.without_itself(measures.patch_similarity(rest, rest))
        for places, into in ([left_out], mine), (others[FLOOR:], theirs):
            found = measures.patch_similarity(some(features, places), rest).amax(1)
            into += measures.anchored(found, floor, ceiling).tolist()
    return mine, theirs


def classes_of(subjects: Sequence[str]) -> list[str]:
    """The class of each photo; all subjects are of one class where the folder is not the DreamBooth dataset."""
    known = {name: names[0] for names in CLASSES for name in names}
    return [known.get(name, name) for name in subjects] if set(known) & set(subjects) else ["all"] * len(subjects)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scorer", default="efficientnet", help="efficientnet, or the folder of a model of transformers")
    arguments = parser.parse_args()
    images, subjects = photos(arguments.folder)
    named = arguments.scorer == "efficientnet"
    scorer = EfficientNetScorer() if named else TransformersScorer(Path(arguments.scorer), arguments.scorer)
    features, classes = scorer.features(images), classes_of(subjects)
    who, kind = np.array(subjects), np.array(classes)
    same = (who[:, None] == who) & ~np.eye(len(who), dtype=bool)
    all_others = who[:, None] != who
    of_class = all_others & (kind[:, None] == kind)
    print(f"{len(images)} photos of {len(set(subjects))} subjects, {scorer.name}")
    similarities = {"whole images": features.pooled @ features.pooled.T, "patches": measures.mutual(features, features)}
    for name, similarity in similarities.items():
        areas = [area(similarity[same], similarity[others]) for others in (all_others, of_class) if others.any()]
        print(
            f"{name}: same subject against all others, against others of its class: {', '.join(f'{each:.2f}' for each in areas)}"
        )
    own, others, count = [], [], 0
    for subject in dict.fromkeys(subjects):
        places = np.flatnonzero(who == subject).tolist()
        if (rest := np.flatnonzero(of_class[places[0]]).tolist()) and len(places) > 2:
            mine, theirs = likeness(features, places, rest)
            own, others, count = own + mine, others + theirs, count + len(places)
    mine, theirs = (torch.tensor(each)[~torch.tensor(each).isnan()] for each in (own, others))
    print(f"likeness can be measured for {len(mine)} of {count} photos that are left out")
    for name, each in ("same subject", mine), ("others of its class", theirs):
        low, middle, high = each.quantile(torch.tensor([0.1, 0.5, 0.9])).tolist()
        over = float((each > LEARNED["object"]).float().mean())
        print(f"{name}: median {middle:.2f}, tenths {low:.2f} and {high:.2f}; {over:.0%} above the limit of learned")
    print(f"same subject against others of its class: {area(mine, theirs):.2f}")


if __name__ == "__main__":
    main()
