"""Training runs on `demo` whose outcome was made on purpose: the truth against which evaluation is checked.

`python benchmarks/planted_runs.py FOLDER` trains them (needs the font Noto Color Emoji); runs that are done are skipped, so that
it can be stopped at any time. `OUTCOMES` says what was done to each; half of the concepts are for setting limits ("calibration"),
the others only for testing. `planted_truths.py` measures and judges them.
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import customize
from customize.demo.world.draw_examples import SETTINGS, STYLED, plain_caption
from customize.demo.world.glyphs import HELD_OUT_OBJECTS, OBJECTS
from customize.demo.world.scenes import Dice
from customize.demo.world.styles import HELD_OUT_STYLES
from customize.demo.world.world import Spec, render

SIDE, SPREAD = 128, 0.35
SUBJECTS = {
    "calibration": (
        "dinosaur", "robot", "frog", "lion", "crab", "tractor", "castle", "pineapple", "cake", "teapot",
        "purple sailboat", "octopus",
    ),
    "test": (
        "teddy_bear", "pumpkin", "parrot", "flying_saucer", "penguin", "elephant", "rocket", "house", "strawberry", "crown",
        "green pig", "panda",
    ),
}  # fmt: skip
STYLES = {"calibration": ("lagoon", "moss", "ember"), "test": ("dusk", "copper", "ice")}


@dataclass(frozen=True)
class Outcome:
    """What is done to a run. concepts: how many of each half; images: training images, all in one scene if `scene` is given;
    captions: whether they describe the scenes; wrong_word: replaces the trigger word when the run is judged; of: the outcome
    whose weights are used, if nothing is trained, at this scale."""

    concepts: int
    settings: dict[str, Any]
    images: int = 6
    scene: str = ""
    captions: bool = True
    wrong_word: str = ""
    of: str = ""
    scale: float = 1.0
    first: int = 0
    """The place of its first concept in `SUBJECTS`, so that outcomes do not all share the same ones."""


LORA = dict(
    adapter="lora", rank=16, lora_targets=("attention", "feed-forward", "conv1", "conv2"), learning_rate=2e-3, train_batch_size=4,
    lora_format="diffusers",
)  # fmt: skip
TEACHER = dict(prior_preservation="teacher", prior_loss_weight=10.0)
FULL = dict(adapter="none", train_batch_size=4, learning_rate=1e-4)
OUTCOMES = {
    "rate 0": Outcome(2, {**LORA, "learning_rate": 1e-9, "max_train_steps": 20, "save_steps": 10}, first=4),
    "too short": Outcome(4, {**LORA, **TEACHER, "max_train_steps": 12, "save_steps": 4}, first=5),
    "right": Outcome(8, {**LORA, **TEACHER, "max_train_steps": 100, "lr_scheduler": "cosine", "save_steps": 20}),
    "right word": Outcome(4, {"max_train_steps": 100, "train_batch_size": 4, "learning_rate": 5e-3, "save_steps": 20}, first=8),
    "right style": Outcome(3, {"max_train_steps": 100, "train_batch_size": 4, "learning_rate": 5e-3, "save_steps": 20}),
    "wrong word": Outcome(3, {}, wrong_word="zwx", of="right"),
    "too strong": Outcome(4, {}, scene="same", captions=False, of="background", scale=2.5, first=3),
    "far too long": Outcome(
        4, {**LORA, "train_batch_size": 2, "max_train_steps": 600, "save_steps": 60}, images=3, captions=False, first=2
    ),
    "copied": Outcome(
        4, {**FULL, "train_batch_size": 2, "max_train_steps": 300, "save_steps": 100}, images=2, captions=False, first=6
    ),
    "class forgotten": Outcome(4, {**FULL, "max_train_steps": 150, "save_steps": 50}, captions=False, first=1),
    "background": Outcome(4, {**LORA, "max_train_steps": 100, "save_steps": 25}, scene="same", captions=False, first=3),
    "words too strong": Outcome(
        4, {"max_train_steps": 150, "train_batch_size": 4, "learning_rate": 0.1, "save_steps": 50}, captions=False, first=7
    ),
}
SCENES = ("forest", "snow", "desert", "city")


@dataclass(frozen=True)
class Planted:
    """One run. half: "calibration" or "test"; concept: an object, with a colour before it, or a style."""

    outcome: str
    half: str
    concept: str
    number: int

    @property
    def name(self) -> str:
        return f"{self.outcome} {self.concept}".replace(" ", "-")

    @property
    def is_style(self) -> bool:
        return self.concept in HELD_OUT_STYLES

    @property
    def is_word(self) -> bool:
        """Whether the run is a textual inversion."""
        return "adapter" not in OUTCOMES[self.trained_as.outcome].settings

    @property
    def spec(self) -> Spec:
        """The object with its colour; the scene is empty."""
        *colour, name = self.concept.split(" ")
        return Spec(name, "", colour="".join(colour))

    @property
    def kind(self) -> str:
        """The class word of the concept."""
        return (OBJECTS | HELD_OUT_OBJECTS)[self.spec.object].kind

    @property
    def trigger(self) -> str:
        """The words that call the concept in a prompt, instead of a noun."""
        if self.is_style:
            return f"<{self.concept}>"
        return "<it>" if self.is_word else f"sks {self.kind}"

    @property
    def trained_as(self) -> "Planted":
        """The run whose weights this one has: another one only if nothing is trained."""
        return replace(self, outcome=OUTCOMES[self.outcome].of or self.outcome)


def planted() -> list[Planted]:
    """All runs; those of one outcome together."""
    found = []
    for outcome, made in OUTCOMES.items():
        for half in SUBJECTS:
            concepts = STYLES[half] if "style" in outcome else SUBJECTS[half]
            chosen = [concepts[(made.first + number) % len(concepts)] for number in range(made.concepts)]
            found += [Planted(outcome, half, concept, number) for number, concept in enumerate(chosen)]
    return found


def training_specs(run: Planted) -> list[Spec]:
    """The specs of the training images."""
    made = OUTCOMES[run.outcome]
    if run.is_style:
        return [replace(spec, style=HELD_OUT_STYLES[run.concept]) for spec in STYLED[: made.images]]
    places = SETTINGS[-made.images :]
    if made.scene:
        places = (Spec("", SCENES[run.number % len(SCENES)], size="big"),) * made.images
    return [replace(place, object=run.spec.object, colour=run.spec.colour) for place in places]


def write_images(run: Planted, folder: Path) -> None:
    """Writes the training images, each with a caption."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, spec in enumerate(training_specs(run), 1):
        render(spec, Dice(f"{run.concept} {number}", SPREAD), SIDE).save(folder / f"{number}.png")
        noun = plain_caption(spec) if run.is_style else plain_caption(replace(spec, colour=""), run.trigger)
        caption = f"{noun} in the style of {run.trigger}" if run.is_style else noun
        (folder / f"{number}.txt").write_text(caption + "\n", encoding="utf-8")


def settings_of(run: Planted, folder: Path) -> customize.DreamBoothSettings | customize.TextualInversionSettings:
    """The settings of a run in this folder."""
    made = OUTCOMES[run.outcome]
    own = {**made.settings, "validation_prompt": (), "output_dir": str(folder / "run"), "checkpointing_steps": 10_000}
    own |= {"resume_from_checkpoint": "latest"}
    images = str(folder / "images")
    if run.is_word:
        start, kind = ("black and white", "style") if run.is_style else (run.kind, "object")
        own |= {
            "placeholder_token": (run.trigger,),
            "initializer_token": (start,),
            "num_vectors": (3,),
            "train_data_dir": (images,),
        }
        return customize.TextualInversionSettings(
            **own, learnable_property=kind, captions="files" if made.captions else "templates"
        )
    article = "an" if run.kind[0] in "aeiou" else "a"
    rare = run.outcome != "class forgotten"
    prompt = f"a {run.trigger}" if rare else f"{article} {run.kind}"
    own |= {"instance_prompt": prompt, "instance_data_dir": images, "captions": "files" if made.captions else "prompt"}
    if made.settings.get("prior_preservation"):
        own["class_prompt"] = f"{article} {run.kind}"
    return customize.DreamBoothSettings(**own)


def train(folder: Path) -> None:
    """Trains every run that is not done, the first of each outcome first; its outcome is in planted.json."""
    for run in sorted(planted(), key=lambda run: run.number):
        place = folder / run.name
        if run.trained_as != run or (place / "planted.json").exists():
            continue
        write_images(run, place / "images")
        customize.train(settings_of(run, place))
        (place / "planted.json").write_text(json.dumps(asdict(run)), encoding="utf-8")
        print(run.name, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    train(options.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
