"""Whether masks keep the background out of what is learned: subjects of the demo world, all photographed before one background.

`python benchmarks/masked_loss.py FOLDER` (needs the font Noto Color Emoji) trains a LoRA for each concept, seed and way of
learning, draws pictures with it, asks the judge of `demo` what they show, and prints the table: for each measure the mean of each
way, and its difference from learning whole images, paired by concept and seed, with 90 % intervals over concepts. What is there
is kept, and a run that was cut off is resumed, so that it can be stopped at any time.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from planted_runs import LORA, SCENES, SIDE, SPREAD  # pyrefly: ignore[missing-import]
from subject_masks import truth_of  # pyrefly: ignore[missing-import]

import customize
from customize.demo.judge import Judge, ask, load_judge
from customize.demo.world.glyphs import HELD_OUT_OBJECTS
from customize.demo.world.scenes import Dice
from customize.demo.world.world import Spec, render
from customize.evaluation.statistics import difference, interval
from customize.inference import load_pipeline

CONCEPTS = ("pumpkin", "robot", "parrot", "teddy_bear", "flying_saucer")
WAYS: dict[str, dict[str, Any]] = {
    "whole images": {},
    "masks": {"masked_loss": True},
    "masks, base model outside": {"masked_loss": True, "masked_prior_preservation_weight": 1.0},
    "masks, 0.1 outside": {"masked_loss": True, "unmasked_weight": 0.1},
}
WHOLE = next(iter(WAYS))
PHOTOS, DRAWN = 6, 4
"""Training images; pictures of each prompt."""
OPTIONS = {"guidance_scale": 4.0, "num_inference_steps": 12, "scheduler": "DPMSolverMultistepScheduler"}
ELSEWHERE = {"beach": "on the beach", "snow": "in the snow", "city": "in the city", "forest": "in the forest"}
MEASURES = {
    "background": "pictures of the bare prompt before the background of the photos",
    "background elsewhere": "pictures of other scenes before the background of the photos",
    "subject": "pictures in which the subject is recognised",
    "scenes": "pictures of scenes that show the scene",
}


def spec_of(concept: str) -> Spec:
    """The subject before its background, which all of its photos share."""
    return Spec(concept, SCENES[CONCEPTS.index(concept) % len(SCENES)], size="big")


def write_photos(concept: str, folder: Path) -> None:
    """Writes the training images and their true masks."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, PHOTOS + 1):
        seed = f"{concept} {number}"
        render(spec_of(concept), Dice(seed, SPREAD), SIDE).save(folder / f"{number}.png")
        Image.fromarray(truth_of(spec_of(concept), seed, SPREAD)).convert("L").save(folder / f"{number}-mask.png")


def train(concept: str, seed: int, way: str, steps: int, images: Path, folder: Path) -> None:
    """Trains a run, or continues it."""
    kind = HELD_OUT_OBJECTS[concept].kind
    own: dict[str, Any] = dict(
        instance_prompt=f"a sks {kind}", instance_data_dir=str(images), captions="prompt", seed=seed, max_train_steps=steps,
        checkpointing_steps=25, checkpoints_total_limit=1, validation_prompt=(), evaluation="none", output_dir=str(folder),
        resume_from_checkpoint="latest",
    )  # fmt: skip
    customize.train(customize.DreamBoothSettings(**LORA, **WAYS[way], **own))


def measure(judge: Judge, concept: str, run: Path, folder: Path) -> dict[str, float]:
    """What the judge sees in pictures that are drawn with the weights of a run, and kept."""
    kind, scene = HELD_OUT_OBJECTS[concept].kind, spec_of(concept).scene
    asked = {"": f"a sks {kind}"} | {name: f"a sks {kind} {words}" for name, words in ELSEWHERE.items() if name != scene}
    pipeline, pictures, of = load_pipeline("demo", [(run, 1.0)]), [], []
    for name, prompt in asked.items():
        drawn = pipeline.generate([prompt] * DRAWN, seeds=list(range(DRAWN)), **OPTIONS)
        for number, picture in enumerate(drawn):
            picture.save(folder / f"{name or 'bare'}-{number}.png")
        pictures += drawn
        of += [name] * len(drawn)
    answers = ask(judge, pictures)
    bare = np.array([name == "" for name in of])
    scenes, objects = np.array(answers.to("scene")), np.array(answers.to("object"))
    return {
        "background": float((scenes[bare] == scene).mean()),
        "background elsewhere": float((scenes[~bare] == scene).mean()),
        "subject": float((objects == concept).mean()),
        "scenes": float((scenes[~bare] == np.array(of)[~bare]).mean()),
    }


def table(found: dict[tuple[str, int, str], dict[str, float]]) -> Iterator[str]:
    """A line for each measure and way: its mean, and the paired difference from whole images."""
    for name, about in MEASURES.items():
        yield f"{name}: share of {about}"
        for way in WAYS:
            both = [key for key in found if key[2] == way and (*key[:2], WHOLE) in found]
            if not both:
                continue
            values, whole = ([found[(*key[:2], each)][name] for key in both] for each in (way, WHOLE))
            groups = [concept for concept, _, _ in both]
            apart = "" if way == WHOLE else f"; difference {difference(values, whole, groups)}"
            yield f"  {way:28} {interval(values, groups).within(0, 1)}{apart}, {len(both)} runs"


def sheet(folder: Path, concepts: Sequence[str]) -> Image.Image:
    """Training images of each concept, and beneath them what each way drew with the first seed: two pictures of the bare prompt,
    one of each other scene."""
    rows = []
    for concept in concepts:
        photos = [folder / concept / f"{number}.png" for number in range(1, 6)]
        rows.append(photos)
        for way in ("whole images", "masks", "masks, base model outside"):
            place = folder / name_of(concept, 0, way)
            elsewhere = [place / f"{name}-0.png" for name in ELSEWHERE if name != spec_of(concept).scene]
            rows.append([place / "bare-0.png", place / "bare-1.png", *elsewhere][:5])
    drawn = Image.new("RGB", (5 * SIDE, len(rows) * SIDE), "white")
    for row, paths in enumerate(rows):
        for column, path in enumerate(paths):
            drawn.paste(Image.open(path).convert("RGB").resize((SIDE, SIDE)), (column * SIDE, row * SIDE))
    return drawn


def name_of(concept: str, seed: int, way: str) -> str:
    """The folder of a run."""
    return f"{concept}-{seed}-{way.replace(', ', '-').replace(' ', '-')}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--concepts", type=int, default=len(CONCEPTS), help="how many of the concepts")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds")
    parser.add_argument("--steps", type=int, default=100, help="steps of each run")
    parser.add_argument("--sheet", type=Path, help="write pictures of one concept here, as docs/masks.png")
    parser.add_argument("--ways", type=int, default=len(WAYS), help="how many of the ways")
    options = parser.parse_args(arguments)
    judge, found = load_judge(), {}
    for seed in range(options.seeds):
        for concept in CONCEPTS[: options.concepts]:
            images = options.folder / concept
            if not (images / f"{PHOTOS}-mask.png").exists():
                write_photos(concept, images)
            for way in list(WAYS)[: options.ways]:
                run = options.folder / name_of(concept, seed, way)
                file = run / "judged.json"
                if not file.exists():
                    train(concept, seed, way, options.steps, images, run / "run")
                    numbers = measure(judge, concept, run / "run", run)
                    file.write_text(json.dumps(numbers), encoding="utf-8")
                    print(run.name, numbers, flush=True)
                found[concept, seed, way] = json.loads(file.read_text(encoding="utf-8"))
    print(*table(found), sep="\n")
    if options.sheet:
        sheet(options.folder, CONCEPTS[3:4]).save(options.sheet)
    return 0


if __name__ == "__main__":
    sys.exit(main())
