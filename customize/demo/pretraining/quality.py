"""Measures how well the demo model follows prompts, with the demo world's judge."""

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
from customize.settings.field import override, setting
from customize.settings.frozen_model import Validated

SEED = 3003  # of the prompts; no generator and no judge is trained on this world
GUIDANCE_SCALES = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
ON_SHEET = 96  # prompts that are listed
KINDS = ("animal", "vehicle", "building", "fruit", "plant")  # words for several objects
Part = Literal["ceiling", "prompts", "combinations", "guidance", "negatives"]


class ReportSettings(Validated):
    """Measure the demo model with the demo world's judge (the part `ceiling` needs the font Noto Color Emoji)."""

    command: ClassVar[str] = "-m customize.demo.pretraining.quality_report"

    model: str = setting("demo", "model", BASE_MODEL, text="model")
    parts: tuple[Part, ...] = setting(
        ("ceiling", "prompts", "combinations", "guidance", "negatives"), "inference", "parts of the report"
    )
    guidance_scale: float = setting(4.0, "inference", "guidance scale of all parts but `guidance`", ge=1, le=100)
    num_inference_steps: int = setting(20, "inference", "steps of DPM-Solver++ (2M)", ge=1, le=1000)
    batch_size: int = setting(25, "inference", "images per batch", ge=1, le=1024)
    num_pictures: int = setting(500, "inference", "random prompts", ge=1, le=MANY)
    num_combinations: int = setting(120, "inference", "prompts of held-out combinations", ge=1, le=MANY)
    num_guidance: int = setting(200, "inference", "random prompts per guidance scale", ge=1, le=MANY)
    num_negatives: int = setting(100, "inference", "prompts with a negative prompt, each of objects and scenes", ge=2, le=MANY)
    output_dir: str = override(Settings, "output_dir", "runs/demo_report")


class Painter:
    """Generates images with a pipeline, and caches them."""

    def __init__(self, pipeline: Pipeline, settings: ReportSettings):
        self.pipeline, self.settings = pipeline, settings
        self.drawn: dict[tuple, np.ndarray] = {}

    def __call__(
        self, prompts: Sequence[str], guidance_scale: float | None = None, negatives: Sequence[str] | None = None
    ) -> np.ndarray:
        """uint8 [N, 64, 64, 3]; prompt i has seed i. An image does not depend on the rest of its batch."""
        scale = guidance_scale or self.settings.guidance_scale
        keys = [(*both, seed, scale) for seed, both in enumerate(zip(prompts, negatives or [""] * len(prompts), strict=True))]
        missing = [key for key in keys if key not in self.drawn]
        for start in range(0, len(missing), self.settings.batch_size):
            batch = missing[start : start + self.settings.batch_size]
            words, negative_prompts, seeds, _ = zip(*batch, strict=True)
            images = self.pipeline.generate(
                words,
                negative_prompt=negative_prompts,
                seeds=seeds,
                guidance_scale=scale,
                num_inference_steps=self.settings.num_inference_steps,
                scheduler="DPMSolverMultistepScheduler",
            )
            self.drawn |= {key: np.asarray(image) for key, image in zip(batch, images, strict=True)}
            print(f"{start + len(batch)} of {len(missing)} at guidance {scale:g}", file=sys.stderr)
        return np.stack([self.drawn[key] for key in keys])


def prompt(spec: Spec, key: str) -> str:
    """A prompt for `spec` that names the object, not its kind."""
    dice = random.Random(f"prompt {SEED} {key}")
    return caption(spec, dice, dice.choice(OBJECTS[spec.object].nouns))


def random_prompts(count: int) -> tuple[list[str], list[Spec]]:
    """Random prompts like the captions of the training images, and their specs."""
    specs = [World().spec(SEED, index) for index in range(count)]
    return [prompt(spec, str(index)) for index, spec in enumerate(specs)], specs


def rates_by_style(judge, images: np.ndarray, specs: Sequence[Spec]) -> dict[str, Rates]:
    """Rates of all, of the unstyled and of the styled images."""
    chosen = {name: part for name, part in parts(specs).items() if part}
    return {name: rates(judge, images[part], [specs[index] for index in part]) for name, part in chosen.items()}


def ceiling(painter: Painter, judge, settings: ReportSettings) -> dict[str, dict[str, Rates]]:
    """The judge's rates on renderings of the random prompts' specs, directly and through the autoencoder."""
    specs = random_prompts(settings.num_pictures)[1]
    pixels = np.stack([np.asarray(World().render(spec, SEED, index)) for index, spec in enumerate(specs)])
    latents = encode(painter.pipeline.family.components["vae"], pixels).chunk(2, 1)[0]
    returned = np.stack([np.asarray(image) for image in painter.pipeline.decode(latents, 64)])
    return {
        "renderings": rates_by_style(judge, pixels, specs),
        "renderings through the autoencoder": rates_by_style(judge, returned, specs),
    }


def prompts(painter: Painter, judge, settings: ReportSettings) -> dict[str, Any]:
    """Rates of random prompts, and the objects recognised least often: (name, right, asked, most frequent wrong answer)."""
    words, specs = random_prompts(settings.num_pictures)
    images = painter(words)
    answers = ask(judge, images).to("object")
    found: dict[str, Counter[str]] = {}
    for spec, answer in zip(specs, answers, strict=True):
        found.setdefault(spec.object, Counter())[answer] += 1
    things = [
        (name, seen[name], seen.total(), next((other for other, _ in seen.most_common(2) if other != name), ""))
        for name, seen in found.items()
    ]
    by_share = sorted(things, key=lambda thing: (thing[1] / thing[2], -thing[2], thing[0]))
    return {"rates": rates_by_style(judge, images, specs), "things": by_share, "prompts": words[:ON_SHEET]}


def counterparts(combinations: Sequence[dict[str, str]] = HELD_OUT_COMBINATIONS) -> list[dict[str, str]]:
    """The combinations with their objects permuted such that none is held out."""
    for shift in range(1, len(combinations)):
        objects = [combinations[(place + shift) % len(combinations)]["object"] for place in range(len(combinations))]
        seen = [part | {"object": name} for part, name in zip(combinations, objects, strict=True)]
        paintable = all("colour" not in part or OBJECTS[part["object"]].hue is not None for part in seen)
        if paintable and not any(part.items() >= held_out.items() for part in seen for held_out in combinations):
            return seen
    raise ValueError("every rotation of the objects has a held-out combination")


def filled(part: dict[str, str], key: str, seen: bool) -> Spec:
    """A random spec with the fields of `part`, styled or not; `seen`: without held-out combinations."""
    world, dice = JudgedWorld(objects=tuple(OBJECTS)), random.Random(f"filled {SEED} {key}")
    style = sample_style(dice, world.effects, world.combined) if dice.random() < World().styled else ()
    while True:
        spec = replace(world.mixed(dice, **part), style=style)
        if not seen or not any(spec.matches(held_out) for held_out in HELD_OUT_COMBINATIONS):
            return spec


def combinations(painter: Painter, judge, settings: ReportSettings) -> dict[str, dict[str, Rates]]:
    """Rates of combinations that were never seen in training, and of others that were, in the same styles."""
    result = {}
    for name, table in (("never seen together", HELD_OUT_COMBINATIONS), ("seen together", counterparts())):
        seen = name == "seen together"
        specs = [filled(table[index % len(table)], str(index), seen) for index in range(settings.num_combinations)]
        words = [prompt(spec, f"combination {index}") for index, spec in enumerate(specs)]
        result[name] = rates_by_style(judge, painter(words), specs)
    return result


def guidance(painter: Painter, judge, settings: ReportSettings) -> dict[str, Rates]:
    """Rates of the same prompts and seeds at several guidance scales."""
    words, specs = random_prompts(settings.num_guidance)
    return {f"{scale:g}": rates(judge, painter(words, scale), specs) for scale in GUIDANCE_SCALES}


@dataclass(frozen=True)
class Still:
    """How often an image shows the same as before, if the negative prompt names that (itself), or something else (another)."""

    itself: Rate
    another: Rate


def negatives(painter: Painter, judge, settings: ReportSettings) -> dict[str, Still]:
    """Images of prompts that leave the object or the scene open; then from the same noise, with a negative prompt.

    For every other image the negative prompt names what the image showed, for the rest something else of the same kind.
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
    """Generates the prompts without and with negative prompts. another: (index, shown) -> something else to name."""
    shown = ask(judge, painter(prompts)).to(question)
    negative_prompts = [phrase(answer if index % 2 == 0 else another(index, answer)) for index, answer in enumerate(shown)]
    after = ask(judge, painter(prompts, negatives=negative_prompts)).to(question)
    kept = [before == now for before, now in zip(shown, after, strict=True)]
    return Still(*(Rate(sum(kept[first::2]), len(kept[first::2])) for first in (0, 1)))


PARTS: dict[str, Callable[[Painter, Any, ReportSettings], Any]] = {
    "ceiling": ceiling,
    "prompts": prompts,
    "combinations": combinations,
    "guidance": guidance,
    "negatives": negatives,
}
