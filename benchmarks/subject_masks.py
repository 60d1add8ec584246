"""How well masks of the subject agree with the truth on renderings of the demo world, whose objects and places are known.

`python benchmarks/subject_masks.py` (needs the font Noto Color Emoji) prints, for each class word, the intersection over union of
all masks and of those that are accepted, and how many empty scenes get a mask. The limits of `customize.evaluation.masks` were
set on the first set of objects; the second is only for testing.
"""

import argparse
import random
import sys
from dataclasses import dataclass
from unittest import mock

import numpy as np
from PIL import Image

from customize.demo.world import world
from customize.demo.world.glyphs import COLOURS, HELD_OUT_OBJECTS, OBJECTS, sprite
from customize.demo.world.scenes import BACKDROPS, SCENES, Dice, draw_scene
from customize.demo.world.world import LIGHT, Spec, render
from customize.evaluation.masks import LEAST_SURE, accepted, scaled
from customize.evaluation.masks.shape import Shape, shapes_of
from customize.evaluation.masks.word_maps import word_maps
from customize.evaluation.scorers.base_model import BaseModelScorer
from customize.families import load
from customize.families.source import locate

SETS = {
    "limits": "cat bus house strawberry cactus teapot umbrella dinosaur robot balloon penguin rocket",
    "test": "dog tractor castle pear mushroom crown drum teddy_bear parrot flying_saucer pumpkin fox",
}
SIDE, SPREADS, TOGETHER = 128, (1.0, 0.35), 6
"""Pictures of a class word are masked in calls of `TOGETHER`."""


@dataclass
class Picture:
    """A rendering, where its object is (None: there is none), and its class words."""

    image: Image.Image
    truth: np.ndarray | None
    words: dict[str, str]


def truth_of(spec: Spec, seed: str, spread: float) -> np.ndarray:
    """Where the object is: the same rendering with a white and with a black object differs there. Bool [SIDE, SIDE]."""

    def flat(value: int) -> np.ndarray:
        def silhouette(name: str, colour: str = "") -> Image.Image:
            shape = Image.new("RGBA", sprite(name, colour).size, (value, value, value, 0))
            shape.putalpha(sprite(name, colour).getchannel("A"))
            return shape

        with mock.patch.object(world, "sprite", silhouette):
            return np.asarray(render(spec, Dice(seed, spread), SIDE)).astype(float)

    return (flat(255) - flat(0)).max(-1) > 255 * max(LIGHT[spec.time]) / 2


def pictures(name: str) -> list[Picture]:
    """A rendering of each object of a set in each scene."""
    dice, made = random.Random(name), []
    for thing in SETS[name].split():
        for scene in ("plain", *SCENES):
            known = (OBJECTS | HELD_OUT_OBJECTS)[thing]
            colour = dice.choice(list(COLOURS)) if known.hue is not None and dice.random() < 0.5 else ""
            time = dice.choice(["day", "day", "night", "sunset"]) if SCENES[scene][2] else "day"
            backdrop = dice.choice(list(BACKDROPS)) if scene == "plain" else ""
            spec = Spec(thing, scene, colour, time, backdrop, dice.choice(["", "", "big", "small"]))
            seed, spread = f"{name} {len(made)}", SPREADS[len(made) % 2]
            words = {"class": known.kind, "noun": known.nouns[0]}
            made.append(Picture(render(spec, Dice(seed, spread), SIDE), truth_of(spec, seed, spread), words))
    return made


def empty_scenes() -> list[Picture]:
    """Scenes without an object, with a word for one."""
    made = []
    for number, scene in enumerate([*SCENES] * 4):
        time = ("day", "sunset", "night")[number % 3] if SCENES[scene][2] else "day"
        backdrop = list(BACKDROPS)[number % len(BACKDROPS)] if scene == "plain" else ""
        image = draw_scene(scene, time, backdrop, 4 * SIDE, Dice(f"empty {number}", 1.0)).reduce(4)
        words = {"class": ("animal", "vehicle", "fruit", "toy")[number % 4], "noun": ("cat", "bus", "apple", "bell")[number % 4]}
        made.append(Picture(image, None, words))
    return made


def shapes(base: BaseModelScorer, shown: list[Picture], kind: str) -> list[Shape]:
    """The shape in each picture, accepted or not, as `masks.subject_masks` finds it."""
    found: dict[int, Shape] = {}
    for word in sorted({picture.words[kind] for picture in shown}):
        places = [place for place, picture in enumerate(shown) if picture.words[kind] == word]
        for first in range(0, len(places), TOGETHER):
            some = places[first : first + TOGETHER]
            images = [shown[place].image for place in some]
            rows = [shapes_of(image, maps) for image, maps in zip(images, word_maps(base, images, word), strict=True)]
            best = int(np.argmax(np.mean([[shape.confidence for shape in row] for row in rows], 0)))
            found |= {place: row[best] for place, row in zip(some, rows, strict=True)}
    return [found[place] for place in range(len(shown))]


def report(name: str, kind: str, shown: list[Picture], found: list[Shape]) -> str:
    """A line of the table."""
    both = list(zip(shown, found, strict=True))
    taken = np.array([accepted(each.image, shape, "attention").pixels is not None for each, shape in both])
    if shown[0].truth is None:
        return f"{name:8} {kind:6} {taken.mean():.0%} of {len(shown)} empty scenes get a mask"
    pairs = [(scaled(shape.pixels, each.image.size), each.truth) for each, shape in both]
    union = np.array([(mask & truth).sum() / max((mask | truth).sum(), 1) for mask, truth in pairs if truth is not None])
    good = union[taken]
    everything = f"{name:8} {kind:6} all {len(union)}: mean {union.mean():.2f}, tenth {np.quantile(union, 0.1):.2f}"
    chosen = f"mean {good.mean():.2f}, tenth {np.quantile(good, 0.1):.2f}, below one half {(good < 0.5).mean():.1%}"
    return f"{everything}; accepted {taken.mean():.0%}: {chosen}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="take every so many pictures only")
    parser.add_argument("sets", nargs="*", default=[*SETS, "empty"])
    options = parser.parse_args()
    family = load(locate("demo"))
    base = BaseModelScorer(family, family.encode_prompts)
    print(f"intersection over union with the truth; accepted: confidence of at least {LEAST_SURE}")
    for name in options.sets:
        shown = (empty_scenes() if name == "empty" else pictures(name))[:: options.every]
        for kind in ("class", "noun"):
            print(report(name, kind, shown, shapes(base, shown, kind)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
