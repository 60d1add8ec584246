"""The judge of the demo world: a small classifier, trained only on renderings, that recognises what an image shows.

`customize.demo.pretraining.train_judge` trains it. N images, Q questions, A answers to all questions together.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from customize.demo.world.glyphs import COLOURS, HELD_OUT_OBJECTS, OBJECTS
from customize.demo.world.scenes import SCENES
from customize.demo.world.styles import EFFECTS, HELD_OUT_STYLES, INKS, sample_style
from customize.demo.world.world import RESOLUTION, TIMES, Spec, World

WEIGHTS = Path(__file__).parent / "judge.safetensors"
RECOLOURINGS = tuple(name for name, effect in EFFECTS.items() if effect.recolours)
OTHER_EFFECTS = tuple(name for name, effect in EFFECTS.items() if not effect.recolours)
QUESTIONS: dict[str, tuple[str, ...]] = {
    "object": (*OBJECTS, *HELD_OUT_OBJECTS),
    "colour": (*COLOURS, "own"),
    "scene": tuple(SCENES),
    "time": tuple(TIMES),
    "recolouring": ("none", *RECOLOURINGS),
    "first ink": ("none", *INKS),
    "second ink": ("none", *INKS),
    **{name: ("no", "yes") for name in OTHER_EFFECTS},
    "named style": ("other", *HELD_OUT_STYLES),
}
STYLE = ("recolouring", "first ink", "second ink", *OTHER_EFFECTS)  # the questions that describe a style
NOT_ASKED = -1
BLOCK, INSIDE = 4, 0.19  # side in pixels of a block of a pixelated image; the largest share of edges inside its blocks

Images = np.ndarray | Tensor | Sequence[Image.Image]
"""N images: uint8, or float in [0, 1], [N, side, side, 3]; or PIL images."""


@dataclass(frozen=True)
class JudgedWorld(World):
    """The whole world, including the held-out objects, styles and combinations that the generator was never trained on."""

    objects: tuple[str, ...] = QUESTIONS["object"]
    styled: float = 0.4
    held_out_styled: float = 0.2

    def spec(self, seed: int, index: int) -> Spec:
        """The spec of image `index`."""
        dice = random.Random(f"judged {seed} {index}")
        spec, chance = self.mixed(dice), dice.random()
        if chance < self.held_out_styled:
            return replace(spec, style=dice.choice(list(HELD_OUT_STYLES.values())))
        if chance < self.held_out_styled + self.styled:
            return replace(spec, style=sample_style(dice, self.effects, self.combined))
        return spec

    def mixed(self, dice: random.Random, **fixed: str) -> Spec:
        """An unstyled spec with the `fixed` fields; all others are random and may be held out."""
        name = fixed.get("object", dice.choice(self.objects))
        scenes = [scene for scene in self.scenes if "time" not in fixed or SCENES[scene][2]]
        scene = fixed.get("scene", dice.choice(scenes))
        colour, time, backdrop = dice.choice(self.colours), dice.choice(self.times), dice.choice(self.backdrops)
        coloured = dice.random() < self.coloured and (OBJECTS | HELD_OUT_OBJECTS)[name].hue is not None
        chosen = {
            "object": name,
            "scene": scene,
            "colour": colour if coloured else "",
            "time": time if SCENES[scene][2] else "day",
            "backdrop": backdrop if scene == "plain" else "",
            "size": dice.choice(self.sizes),
        }
        return Spec(**chosen | fixed)


def truth(spec: Spec) -> dict[str, str]:
    """The answers to all questions that apply to an image of `spec`.

    The colour applies if it is named or the object cannot be coloured, and no effect recolours or inverts; the time if there is a
    sky; inks if they have names.
    """
    effects = {effect.name: effect.colours for effect in spec.style}
    recolouring = next((name for name in RECOLOURINGS if name in effects), "none")
    answers = {"object": spec.object, "scene": spec.scene, "recolouring": recolouring}
    if recolouring == "none" and "inverted" not in effects:
        if spec.colour:
            answers["colour"] = spec.colour
        elif (OBJECTS | HELD_OUT_OBJECTS)[spec.object].hue is None:
            answers["colour"] = "own"
    if SCENES[spec.scene][2]:
        answers["time"] = spec.time
    for question, ink in zip(("first ink", "second ink"), (*effects.get(recolouring, ()), "none", "none"), strict=False):
        if ink in QUESTIONS[question]:
            answers[question] = ink
    answers |= {name: "yes" if name in effects else "no" for name in OTHER_EFFECTS}
    answers["named style"] = next((name for name, style in HELD_OUT_STYLES.items() if style == spec.style), "other")
    return answers


def labels(specs: Sequence[Spec]) -> Tensor:
    """The true answers as indices into QUESTIONS: int64 [N, Q], NOT_ASKED if a question does not apply."""
    rows = [truth(spec) for spec in specs]
    places = [[answers.index(row[q]) if q in row else NOT_ASKED for q, answers in QUESTIONS.items()] for row in rows]
    return torch.tensor(places).view(-1, len(QUESTIONS))


def as_pixels(images: Images) -> Tensor:
    """The input of the judge: float32 [N, 3, 64, 64] in [-1, 1]; larger images are downscaled."""
    if not isinstance(images, (np.ndarray, Tensor)):
        images = np.stack([np.asarray(image.convert("RGB")) for image in images])
    pixels = torch.as_tensor(images)
    pixels = (pixels if pixels.is_floating_point() else pixels / 255).float().permute(0, 3, 1, 2)
    if pixels.shape[-1] != RESOLUTION:
        pixels = F.interpolate(pixels, size=(RESOLUTION, RESOLUTION), mode="area")
    return 2 * pixels - 1


class Block(nn.Module):
    """A residual block of two convolutions (He et al. 2016); `stride` 2 halves the side."""

    def __init__(self, channels: int, wider: int, stride: int):
        super().__init__()
        self.first, self.second = convolution(channels, wider, 3, stride), convolution(wider, wider, 3)
        self.around = nn.Sequential()
        if stride > 1:
            self.around = nn.Sequential(nn.AvgPool2d(stride), convolution(channels, wider, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, channels, S, S]; returns [N, wider, S / stride, S / stride]."""
        return F.relu(self.second(F.relu(self.first(x))) + self.around(x))


def convolution(channels: int, wider: int, side: int, stride: int = 1) -> nn.Sequential:
    """A convolution of odd `side`, normalised over the batch."""
    return nn.Sequential(nn.Conv2d(channels, wider, side, stride, side // 2, bias=False), nn.BatchNorm2d(wider))


class Judge(nn.Module):
    """A residual network with an answer to every question; 0.4 million parameters."""

    def __init__(self, widths: tuple[int, int, int] = (32, 64, 128)):
        super().__init__()
        small, middle, large = widths
        self.conv_in = convolution(3, small, 5, 2)
        self.blocks = nn.Sequential(
            Block(small, small, 1),
            Block(small, middle, 2),
            Block(middle, middle, 1),
            Block(middle, large, 2),
        )
        self.conv_out = nn.Conv2d(2 * large, sum(map(len, QUESTIONS.values())), 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: [N, 3, 64, 64] in [-1, 1]; returns logits [N, A], question by question."""
        x = self.blocks(F.relu(self.conv_in(pixels)))
        pooled = torch.cat([x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)], 1)
        return self.conv_out(pooled).flatten(1)


def by_question(logits: Tensor) -> tuple[Tensor, ...]:
    """Splits logits [N, A] into one tensor per question."""
    return logits.split([len(answers) for answers in QUESTIONS.values()], 1)


def load_judge(file: Path | str = WEIGHTS) -> Judge:
    """The trained judge. Raises `ValueError` if it was trained for other questions."""
    with safe_open(file, "pt") as opened:
        questions = json.loads((opened.metadata() or {})["questions"])
    if questions != {question: list(answers) for question, answers in QUESTIONS.items()}:
        raise ValueError(f"{file} was trained for another world: run python -m customize.demo.pretraining.train_judge again")
    judge = Judge()
    judge.load_state_dict({name: tensor.float() for name, tensor in load_file(file).items()}, strict=False)
    return judge.requires_grad_(False).eval()


@dataclass(frozen=True)
class Answers:
    """The judge's answers about N images. places: int64 [N, Q], as in `labels`."""

    places: Tensor

    def to(self, question: str) -> list[str]:
        """The N answers to one question, as text."""
        return [QUESTIONS[question][place] for place in self.places[:, list(QUESTIONS).index(question)]]


@torch.no_grad()
def ask(judge: nn.Module, images: Images, batch_size: int = 128) -> Answers:
    """Answers all questions about each image: the most likely answers, averaged over the image and its mirror image.

    "pixelated" is measured instead, because the network misses more than half of the pixelated images.
    """
    places = []
    for start in range(0, len(images), batch_size):
        pixels = as_pixels(images[start : start + batch_size])
        both = zip(by_question(judge(pixels)), by_question(judge(pixels.flip(-1))), strict=True)
        places.append(torch.stack([(one.softmax(1) + other.softmax(1)).argmax(1) for one, other in both], 1))
        places[-1][:, list(QUESTIONS).index("pixelated")] = pixelated(pixels)
    return Answers(torch.cat(places))


def pixelated(pixels: Tensor) -> Tensor:
    """Whether images [N, 3, 64, 64] have few edges in the middle of their blocks, in both directions: bool [N].

    Without blocks, a quarter of all edges lies there.
    """
    edges = pixels.diff(dim=3).abs().sum((1, 2)), pixels.diff(dim=2).abs().sum((1, 3))
    return torch.stack([each[:, BLOCK // 2 - 1 :: BLOCK].sum(1) < INSIDE * each.sum(1) for each in edges]).all(0)


@dataclass(frozen=True)
class Rate:
    """The number of correct answers, and the number of images to which the question applies (asked)."""

    right: int
    asked: int

    @property
    def share(self) -> float:
        """From 0 to 1; NaN if the question applies to no image."""
        return self.right / self.asked if self.asked else float("nan")

    def __str__(self) -> str:
        return f"{100 * self.share:.1f} %" if self.asked else "-"


@dataclass(frozen=True)
class Rates:
    """How often images show what they should. everything: object, colour, scene and style are all correct."""

    object: Rate
    colour: Rate
    scene: Rate
    time: Rate
    style: Rate
    everything: Rate


def compare(answers: Answers, specs: Sequence[Spec]) -> Rates:
    """Compares answers with specs.

    A style is correct if its recolouring, its inks and all other effects are, and for a held-out style also its name. The colour
    counts if it is named and visible.
    """
    targets = labels(specs)
    asked = dict(zip(QUESTIONS, (targets != NOT_ASKED).unbind(1), strict=True))
    right = dict(zip(QUESTIONS, (answers.places == targets).unbind(1), strict=True))
    asked["colour"] = asked["colour"] & torch.tensor([spec.colour != "" for spec in specs], dtype=torch.bool)
    asked["named style"] = asked["named style"] & (targets[:, -1] != QUESTIONS["named style"].index("other"))
    found = {question: right[question] | ~asked[question] for question in QUESTIONS}
    style = torch.stack([found[question] for question in (*STYLE, "named style")]).all(0)
    everything = found["object"] & found["colour"] & found["scene"] & style
    single = {name: rate(right[name], asked[name]) for name in ("object", "colour", "scene", "time")}
    all_asked = torch.ones_like(style)
    return Rates(**single, style=rate(style, all_asked), everything=rate(everything, all_asked))


def rate(right: Tensor, asked: Tensor) -> Rate:
    """Counts two masks [N]."""
    return Rate(int((right & asked).sum()), int(asked.sum()))


def rates(judge: nn.Module, images: Images, specs: Sequence[Spec]) -> Rates:
    """How often the judge recognises what the specs of the images say."""
    return compare(ask(judge, images), specs)


def recognised(judge: nn.Module, images: Images, *, object: str = "", named_style: str = "") -> float:
    """The share of images that show this object, this held-out style, or both."""
    answers = ask(judge, images)
    targets = {"object": object, "named style": named_style}
    found = [answers.to(question) for question, answer in targets.items() if answer]
    named = tuple(answer for answer in targets.values() if answer)
    return sum(row == named for row in zip(*found, strict=True)) / len(images)


def parts(specs: Sequence[Spec]) -> dict[str, list[int]]:
    """The indices of all specs, of the unstyled and of the styled ones."""
    everything = range(len(specs))
    return {
        "all": list(everything),
        "unstyled": [index for index in everything if not specs[index].style],
        "styled": [index for index in everything if specs[index].style],
    }
