"""Ways of learning a subject at equal computing time on `demo`, each against a plain LoRA.

`python benchmarks/methods.py FOLDER` (needs the font Noto Color Emoji) measures what a step of each way costs, trains every way
for as many steps as take the time of the plain LoRA, draws the probe pictures of `customize score`, measures them with the base
model as the scorer, asks the judge of `demo` what they show, and prints the table: for each measure the mean of a way, and its
difference from its plain LoRA, paired by concept and seed, with 90 % intervals over concepts. `--rates` prints how well the ways
do with a third and three times their rates on concepts that the table does not have. What is there is kept, and a run that was
cut off is resumed, so that it can be stopped at any time.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from planted_runs import LORA, Planted, write_images  # pyrefly: ignore[missing-import]

import customize
from customize.demo.judge import ask, load_judge
from customize.evaluation.masks import patches, subject_masks
from customize.evaluation.picture_probe import PictureProbe
from customize.evaluation.probe_prompts import OTHERS, pairs, probe_prompts
from customize.evaluation.record import Evaluation
from customize.evaluation.scorers.base_model import BaseModelScorer
from customize.evaluation.statistics import difference, interval
from customize.inference import load_pipeline
from customize.settings.concept import Concept
from customize.training.loop import Callback, State, StepMetrics

CONCEPTS = {"test": ("pumpkin", "robot", "parrot", "teddy_bear", "flying_saucer"), "calibration": ("dinosaur", "lion")}
PLAIN, PLAIN_ONE = "LoRA", "LoRA, 1 image"
WORD = {
    "placeholder_token": ("<it>",), "num_vectors": (3,), "embedding_learning_rate": 5e-3, "embedding_train_fraction": 0.5,
}  # fmt: skip
WAYS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "LoRA + words (pivotal)": WORD,
    "DCO": {"dco_beta": 1000.0},
    "OFT": {"adapter": "oft"},
    "LoKr": {"adapter": "lokr"},
    "LoRA+": {"loraplus_lr_ratio": 16.0},
    "Prodigy": {"optimizer": "prodigy"},
    "Muon": {"optimizer": "muon"},
    "EMA": {"use_ema": True},
    "min-SNR": {"loss_weighting": "min_snr", "snr_gamma": 5.0},
    PLAIN_ONE: {},
    "T-LoRA, 1 image": {"tlora_min_rank": 8},
}
RATES = {"Prodigy": 1.0, "LoRA+": 5e-4, "LoKr": 2e-2, "OFT": 7e-4, "Muon": 2e-3}
"""Where another rate than the plain LoRA's was better on the other concepts (`--rates`)."""
OF_LORA = ("rank", "lora_format")
PHOTOS, ONE = 6, "1 image"
OPTIONS = {"guidance_scale": 4.0, "num_inference_steps": 12, "scheduler": "DPMSolverMultistepScheduler"}
SCENES = ("beach", "snow", "city", "forest")
MEASURES = ("likeness", "obedience", "copying", "drift", "class likeness", "variety", "recognised", "scenes", "others", "class")
"""Those of the base model as the scorer; then the judge's shares: pictures of the subject in which it sees it, pictures of scenes
that show the scene, other pictures that show their object, and pictures of the class in which it sees the subject."""


def settings_of(way: str, concept: str, seed: int, steps: int, images: Path, folder: Path, factor: float = 1.0) -> Any:
    """The settings of a run. factor: of the learning rate."""
    kind = kind_of(concept)
    made: dict[str, Any] = {**LORA, "lr_scheduler": "cosine", **WAYS[way]}
    if made["adapter"] != "lora":
        made = {name: value for name, value in made.items() if name not in OF_LORA} | ({"rank": 8} if way == "LoKr" else {})
    if "placeholder_token" in made:
        made["initializer_token"] = (kind,)
    made["learning_rate"] = RATES.get(way, made["learning_rate"]) * factor
    own: dict[str, Any] = dict(
        instance_prompt=f"a {trigger_of(way, kind)}", instance_data_dir=str(images), captions="files", seed=seed,
        max_train_steps=steps, checkpointing_steps=10_000, validation_prompt=(), evaluation="none", output_dir=str(folder),
        resume_from_checkpoint="latest",
    )  # fmt: skip
    return customize.DreamBoothSettings(**made, **own)


def kind_of(concept: str) -> str:
    return Planted("right", "test", concept, 0).kind


def trigger_of(way: str, kind: str) -> str:
    """The words that call the subject."""
    return "<it>" if "placeholder_token" in WAYS[way] else f"sks {kind}"


def images_of(way: str, concept: str, folder: Path) -> Path:
    """The training images of a way, each with a caption; written if they are not there."""
    place = folder / "images" / f"{concept} {'word' if 'placeholder_token' in WAYS[way] else 'sks'}"
    if not (place / f"{PHOTOS}.txt").exists():
        write_images(Planted("right", "test", concept, 0), place)
        for caption in place.glob("*.txt"):
            text = caption.read_text(encoding="utf-8")
            caption.write_text(text.replace(f"sks {kind_of(concept)}", trigger_of(way, kind_of(concept))), encoding="utf-8")
    if ONE not in way:
        return place
    single = folder / "images" / f"{concept} one"
    single.mkdir(exist_ok=True)
    for name in ("1.png", "1.txt"):
        (single / name).write_bytes((place / name).read_bytes())
    return single


class StepTimes(Callback):
    """The processor time at the end of each step."""

    def __init__(self):
        self.ends: list[float] = []

    def after_step(self, state: State, metrics: StepMetrics) -> None:
        self.ends.append(time.process_time())


def seconds_of_steps(folder: Path) -> dict[str, float]:
    """Processor seconds of a step of each way: the tenth percentile of a run, the least of three rounds in turn."""
    file = folder / "seconds.json"
    if not file.exists():
        found: dict[str, float] = {}
        for turn in range(3):
            for way in WAYS:
                clock, images = StepTimes(), images_of(way, CONCEPTS["calibration"][0], folder)
                settings = settings_of(way, CONCEPTS["calibration"][0], 0, 14, images, folder / "timed" / f"{way} {turn}")
                customize.train(settings, callbacks=[clock])
                found[way] = min(found.get(way, np.inf), float(np.quantile(np.diff(clock.ends), 0.1)))
        file.write_text(json.dumps(found), encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))


@cache
def base_probe(concept: str, folder: Path) -> PictureProbe:
    """The probe of a concept with the base model measured."""
    base = load_pipeline("demo")
    scorer = BaseModelScorer(base.family, base.family.encode_prompts)
    kind = kind_of(concept)
    photos = [Image.open(path).convert("RGB") for path in sorted((images_of(PLAIN, concept, folder)).glob("*.png"))]
    found = subject_masks(photos, kind, scorer)
    sure = [place for place, mask in enumerate(found) if mask.pixels is not None]
    masks = None
    if len(sure) > 1:
        photos, found = [photos[i] for i in sure], [found[i] for i in sure]
        masks = torch.from_numpy(patches(found, scorer.features(photos[:1]).patches.shape[1]))
    record = record_of(f"sks {kind}", kind, scorer.name, len(photos))
    own = (OPTIONS, nullcontext, nullcontext, masks)
    probe = PictureProbe(base, record, scorer, photos, folder / "base" / concept, *own)
    probe.start()
    return probe


def record_of(trigger: str, kind: str, scorer: str, photos: int) -> Evaluation:
    """What is drawn, before anything is measured."""
    article = "an" if kind[0] in "aeiou" else "a"
    concept = Concept("object", f"a {trigger}", f"{article} {kind}", trigger, kind)
    prompts = probe_prompts(concept)
    return Evaluation("object", trigger, kind, scorer, photos, prompts, pairs(prompts, 1))


def measure(way: str, concept: str, run: Path, folder: Path) -> dict[str, float]:
    """The means of all measures of a run's weights."""
    base, kind = base_probe(concept, folder), kind_of(concept)
    record = record_of(trigger_of(way, kind), kind, base.scorer.name, len(base.photos))
    own = (OPTIONS, nullcontext, nullcontext, base.masks)
    pipeline = load_pipeline("demo", [(run / "run", 1.0)])
    probe = PictureProbe(pipeline, record, base.scorer, base.photos, run, *own, own=base.own, features=base.features)
    found = {name: float(np.mean(values)) for name, values in probe.measure(1).values.items()}
    drawn = probe.of_weights(1)
    answers, of = ask(load_judge(), drawn), np.array([record.prompts[pair.prompt].kind for pair in record.pairs])
    objects, scenes = np.array(answers.to("object")), np.array(answers.to("scene"))
    called = np.isin(of, ("concept", "bare"))
    places = [pair.prompt for pair in record.pairs if record.prompts[pair.prompt].kind == "concept"]
    others = np.array([text.split()[1] for text in OTHERS if text in {prompt.text for prompt in record.prompts}])
    return found | {
        "recognised": float((objects[called] == concept).mean()),
        "scenes": float((scenes[of == "concept"] == np.array(SCENES)[places]).mean()),
        "others": float((objects[of == "other"] == others).mean()),
        "class": float((objects[of == "class"] == concept).mean()),
    }


def measured(way: str, concept: str, seed: int, steps: int, folder: Path, factor: float = 1.0) -> dict[str, float]:
    """The measures of one run, which is trained if it is not there."""
    run = folder / "runs" / f"{concept} {seed} {way}{f' x{factor:g}' if factor != 1 else ''}".replace(", ", " ").replace(" ", "-")
    file = run / "measured.json"
    if not file.exists():
        images = images_of(way, concept, folder)
        customize.train(settings_of(way, concept, seed, steps, images, run / "run", factor))
        found = measure(way, concept, run, folder) | {"steps": steps}
        file.write_text(json.dumps(found), encoding="utf-8")
        print(run.name, {name: round(value, 2) for name, value in found.items()}, flush=True)
    return json.loads(file.read_text(encoding="utf-8"))


def table(found: dict[tuple[str, int, str], dict[str, float]]) -> Iterator[str]:
    """A line for each measure and way: its mean, and the paired difference from its plain LoRA."""
    for name in MEASURES:
        yield name
        for way in WAYS:
            plain = PLAIN_ONE if ONE in way else PLAIN
            both = [key for key in found if key[2] == way and name in found[key] and name in found.get((*key[:2], plain), {})]
            if not both:
                continue
            values, others = ([found[(*key[:2], each)][name] for key in both] for each in (way, plain))
            groups = [concept for concept, _, _ in both]
            apart = "" if way == plain else f"; difference {difference(values, others, groups)}"
            yield f"  {way:24} {interval(values, groups)}{apart}, {len(both)} runs"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds")
    parser.add_argument("--steps", type=int, default=60, help="steps of the plain LoRA")
    parser.add_argument("--rates", nargs="*", metavar="WAY", help="compare three rates of these ways instead")
    options = parser.parse_args(arguments)
    folder = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    seconds = seconds_of_steps(folder)
    steps = {way: round(options.steps * seconds[PLAIN] / seconds[way]) for way in WAYS}
    print(*(f"{way:24} {seconds[way]:.3f} s a step, {steps[way]} steps" for way in WAYS), sep="\n", flush=True)
    if options.rates is not None:
        for way in options.rates or WAYS:
            for factor in (1 / 3, 1.0, 3.0):
                runs = [measured(way, concept, 0, steps[way], folder, factor) for concept in CONCEPTS["calibration"]]
                means = {name: round(float(np.mean([run[name] for run in runs if name in run])), 2) for name in runs[0]}
                print(f"{way} at {factor:.2f} of its rate: {means}", flush=True)
        return 0
    found = {
        (concept, seed, way): measured(way, concept, seed, steps[way], folder)
        for seed in range(options.seeds) for concept in CONCEPTS["test"] for way in WAYS
    }  # fmt: skip
    print(*table(found), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
