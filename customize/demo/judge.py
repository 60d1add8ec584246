"""The judge of the demo world: a small network, trained on renderings alone, that says what an image shows.

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
STYLE = ("recolouring", "first ink", "second ink", *OTHER_EFFECTS)  # the questions that a style is put together from
NOT_ASKED = -1
BLOCK, INSIDE = 4, 0.19  # pixels along a block of a pixelated picture; the share of edges that its middle may have

Pictures = np.ndarray | Tensor | Sequence[Image.Image]
"""N pictures: uint8, or float from 0 to 1, [N, side, side, 3]; or Pillow's."""


@dataclass(frozen=True)
class JudgedWorld(World):
    """The whole world, with what the generator never sees: objects, styles and combinations that are held out."""

    objects: tuple[str, ...] = QUESTIONS["object"]
    styled: float = 0.4
    held_out_styled: float = 0.2

    def spec(self, seed: int, index: int) -> Spec:
        """What picture `index` shows."""
        dice = random.Random(f"judged {seed} {index}")
        spec, chance = self.mixed(dice), dice.random()
        if chance < self.held_out_styled:
            return replace(spec, style=dice.choice(list(HELD_OUT_STYLES.values())))
        if chance < self.held_out_styled + self.styled:
            return replace(spec, style=sample_style(dice, self.effects, self.combined))
        return spec

    def mixed(self, dice: random.Random, **fixed: str) -> Spec:
        """Something without style that has the `fixed` fields; all others by chance, whatever is held out."""
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
    """The answers to those questions that can be asked about a picture of `spec`.

    A colour can be told where one was named or the thing can take none, and no effect recolours or inverts; the time
    where there is a sky; inks where they have words.
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
    """The true answers by their places in QUESTIONS: int64 [N, Q], NOT_ASKED where there is none."""
    rows = [truth(spec) for spec in specs]
    places = [[answers.index(row[q]) if q in row else NOT_ASKED for q, answers in QUESTIONS.items()] for row in rows]
    return torch.tensor(places).view(-1, len(QUESTIONS))


def as_pixels(pictures: Pictures) -> Tensor:
    """Pictures as the judge sees them: float32 [N, 3, 64, 64] from -1 to 1; larger ones are reduced."""
    if not isinstance(pictures, (np.ndarray, Tensor)):
        pictures = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
    pixels = torch.as_tensor(pictures)
    pixels = (pixels if pixels.is_floating_point() else pixels / 255).float().permute(0, 3, 1, 2)
    if pixels.shape[-1] != RESOLUTION:
        pixels = F.interpolate(pixels, size=(RESOLUTION, RESOLUTION), mode="area")
    return 2 * pixels - 1


class Block(nn.Module):
    """Two convolutions with a way around them (He et al. 2016); with `stride` 2 the side becomes half as long."""

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
        """pixels: [N, 3, 64, 64] from -1 to 1; returns logits [N, A], those of each question after each other."""
        x = self.blocks(F.relu(self.conv_in(pixels)))
        pooled = torch.cat([x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)], 1)
        return self.conv_out(pooled).flatten(1)


def by_question(logits: Tensor) -> tuple[Tensor, ...]:
    """Logits [N, A] in Q pieces."""
    return logits.split([len(answers) for answers in QUESTIONS.values()], 1)


def load_judge(file: Path | str = WEIGHTS) -> Judge:
    """The trained judge. Raises `ValueError` where it was asked other questions than this world's."""
    with safe_open(file, "pt") as opened:
        asked = json.loads((opened.metadata() or {})["questions"])
    if asked != {question: list(answers) for question, answers in QUESTIONS.items()}:
        raise ValueError(f"{file} was trained for another world: run python -m customize.demo.pretraining.train_judge again")
    judge = Judge()
    judge.load_state_dict({name: tensor.float() for name, tensor in load_file(file).items()}, strict=False)
    return judge.requires_grad_(False).eval()


@dataclass(frozen=True)
class Answers:
    """What the judge says of N pictures. places: int64 [N, Q], as `labels`."""

    places: Tensor

    def to(self, question: str) -> list[str]:
        """The N answers to one question, in words."""
        return [QUESTIONS[question][place] for place in self.places[:, list(QUESTIONS).index(question)]]


@torch.no_grad()
def ask(judge: nn.Module, pictures: Pictures, batch_size: int = 128) -> Answers:
    """Puts all questions about each picture, as it is and mirrored, and takes the likeliest answers.

    Whether it is pixelated is measured: the network itself misses more than half of those that are.
    """
    places = []
    for start in range(0, len(pictures), batch_size):
        pixels = as_pixels(pictures[start : start + batch_size])
        both = zip(by_question(judge(pixels)), by_question(judge(pixels.flip(-1))), strict=True)
        places.append(torch.stack([(one.softmax(1) + other.softmax(1)).argmax(1) for one, other in both], 1))
        places[-1][:, list(QUESTIONS).index("pixelated")] = pixelated(pixels)
    return Answers(torch.cat(places))


def pixelated(pixels: Tensor) -> Tensor:
    """Whether pictures [N, 3, 64, 64] have few edges in the middle of their blocks, across and down: bool [N].

    Where there are no blocks, a quarter of all edges lies there.
    """
    edges = pixels.diff(dim=3).abs().sum((1, 2)), pixels.diff(dim=2).abs().sum((1, 3))
    return torch.stack([each[:, BLOCK // 2 - 1 :: BLOCK].sum(1) < INSIDE * each.sum(1) for each in edges]).all(0)


@dataclass(frozen=True)
class Rate:
    """How many of those that were asked were right."""

    right: int
    asked: int

    @property
    def share(self) -> float:
        """From 0 to 1; not a number where nothing was asked."""
        return self.right / self.asked if self.asked else float("nan")

    def __str__(self) -> str:
        return f"{100 * self.share:.1f} %" if self.asked else "-"


@dataclass(frozen=True)
class Rates:
    """How often pictures show what they should. everything: object, colour, scene and style at once."""

    object: Rate
    colour: Rate
    scene: Rate
    time: Rate
    style: Rate
    everything: Rate


def compare(answers: Answers, specs: Sequence[Spec]) -> Rates:
    """Answers against what was asked for.

    A style is right when its recolouring, its inks and all other effects are; a held-out one also by its name. A colour
    is asked for where one was named and can be told.
    """
    wanted = labels(specs)
    asked = dict(zip(QUESTIONS, (wanted != NOT_ASKED).unbind(1), strict=True))
    right = dict(zip(QUESTIONS, (answers.places == wanted).unbind(1), strict=True))
    asked["colour"] = asked["colour"] & torch.tensor([spec.colour != "" for spec in specs], dtype=torch.bool)
    asked["named style"] = asked["named style"] & (wanted[:, -1] != QUESTIONS["named style"].index("other"))
    found = {question: right[question] | ~asked[question] for question in QUESTIONS}
    style = torch.stack([found[question] for question in (*STYLE, "named style")]).all(0)
    everything = found["object"] & found["colour"] & found["scene"] & style
    single = {name: rate(right[name], asked[name]) for name in ("object", "colour", "scene", "time")}
    all_asked = torch.ones_like(style)
    return Rates(**single, style=rate(style, all_asked), everything=rate(everything, all_asked))


def rate(right: Tensor, asked: Tensor) -> Rate:
    """Counts two masks [N]."""
    return Rate(int((right & asked).sum()), int(asked.sum()))


def rates(judge: nn.Module, pictures: Pictures, specs: Sequence[Spec]) -> Rates:
    """How often the judge finds in each picture what its spec says."""
    return compare(ask(judge, pictures), specs)


def recognised(judge: nn.Module, pictures: Pictures, *, object: str = "", named_style: str = "") -> float:
    """The share of pictures that show this object, in this held-out style, or both."""
    answers = ask(judge, pictures)
    wanted = {"object": object, "named style": named_style}
    found = [answers.to(question) for question, answer in wanted.items() if answer]
    named = tuple(answer for answer in wanted.values() if answer)
    return sum(row == named for row in zip(*found, strict=True)) / len(pictures)


def parts(specs: Sequence[Spec]) -> dict[str, list[int]]:
    """The places of all specs, of those without and of those with a style."""
    everything = range(len(specs))
    return {
        "all": list(everything),
        "unstyled": [index for index in everything if not specs[index].style],
        "styled": [index for index in everything if specs[index].style],
    }
