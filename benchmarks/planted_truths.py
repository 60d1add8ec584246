"""How often the verdict on planted runs is right, and how well measures agree with the judge of `demo`.

`python benchmarks/planted_truths.py FOLDER` draws pictures with the weights of `planted_runs.py`, measures them as a run does,
asks the judge what they show, and prints the tables; what is there is not made again. The scorer sees two of the four seeds that
the judge sees. Limits were set on the half "calibration". `--last` measures the last weights of each run only.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from planted_runs import OUTCOMES, SCENES, Planted, planted  # pyrefly: ignore[missing-import]
from scipy.stats import spearmanr

from customize.demo.judge import ask, load_judge
from customize.evaluation.masks import patches, subject_masks
from customize.evaluation.picture_probe import PictureProbe
from customize.evaluation.probe_prompts import CONTENTS, OTHERS, pairs, probe_prompts
from customize.evaluation.record import Evaluation, Pair, from_values
from customize.evaluation.scorers.base_model import BaseModelScorer
from customize.evaluation.verdict import verdict_of
from customize.inference import load_pipeline
from customize.settings.concept import Concept
from customize.storage import checkpoint

SEEDS, SEEN = 4, 2
OPTIONS = {"guidance_scale": 4.0, "num_inference_steps": 12, "scheduler": "DPMSolverMultistepScheduler"}
TRUE_SCENES, TRUE_OTHERS, TRUE_CONTENTS = (
    ("beach", "snow", "city", "forest"),
    *(tuple(text.split()[1] for text in texts) for texts in (OTHERS, CONTENTS)),
)
KNOWN = 0.6
"""The share that is recognised in the base model's pictures of the class from which it cannot be said what was learned."""
JUDGE, BASE = load_judge(), load_pipeline("demo")
SCORER = BaseModelScorer(BASE.family, BASE.family.encode_prompts)


def concept_of(run: Planted) -> Concept:
    """What the run teaches, as its settings say."""
    if run.is_style:
        return Concept("style", f"in the style of {run.trigger}", "", run.trigger, "")
    article = "an" if run.kind[0] in "aeiou" else "a"
    own = run.kind if run.outcome == "class forgotten" else run.trigger
    made = OUTCOMES[run.outcome]
    own = own.replace("sks", made.wrong_word or "sks")
    return Concept("object", f"{article if own == run.kind else 'a'} {own}", f"{article} {run.kind}", own, run.kind)


@dataclass
class SharedPictures(PictureProbe):
    """A probe that does not draw what the judge has been shown: pictures by prompt and seed."""

    judged: dict[tuple[str, int], Image.Image] = field(default_factory=dict)

    def draw(self, texts: Sequence[str], known: Sequence[Image.Image | None] = ()) -> list[Image.Image]:
        """A picture for each pair, of those that the judge has seen."""
        return [self.judged[text, pair.seed] for text, pair in zip(texts, self.evaluation.pairs, strict=True)]


def measured(run: Planted, folder: Path, last_only: bool) -> dict[str, Any]:
    """The record of a run with its candidates, and what the judge sees in the pictures of each."""
    source = folder / run.trained_as.name
    photos = [Image.open(path).convert("RGB") for path in sorted((source / "images").glob("*.png"))]
    concept = concept_of(run)
    prompts = probe_prompts(concept)
    record = Evaluation(
        concept.kind, concept.trigger, concept.class_word, SCORER.name, len(photos), prompts, pairs(prompts, SEEN)
    )
    seen = replace(record, pairs=tuple(Pair(pair.prompt, pair.seed + i) for pair in pairs(prompts, 1) for i in range(SEEDS)))
    masks = [] if run.is_style else subject_masks(photos, run.kind, SCORER)
    sure = [place for place, mask in enumerate(masks) if mask.pixels is not None]
    photos, masks = ([photos[i] for i in sure], [masks[i] for i in sure]) if len(sure) > 1 else (photos, [])
    grid = torch.from_numpy(patches(masks, SCORER.features(photos[:1]).patches.shape[1])) if masks else None
    seeds = [pair.seed for pair in seen.pairs]
    truths, features, base = {}, {}, []
    for step, path in [(0, None), *weights_of(source)[-1 if last_only else 0 :]]:
        full = path is not None and (path / "model_index.json").exists()
        added = [(path, OUTCOMES[run.outcome].scale)] if path and not full else []
        pipeline = load_pipeline(str(path) if full else "demo", added)
        place = folder / "measured" / run.name
        own = (SCORER, photos, place, OPTIONS, nullcontext, nullcontext)
        judge = PictureProbe(pipeline, seen, *own)
        probe = SharedPictures(pipeline, record, *own, grid, features=features, own=base)
        plain, texts = ([getattr(seen.prompts[pair.prompt], name) for pair in seen.pairs] for name in ("plain", "text"))
        for name, prompted in {checkpoint.name(step): texts, **({} if step else {"base": plain})}.items():
            pictures = judge.pictures(f"judged {name}", prompted)
            probe.judged |= dict(zip(zip(prompted, seeds, strict=True), pictures, strict=True))
        truths[step] = truth(run, seen, pictures, photos)
        record = record.with_candidate(probe.measure(step) if step else probe.start())
        features, base = probe.features, probe.own
    return {"record": json.loads(replace(record, steps=max(truths)).to_json()), "truths": truths}


def weights_of(source: Path) -> list[tuple[int, Path]]:
    """Up to five steps of a run with their weights, evenly spread, the last one among them."""
    every = [(int(path.name.removeprefix("step-")), path) for path in sorted((source / "run" / "weights").glob("step-*"))]
    return [every[round(place)] for place in np.linspace(0, len(every) - 1, min(5, len(every)))]


def truth(run: Planted, judged: Evaluation, drawn: Sequence[Image.Image], photos: Sequence[Image.Image]) -> dict[str, Any]:
    """The shares of pictures in which the judge sees what was taught, and what the prompts say."""
    of = [judged.prompts[pair.prompt].kind for pair in judged.pairs]
    answers, found = ask(JUDGE, drawn), {}
    if run.is_style:
        taught = [answer == run.concept for answer in answers.to("named style")]
    else:
        taught = [answer == run.spec.object for answer in answers.to("object")]
        if run.spec.colour:
            taught = [each and answer == run.spec.colour for each, answer in zip(taught, answers.to("colour"), strict=True)]
    rows = {kind: [place for place, each in enumerate(of) if each == kind] for kind in set(of)}
    found = {f"recognised: {kind}": float(np.mean([taught[place] for place in own])) for kind, own in rows.items()}
    scenes, objects = answers.to("scene"), answers.to("object")
    expected = np.repeat(TRUE_SCENES, SEEDS)
    right = np.array([scenes[place] for place in rows["concept"]]) == expected
    if run.is_style:
        right &= np.array([objects[place] for place in rows["concept"]]) == np.repeat(TRUE_CONTENTS, SEEDS)
    else:
        others = np.array([objects[place] for place in rows["other"]]) == np.repeat(TRUE_OTHERS, SEEDS)
        found["others"] = float(others.mean())
        found["bare scenes"] = [scenes[place] for place in rows["bare"]]
        found["pixels"] = nearest([drawn[place] for place in rows["bare"]], photos)
    return found | {"scenes": float(right.mean())}


def nearest(pictures: Sequence[Image.Image], photos: Sequence[Image.Image]) -> float:
    """The root mean square difference of pictures to their nearest photo, relative to that of photos to each other."""
    one, other = (
        np.stack([np.asarray(image.resize((64, 64)), float).ravel() for image in images]) for images in (pictures, photos)
    )
    among = np.sqrt(((other[:, None] - other[None]) ** 2).mean(2)) + np.diag([np.inf] * len(other))
    return float((np.sqrt(((one[:, None] - other[None]) ** 2).mean(2)).min(1) / among.min(1).mean()).mean())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--last", action="store_true", help="measure the last weights of each run only")
    options = parser.parse_args()
    folder = options.folder
    found = []
    for run in planted():
        file = folder / "measured" / f"{run.name}.json"
        if not file.exists() and (folder / run.trained_as.name / "planted.json").exists():
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps(measured(run, folder, options.last)), encoding="utf-8")
        if file.exists():
            found.append((run, json.loads(file.read_text(encoding="utf-8"))))
    print(*verdicts(found), sep="\n")
    print(*correlations(found), sep="\n")
    return 0


def verdicts(found: Sequence[tuple[Planted, dict[str, Any]]]) -> Iterator[str]:
    """The verdict on the last weights of each run: right or wrong, by half, and each that is wrong."""
    right: Counter[tuple[str, bool]] = Counter()
    for run, measured_run in found:
        record = from_values(measured_run["record"])
        wrong = list(faults(run, record, measured_run["truths"]))
        right[run.half, not wrong] += 1
        if wrong:
            yield f"{run.half:12} {run.name:34} {'; '.join(wrong)}"
    for half in ("calibration", "test"):
        yield f"{half}: {right[half, True]} of {right[half, True] + right[half, False]} verdicts are right"


def faults(run: Planted, record: Evaluation, truths: dict[str, dict[str, Any]]) -> Iterator[str]:
    """What the verdict on the last weights says wrongly, or does not say. Where the judge's share is near a border, either
    answer is right."""
    truth, base, verdict = truths[str(record.steps)], truths["0"], verdict_of(replace(record, chosen=record.steps))
    gain = gained(truth, base)
    accepted = {"learned": gain >= 0.65, "partly learned": 0.15 <= gain <= 0.85, "not learned": gain <= 0.25}
    if gain == gain and not accepted.get(verdict.word):
        yield f"{verdict.word}, but {gain:.2f} of the pictures gained it"
    if verdict.word in ("not learned", "cannot tell") or run.is_style:
        return
    pixels, scene = truth["pixels"], SCENES[run.number % len(SCENES)]
    shown, of_class = truth["bare scenes"].count(scene) / SEEDS, truth["recognised: class"] - base["recognised: class"]
    planted_scene = bool(OUTCOMES[run.outcome].scene)
    facts = {
        "copies your photos": (pixels < 0.6, 0.55 < pixels < 0.8),
        "learned the background": (planted_scene and shown > 0.5, planted_scene and shown == 0.5 or pixels < 0.8),
        "forgot the class": (of_class >= 0.5, 0.2 < of_class < 0.8 or base["recognised: class"] > 0.3),
        "changed other things": (truth["others"] <= 0.5, 0.45 < truth["others"] < 0.8),
        "overrides the prompt": (base["scenes"] - truth["scenes"] >= 0.3, 0.1 < base["scenes"] - truth["scenes"] < 0.4),
    }
    for name, (true, borderline) in facts.items():
        if not borderline and true != (name in verdict.findings):
            yield f"{name} is {'missed' if true else 'false'}"


def gained(truth: dict[str, Any], base: dict[str, Any]) -> float:
    """The share of the concept that was not recognised before, and is now; NaN where the base model knows it (`KNOWN`)."""
    before, now = (each["recognised: concept"] for each in (base, truth))
    return (now - before) / (1 - before) if before < KNOWN else float("nan")


def correlations(found: Sequence[tuple[Planted, dict[str, Any]]]) -> Iterator[str]:
    """The rank correlation of measures with the judge over all checkpoints, with a 90 % interval from a bootstrap over runs."""
    facts = {
        "likeness": lambda truth, base: gained(truth, base),
        "obedience": lambda truth, base: truth["scenes"],
        "drift": lambda truth, base: -truth.get("others", float("nan")),
        "class likeness": lambda truth, base: truth.get("recognised: class", float("nan")),
        "copying": lambda truth, base: -truth.get("pixels", float("nan")),
    }
    for measure, fact in facts.items():
        rows = [
            [(np.mean(each["values"][measure]), fact(measured_run["truths"][str(each["step"])], measured_run["truths"]["0"]))
             for each in measured_run["record"]["candidates"] if measure in each["values"]]
            for _, measured_run in found
        ]  # fmt: skip
        rows = [[pair for pair in row if np.isfinite(pair).all()] for row in rows]
        dice = np.random.default_rng(0)
        drawn = [correlation([rows[i] for i in dice.integers(len(rows), size=len(rows))]) for _ in range(500)]
        low, high = np.nanquantile(drawn, [0.05, 0.95])
        number = sum(map(len, rows))
        yield f"{measure:16} {correlation(rows):.2f} ({low:.2f} to {high:.2f}), {number} checkpoints of {len(rows)} runs"


def correlation(rows: Sequence[Sequence[tuple[float, float]]]) -> float:
    """The rank correlation of all pairs."""
    pairs = [pair for row in rows for pair in row]
    return float(spearmanr(*zip(*pairs, strict=True)).statistic) if len({pair[1] for pair in pairs}) > 1 else float("nan")


if __name__ == "__main__":
    sys.exit(main())
