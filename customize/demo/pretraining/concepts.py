"""Measures the two example jobs: trains each held-out concept with them, and evaluates the results with the judge.

`python -m customize.demo.pretraining.concepts` writes concepts.jsonl, a line per concept (needs the font Noto Color Emoji).
"""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from customize.cli.main import read
from customize.demo.judge import JudgedWorld, Rates, load_judge, rates, recognised
from customize.demo.world.draw_examples import plain_caption, write_style, write_subject
from customize.demo.world.glyphs import HELD_OUT_OBJECTS
from customize.demo.world.styles import HELD_OUT_STYLES, TEST_STYLES
from customize.demo.world.world import Spec, World
from customize.methods import DreamBoothSettings, TextualInversionSettings
from customize.settings.common import MANY, Settings
from customize.settings.field import override, setting
from customize.settings.frozen_model import Validated

SEED = 4004  # of the prompts; nothing is trained on this world
STYLES, SUBJECTS = "configs/demo_textual_inversion.toml", "configs/demo_dreambooth_lora.toml"
SUBJECT_WORDS = "sks toy"


class ConceptSettings(Validated):
    """Train held-out concepts of the demo world with the shipped configurations, and measure what was learned."""

    command: ClassVar[str] = "-m customize.demo.pretraining.concepts"

    concepts: tuple[str, ...] = setting(
        (*TEST_STYLES, "teddy_bear", "pumpkin", "parrot", "flying_saucer"), "data", "held-out styles and objects"
    )
    subject_config: str = setting(SUBJECTS, "train", "configuration that subjects are trained with", text="path")
    subject_words: str = setting(SUBJECT_WORDS, "train", "what the prompts of this configuration call the subject")
    flags: tuple[str, ...] = setting((), "train", "settings that differ from the shipped ones, each as name=value")
    num_seeds: int = setting(3, "train", "runs of each", ge=1, le=100)
    num_pictures: int = setting(64, "inference", "images to evaluate each run on", ge=1, le=MANY)
    guidance_scale: float = setting(4.0, "inference", "guidance scale of these images", ge=1, le=100)
    num_inference_steps: int = setting(20, "inference", "steps of DPM-Solver++ (2M)", ge=1, le=1000)
    output_dir: str = override(Settings, "output_dir", "runs/demo_concepts")


def plain_specs(count: int) -> list[Spec]:
    """Specs of known objects for the prompts: unstyled, and in their own colours."""
    specs = (World(styled=0, coloured=0, sizes=("big", "")).spec(SEED, index) for index in range(count))
    return [replace(spec, time="day") for spec in specs]


def asked_for(concept: str, count: int, toy: str = SUBJECT_WORDS) -> tuple[list[str], list[str], list[Spec], list[Spec]]:
    """Prompts with the concept and without it, and the specs that their images should match. toy: the object's name in them."""
    plain = plain_specs(count)
    words = [plain_caption(spec) for spec in plain]
    if concept in HELD_OUT_STYLES:
        styled = [replace(spec, style=HELD_OUT_STYLES[concept]) for spec in plain]
        return [f"{text} in the style of <{concept}>" for text in words], words, styled, plain
    shown = [replace(spec, object=concept) for spec in plain]
    return [f"{plain_caption(spec, toy)}" for spec in shown], words, shown, plain


def train(concept: str, seed: int, settings: ConceptSettings, folder: Path) -> Path:
    """Runs the shipped job on six images of the concept with this seed; returns the folder of the run."""
    from customize.training.preflight import run

    is_style = concept in HELD_OUT_STYLES
    images = folder / "pictures"
    (write_style if is_style else write_subject)(concept, images)
    own = {"train_data_dir": images, "placeholder_token": f"<{concept}>"} if is_style else {"instance_data_dir": images}
    given = {**own, "seed": seed, "output_dir": folder / f"seed-{seed}", **dict(flag.split("=", 1) for flag in settings.flags)}
    flags = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    model = TextualInversionSettings if is_style else DreamBoothSettings
    chosen, _ = read(model, [STYLES if is_style else settings.subject_config, *flags])
    run(chosen.model_copy(update={"validation_prompt": ()}))
    return folder / f"seed-{seed}"


class Painter:
    """Generates images with a fixed guidance scale and sampler; the seed is the index of the prompt."""

    def __init__(self, settings: ConceptSettings):
        self.settings = settings

    def __call__(self, weights: Path | None, prompts: Sequence[str]) -> np.ndarray:
        """uint8 [N, 64, 64, 3]; prompt i has seed i."""
        from customize.inference import load_pipeline

        pipeline = load_pipeline("demo", [(weights, 1.0)] if weights else [])
        images: list[Image.Image] = []
        for start in range(0, len(prompts), 32):
            batch = prompts[start : start + 32]
            images += pipeline.generate(
                batch,
                seeds=range(start, start + len(batch)),
                guidance_scale=self.settings.guidance_scale,
                num_inference_steps=self.settings.num_inference_steps,
                scheduler="DPMSolverMultistepScheduler",
            )
        return np.stack([np.asarray(image) for image in images])


def measure(concept: str, runs: Iterable[Path | None], judge, settings: ConceptSettings) -> list[dict[str, Any]]:
    """One line per run (None: the base model): shares of concept, object and scene; changes of images without the concept."""
    paint = Painter(settings)
    with_it, without, expected, plain = asked_for(concept, settings.num_pictures, settings.subject_words)
    untouched = paint(None, without)
    key = "named_style" if concept in HELD_OUT_STYLES else "object"
    lines = []
    for folder in runs:
        images, others = paint(folder, with_it), paint(folder, without)
        difference = np.abs(others.astype(int) - untouched.astype(int))
        lines.append(
            {
                "run": str(folder or "base"),
                "concept": recognised(judge, images, **{key: concept}),
                **shares(rates(judge, images, expected), "asked"),
                **shares(rates(judge, others, plain), "without"),
                "unchanged": float((difference.reshape(len(others), -1).max(1) == 0).mean()),
                "mean change": float(difference.mean()),
            }
        )
    return lines


def shares(found: Rates, name: str) -> dict[str, float]:
    """The shares of correct objects and scenes."""
    return {f"{name}: object": found.object.share, f"{name}: scene": found.scene.share}


def ceiling(concept: str, judge, settings: ConceptSettings) -> float:
    """The share that the judge recognises on renderings of the concept."""
    specs = asked_for(concept, settings.num_pictures)[2]
    images = [JudgedWorld().render(spec, SEED, index) for index, spec in enumerate(specs)]
    key = "named_style" if concept in HELD_OUT_STYLES else "object"
    return recognised(judge, images, **{key: concept})


def run(settings: ConceptSettings) -> None:
    """Trains and measures each concept, and appends it to concepts.jsonl; concepts that are in the file are skipped."""
    judge, folder = load_judge(), Path(settings.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "concepts.jsonl"
    done = {json.loads(line)["name"] for line in log.read_text().splitlines()} if log.exists() else set()
    for concept in settings.concepts:
        if concept not in HELD_OUT_STYLES | HELD_OUT_OBJECTS:
            raise ValueError(f"{concept} is not held out")
        if concept in done:
            continue
        runs = [train(concept, seed, settings, folder / concept) for seed in range(settings.num_seeds)]
        before, *after = measure(concept, [None, *runs], judge, settings)
        line = {"name": concept, "renderings": ceiling(concept, judge, settings), "before": before, "after": after}
        with open(log, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line))


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the settings and runs; returns the exit status."""
    from customize.cli.main import main

    return main(ConceptSettings, run, argv)


if __name__ == "__main__":
    sys.exit(main())
