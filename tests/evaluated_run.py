"""Makes the folder of an evaluated run for tests of the report: record, pictures, images and settings, without training."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from kit import settings_for, write_images

from customize.evaluation import record
from customize.evaluation.record import MEASURES, Candidate, Evaluation, Pair, ProbePrompt, Verdict
from customize.evaluation.report import thumbnails

PROMPTS = (
    ProbePrompt("concept", "sks dog on the beach", "dog on the beach"),
    ProbePrompt("concept", "sks dog in the snow", "dog in the snow"),
    ProbePrompt("bare", "sks dog", "dog"),
    ProbePrompt("class", "dog on the beach", "dog on the beach"),
    ProbePrompt("other", "a house", "a house"),
)
PAIRS = tuple(Pair(place, 1000 + seed) for place, each in enumerate(PROMPTS) for seed in range(1 + (each.kind == "concept")))
LEARNED = Verdict("partly learned", ("copies your photos",), ("likeness 0.50",), ("use `--scale 0.8`",))


def evaluation(at: tuple[int, ...] = (10, 20), pictures: bool = True, **changes) -> Evaluation:
    """A record with candidates of the base model and of these steps: likeness rises by 0.02 a step, loss falls by 0.01."""
    found = Evaluation("object", "sks", "dog", "own features", 2, PROMPTS, PAIRS, steps=20, chosen=10, verdict=LEARNED)
    found = replace(found, **changes)
    for step in (0, *at):
        values = {name: tuple(0.02 * step + 0.01 * i for i in range(len(found.pairs_of(name)))) for name in MEASURES}
        losses = {"training": tuple(1 - 0.01 * step * (band + 1) / 4 for band in range(4)), "class": (1.0, 1.0, 1.0, 1.0)}
        found = found.with_candidate(Candidate(step, 1.0, values if pictures else {}, losses))
    return found


def write_run(folder: Path, found: Evaluation, images: int = 2, side: int = 24, **settings) -> Path:
    """The folder of a run with this record; every candidate with numbers of pictures has its pictures."""
    photos = write_images(folder.parent / "photos", images)
    folder.mkdir(parents=True)
    config = settings_for("lora", Path("demo"), photos, folder, **settings)
    (folder / "config.toml").write_text(config.to_toml(), encoding="utf-8")
    (folder / record.FOLDER).mkdir()
    (folder / record.FOLDER / record.NAME).write_text(found.to_json(), encoding="utf-8")
    for each in found.candidates:
        if each.values:
            write_images(thumbnails.probe_folder(folder, each.step, each.scale), len(found.pairs), (side, side), seed=each.step)
            for path in thumbnails.probe_folder(folder, each.step, each.scale).glob("*.png"):
                path.rename(path.with_name(f"{int(path.stem):03d}.png"))
    return folder


def scaled(found: Evaluation, step: int = 10, scales: tuple[float, ...] = (0.5, 1.2)) -> Evaluation:
    """The same with candidates of a step at other scales."""
    at_one = found.candidate(step)
    for scale in scales:
        values = {name: tuple(np.multiply(numbers, scale).tolist()) for name, numbers in at_one.values.items()}
        found = found.with_candidate(Candidate(step, scale, values))
    return found
