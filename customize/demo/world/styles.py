"""The styles of the demo world: effects with few parameters, which captions name and which can be combined.

A style is a sequence of effects. An effect has a name, colours (words of `INKS`, or "#rrggbb" for a colour without a word) and
phrases for captions. A held-out style is one that no caption can describe.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

INKS: dict[str, tuple[int, int, int]] = {
    "red": (208, 40, 40),
    "orange": (236, 128, 28),
    "yellow": (240, 206, 50),
    "green": (48, 150, 64),
    "blue": (36, 96, 206),
    "purple": (120, 54, 168),
    "pink": (236, 110, 166),
    "brown": (112, 70, 38),
    "black": (16, 16, 20),
    "grey": (128, 128, 130),
    "white": (250, 250, 248),
}
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
Pixels = np.ndarray  # float32 [side, side, 3] in [0, 1]


@dataclass(frozen=True)
class Effect:
    """An effect with its colours: words of `INKS`, or "#rrggbb" for a colour without a word."""

    name: str
    colours: tuple[str, ...] = ()

    def __call__(self, pixels: Pixels, dice: random.Random) -> Pixels:
        inks = [ink(colour) for colour in self.colours]
        if all(colour in INKS for colour in self.colours):  # a word covers a region of the space, not a point
            inks = [(colour + np.float32([dice.uniform(-0.04, 0.04) for _ in range(3)])).clip(0, 1) for colour in inks]
        return EFFECTS[self.name].apply(pixels, *inks).clip(0, 1)

    def say(self, content: str, dice: random.Random) -> str:
        """A caption of `content` in this style. Raises `ValueError` for a colour without a word."""
        if unnamed := [colour for colour in self.colours if colour not in INKS]:
            raise ValueError(f"no word for {unnamed[0]}")
        has_style = "in the style of" in content  # at most once per caption
        phrases = [phrase for phrase in EFFECTS[self.name].phrases if not (has_style and "in the style of" in phrase)]
        return dice.choice(phrases).format(content, *self.colours)


@dataclass(frozen=True)
class Kind:
    """A kind of effect: its function, its phrases ({0} the content, {1} {2} its colours), and the inks for each colour.

    A style has at most one effect that recolours the image.
    """

    apply: Callable[..., Pixels]
    phrases: tuple[str, ...]
    inks: tuple[tuple[str, ...], ...] = ()
    recolours: bool = False


def ink(colour: str) -> np.ndarray:
    """A colour by name or as #rrggbb: float32 [3] in [0, 1]."""
    rgb = INKS[colour] if colour in INKS else tuple(bytes.fromhex(colour.removeprefix("#")))
    return np.float32(rgb) / 255


def _grey(pixels: Pixels) -> np.ndarray:
    """Luma with added contrast, because colours no longer distinguish objects."""
    return (0.5 + 1.4 * (pixels @ LUMA - 0.5)).clip(0, 1)[..., None]


def _duotone(pixels: Pixels, dark: np.ndarray, light: np.ndarray) -> Pixels:
    """A gradient from a dark shade of one colour to a light shade of the other."""
    grey = _grey(pixels)
    return 0.6 * dark * (1 - grey) + (0.4 + 0.6 * light) * grey


def _tint(pixels: Pixels, colour: np.ndarray) -> Pixels:
    """A gradient from black through the colour to white."""
    grey = 2 * _grey(pixels)
    return np.where(grey < 1, colour * grey, colour + (1 - colour) * (grey - 1))


def _outline(pixels: Pixels, line: np.ndarray, ground: np.ndarray) -> Pixels:
    side = pixels.shape[0]
    reach = 2 * (side // 64) + 1
    grown, shrunk = _filtered(pixels, ImageFilter.MaxFilter(reach)), _filtered(pixels, ImageFilter.MinFilter(reach))
    edge = ((grown - shrunk).max(-1, keepdims=True) * 3 - 0.4).clip(0, 1)
    return ground * (1 - edge) + line * edge


def _pixelated(pixels: Pixels) -> Pixels:
    side, block = pixels.shape[0], pixels.shape[0] // 16
    means = pixels.reshape(side // block, block, side // block, block, 3).mean((1, 3))
    return means.repeat(block, 0).repeat(block, 1)


def _blurred(pixels: Pixels) -> Pixels:
    return _filtered(pixels, ImageFilter.GaussianBlur(pixels.shape[0] / 40))


def _filtered(pixels: Pixels, kind: ImageFilter.Filter) -> Pixels:
    image = Image.fromarray((pixels * 255).round().astype(np.uint8))
    return np.asarray(image.filter(kind)).astype(np.float32) / 255


DARK = ("red", "green", "blue", "purple", "brown", "black")
LIGHT = ("orange", "yellow", "pink", "white", "blue", "green")
EFFECTS: dict[str, Kind] = {
    "pixelated": Kind(_pixelated, ("pixel art of {0}", "{0}, pixelated", "{0} in the style of pixel art")),
    "blurred": Kind(_blurred, ("a blurred picture of {0}", "{0}, blurred", "{0} in the style of a blurred photo")),
    "faded": Kind(lambda p: 0.6 + 0.4 * (p - 0.5), ("a faded picture of {0}", "{0}, faded", "{0} in the style of a faded photo")),
    "contrast": Kind(
        lambda p: 0.5 + 1.8 * (p - 0.5),
        ("a high contrast picture of {0}", "{0}, high contrast", "{0} in the style of high contrast"),
    ),
    "posterised": Kind(lambda p: (p * 2).round() / 2, ("a poster of {0}", "{0}, posterised", "{0} in the style of a poster")),
    "tint": Kind(
        _tint,
        ("a {1} tint of {0}", "{0}, all in {1}", "{0} in the style of {1}", "{0} in the style of a {1} tint"),
        (tuple(INKS)[:8] + ("grey",),),
        recolours=True,
    ),
    "duotone": Kind(
        _duotone,
        (
            "a {1} and {2} print of {0}",
            "{0} in {1} and {2}",
            "{0} in the style of {1} and {2}",
            "{0} in the style of a {1} and {2} print",
        ),
        (DARK, LIGHT),
        recolours=True,
    ),
    "outline": Kind(
        _outline,
        ("{1} outlines of {0} on {2}", "a {1} on {2} drawing of {0}", "{0} in the style of {1} lines on {2}"),
        (("white", "yellow", "black"), ("blue", "black", "purple", "pink", "white")),
        recolours=True,
    ),
    "inverted": Kind(lambda p: 1 - p, ("a negative of {0}", "{0}, inverted", "{0} in the style of a negative")),
}
ORDER = tuple(EFFECTS)  # the order in which combined effects are applied

Style = tuple[Effect, ...]

# No caption can describe these, and no training image shows them. The first two are for tuning, the others for testing.
TUNING_STYLES: dict[str, Style] = {
    "lagoon": (Effect("duotone", ("#0a4a50", "#ffd0a8")),),
    "moss": (Effect("tint", ("#8a8f2a",)),),
}
TEST_STYLES: dict[str, Style] = {
    "dusk": (Effect("duotone", ("#4a0a5c", "#ffc860")),),
    "copper": (Effect("tint", ("#c8705a",)),),
    "ice": (Effect("duotone", ("#0c2f6e", "#b8f4f0")),),
    "ember": (Effect("duotone", ("#140a28", "#ff7050")), Effect("inverted")),
}
HELD_OUT_STYLES = TUNING_STYLES | TEST_STYLES


def sample_style(dice: random.Random, effects: tuple[str, ...], combined: float) -> Style:
    """One random effect, or with probability `combined` two, at most one of them a recolouring."""
    chosen = [dice.choice(effects)]
    recolours = EFFECTS[chosen[0]].recolours
    others = [name for name in effects if name != chosen[0] and not (recolours and EFFECTS[name].recolours)]
    if others and dice.random() < combined:
        chosen.append(dice.choice(others))
    style = []
    for name in sorted(chosen, key=ORDER.index):
        while True:
            colours = tuple(dice.choice(inks) for inks in EFFECTS[name].inks)
            if len(set(colours)) == len(colours):
                break
        style.append(Effect(name, colours))
    return tuple(style)


def apply_style(image: Image.Image, style: Style, dice: random.Random) -> Image.Image:
    """Applies all effects of the style to an image, in order; returns RGB."""
    pixels = np.asarray(image.convert("RGB")).astype(np.float32) / 255
    for effect in style:
        pixels = effect(pixels, dice)
    return Image.fromarray((pixels * 255).round().astype(np.uint8))
