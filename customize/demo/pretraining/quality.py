"""What the demo model paints when it is asked for something, judged by the demo world's judge, part by part."""

import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from customize.demo.judge import JudgedWorld, Rate, Rates, ask, parts, rates
from customize.demo.pretraining.tiny_autoencoder import encode
from customize.demo.world.glyphs import OBJECTS
from customize.demo.world.scenes import SCENES
from customize.demo.world.styles import sample_style
from customize.demo.world.world import HELD_OUT_COMBINATIONS, PLACES, TIMES, Spec, World, caption
from customize.inference.pipeline import Pipeline
from customize.settings.common import BASE_MODEL, MANY, Settings
from customize.settings.field import again, setting
from customize.settings.frozen_model import Validated

SEED = 3003  # of the prompts; no generator and no judge is trained on this world
GUIDANCE_SCALES = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
ON_SHEET = 96  # prompts that are listed
KINDS = ("animal", "vehicle", "building", "fruit", "plant")  # words for several things that a picture may show
Part = Literal["ceiling", "prompts", "combinations", "guidance", "negatives"]


class ReportSettings(Validated):
    """Measure the demo model with the demo world's judge (the part `ceiling` needs the font Noto Color Emoji)."""

    command: ClassVar[str] = "-m customize.demo.pretraining.quality_report"

    model: str = setting("demo", "model", BASE_MODEL, text="model")
    parts: tuple[Part, ...] = setting(("ceiling", "prompts", "combinations", "guidance", "negatives"), "inference", "what to do")
    guidance_scale: float = setting(4.0, "inference", "guidance of all parts but `guidance`", ge=1, le=100)
    num_inference_steps: int = setting(20, "inference", "steps of DPM-Solver++ (2M)", ge=1, le=1000)
    batch_size: int = setting(25, "inference", "pictures at a time", ge=1, le=1024)
    num_pictures: int = setting(500, "inference", "random prompts", ge=1, le=MANY)
    num_combinations: int = setting(120, "inference", "prompts of combinations that were held out", ge=1, le=MANY)
    num_guidance: int = setting(200, "inference", "random prompts at each guidance", ge=1, le=MANY)
    num_negatives: int = setting(100, "inference", "prompts with a negative one, for things and places", ge=2, le=MANY)
    output_dir: str = again(Settings, "output_dir", "runs/demo_report")


class Painter:
    """Draws prompts with a pipeline, each but once."""

    def __init__(self, pipeline: Pipeline, settings: ReportSettings):
        self.pipeline, self.settings = pipeline, settings
        self.drawn: dict[tuple, np.ndarray] = {}

    def __call__(
        self, prompts: Sequence[str], guidance_scale: float | None = None, negatives: Sequence[str] | None = None
    ) -> np.ndarray:
        """uint8 [N, 64, 64, 3]; prompt i has seed i. A picture depends on nothing else in its batch."""
        scale = guidance_scale or self.settings.guidance_scale
        wanted = [(*both, seed, scale) for seed, both in enumerate(zip(prompts, negatives or [""] * len(prompts), strict=True))]
        missing = [key for key in wanted if key not in self.drawn]
        for start in range(0, len(missing), self.settings.batch_size):
            batch = missing[start : start + self.settings.batch_size]
            words, unwanted, seeds, _ = zip(*batch, strict=True)
            pictures = self.pipeline.generate(
                words,
                negative_prompt=unwanted,
                seeds=seeds,
                guidance_scale=scale,
                num_inference_steps=self.settings.num_inference_steps,
                scheduler="DPMSolverMultistepScheduler",
            )
            self.drawn |= {key: np.asarray(picture) for key, picture in zip(batch, pictures, strict=True)}
            print(f"{start + len(batch)} of {len(missing)} at guidance {scale:g}", file=sys.stderr)
        return np.stack([self.drawn[key] for key in wanted])


def prompt(spec: Spec, key: str) -> str:
    """One way to ask for `spec`, in which the thing is called by its name and not by its kind."""
    dice = random.Random(f"prompt {SEED} {key}")
    return caption(spec, dice, dice.choice(OBJECTS[spec.object].nouns))


def random_prompts(count: int) -> tuple[list[str], list[Spec]]:
    """Prompts as the world's training pictures have them, and what they ask for."""
    specs = [World().spec(SEED, index) for index in range(count)]
    return [prompt(spec, str(index)) for index, spec in enumerate(specs)], specs


def rates_by_style(judge, pictures: np.ndarray, specs: Sequence[Spec]) -> dict[str, Rates]:
    """Rates of all, of the unstyled and of the styled pictures."""
    chosen = {name: part for name, part in parts(specs).items() if part}
    return {name: rates(judge, pictures[part], [specs[index] for index in part]) for name, part in chosen.items()}


def ceiling(painter: Painter, judge, settings: ReportSettings) -> dict[str, dict[str, Rates]]:
    """The judge on renderings of what the random prompts ask for, as they are and through the autoencoder."""
    specs = random_prompts(settings.num_pictures)[1]
    pixels = np.stack([np.asarray(World().render(spec, SEED, index)) for index, spec in enumerate(specs)])
    latents = encode(painter.pipeline.family.components["vae"], pixels).chunk(2, 1)[0]
    returned = np.stack([np.asarray(picture) for picture in painter.pipeline.decode(latents, 64)])
    return {
        "renderings": rates_by_style(judge, pixels, specs),
        "renderings through the autoencoder": rates_by_style(judge, returned, specs),
    }


def prompts(painter: Painter, judge, settings: ReportSettings) -> dict[str, Any]:
    """Random prompts, and which things are found least often: (name, found, asked, what was seen most in their place)."""
    words, specs = random_prompts(settings.num_pictures)
    pictures = painter(words)
    answers = ask(judge, pictures).to("object")
    found: dict[str, Counter[str]] = {}
    for spec, answer in zip(specs, answers, strict=True):
        found.setdefault(spec.object, Counter())[answer] += 1
    things = [
        (name, seen[name], seen.total(), next((other for other, _ in seen.most_common(2) if other != name), ""))
        for name, seen in found.items()
    ]
    by_share = sorted(things, key=lambda thing: (thing[1] / thing[2], -thing[2], thing[0]))
    return {"rates": rates_by_style(judge, pictures, specs), "things": by_share, "prompts": words[:ON_SHEET]}


def counterparts(combinations: Sequence[dict[str, str]] = HELD_OUT_COMBINATIONS) -> list[dict[str, str]]:
    """Each combination with the object of another one, so that none is held out: the same objects, the same rest."""
    for shift in range(1, len(combinations)):
        objects = [combinations[(place + shift) % len(combinations)]["object"] for place in range(len(combinations))]
        seen = [part | {"object": name} for part, name in zip(combinations, objects, strict=True)]
        paintable = all("colour" not in part or OBJECTS[part["object"]].hue is not None for part in seen)
        if paintable and not any(part.items() >= held_out.items() for part in seen for held_out in combinations):
            return seen
    raise ValueError("no rotation of the objects avoids all that is held out")


def filled(part: dict[str, str], key: str, seen: bool) -> Spec:
    """A spec with the fields of `part`, all else by chance, half of them in a style; `seen`: nothing held out."""
    world, dice = JudgedWorld(objects=tuple(OBJECTS)), random.Random(f"filled {SEED} {key}")
    style = sample_style(dice, world.effects, world.combined) if dice.random() < World().styled else ()
    while True:
        spec = replace(world.mixed(dice, **part), style=style)
        if not seen or not any(spec.matches(held_out) for held_out in HELD_OUT_COMBINATIONS):
            return spec


def combinations(painter: Painter, judge, settings: ReportSettings) -> dict[str, dict[str, Rates]]:
    """Known things that were never together in training, against pairs that were, in the same styles."""
    result = {}
    for name, table in (("never seen together", HELD_OUT_COMBINATIONS), ("seen together", counterparts())):
        seen = name == "seen together"
        specs = [filled(table[index % len(table)], str(index), seen) for index in range(settings.num_combinations)]
        words = [prompt(spec, f"combination {index}") for index, spec in enumerate(specs)]
        result[name] = rates_by_style(judge, painter(words), specs)
    return result


def guidance(painter: Painter, judge, settings: ReportSettings) -> dict[str, Rates]:
    """The same prompts and seeds at several guidance scales."""
    words, specs = random_prompts(settings.num_guidance)
    return {f"{scale:g}": rates(judge, painter(words, scale), specs) for scale in GUIDANCE_SCALES}


@dataclass(frozen=True)
class Still:
    """How often a picture still shows what it showed, when that, or something else, is named in the negative prompt."""

    itself: Rate
    another: Rate


def negatives(painter: Painter, judge, settings: ReportSettings) -> dict[str, Still]:
    """Pictures of prompts that leave thing or place open; then the same noise, with a negative prompt.

    For every other picture the negative prompt names what the picture showed, else something of the same sort.
    """
    dice, count = random.Random(f"negatives {SEED}"), settings.num_negatives
    kinds = [KINDS[index % len(KINDS)] for index in range(count)]
    places = [PLACES[dice.choice([scene for scene in SCENES if scene != "plain"])][0] for _ in kinds]
    of_things = [f"{with_article(kind)} {place}" for kind, place in zip(kinds, places, strict=True)]

    def another_thing(index: int, shown: str) -> str:
        return dice.choice([name for name, thing in OBJECTS.items() if thing.kind == kinds[index] and name != shown])

    times = [dice.choice([phrase for phrases in TIMES.values() for phrase in phrases if phrase]) for _ in range(count)]
    nouns = [dice.choice(dice.choice(list(OBJECTS.values())).nouns) for _ in range(count)]
    of_places = [f"{with_article(noun)} {time}" for noun, time in zip(nouns, times, strict=True)]
    under_the_sky = [scene for scene, (_, _, has_sky) in SCENES.items() if has_sky]

    def another_place(index: int, shown: str) -> str:
        return dice.choice([scene for scene in under_the_sky if scene != shown])

    def name_of(thing: str) -> str:
        return with_article(thing.replace("_", " "))

    def place_of(scene: str) -> str:
        return PLACES[scene][0].format(backdrop="plain")

    return {
        "thing": still(painter, judge, "object", of_things, another_thing, name_of),
        "place": still(painter, judge, "scene", of_places, another_place, place_of),
    }


def with_article(noun: str) -> str:
    """ "a house", "an animal"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def still(
    painter: Painter,
    judge,
    question: str,
    prompts: Sequence[str],
    another: Callable[[int, str], str],
    phrase: Callable[[str], str],
) -> Still:
    """Draws the prompts without and with negative prompts. another: (index, shown) -> something else that is named."""
    shown = ask(judge, painter(prompts)).to(question)
    unwanted = [phrase(answer if index % 2 == 0 else another(index, answer)) for index, answer in enumerate(shown)]
    after = ask(judge, painter(prompts, negatives=unwanted)).to(question)
    kept = [before == now for before, now in zip(shown, after, strict=True)]
    return Still(*(Rate(sum(kept[first::2]), len(kept[first::2])) for first in (0, 1)))


PARTS: dict[str, Callable[[Painter, Any, ReportSettings], Any]] = {
    "ceiling": ceiling,
    "prompts": prompts,
    "combinations": combinations,
    "guidance": guidance,
    "negatives": negatives,
}
