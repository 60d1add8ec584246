"""The scenes of the demo world, in fractions of the image's side: large simple shapes that a small model can learn."""

import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[float, float, float]

BACKDROPS: dict[str, Colour] = {
    "white": (244, 244, 242),
    "yellow": (248, 214, 92),
    "orange": (246, 160, 84),
    "pink": (244, 168, 196),
    "purple": (166, 132, 212),
    "blue": (112, 174, 236),
    "green": (134, 200, 124),
    "grey": (160, 163, 168),
    "black": (30, 30, 34),
}
SKIES: dict[str, tuple[Colour, Colour]] = {
    "day": ((92, 168, 240), (198, 230, 250)),
    "sunset": ((120, 84, 160), (255, 176, 108)),
    "night": ((10, 14, 46), (48, 56, 110)),
}
BRIGHTNESS = {"day": 1.0, "sunset": 0.85, "night": 0.45}


class Dice:
    """Random numbers with adjustable spread: at 0 each is the middle of its range, at 1 it covers the whole range."""

    def __init__(self, seed: str, spread: float):
        self.random = random.Random(seed)
        self.spread = spread

    def between(self, low: float, high: float) -> float:
        middle, half = (low + high) / 2, (high - low) / 2
        return middle + self.spread * half * (2 * self.random.random() - 1)

    def flip(self) -> bool:
        """A coin flip; always False if the spread is below one half."""
        return self.random.random() < 0.5 and self.spread >= 0.5


class Canvas:
    """A square image with coordinates from 0 to 1."""

    def __init__(self, side: int, top: Colour, bottom: Colour, brightness: float = 1.0):
        rows = np.linspace(0, 1, side)[:, None] * (np.array(bottom) - np.array(top)) + np.array(top)
        self.image = Image.fromarray(np.repeat(rows[:, None], side, 1).clip(0, 255).astype(np.uint8))
        self.side, self.brightness = side, brightness
        self.draw = ImageDraw.Draw(self.image)

    def lit(self, colour: Colour) -> tuple[int, ...]:
        return tuple(min(255, int(value * self.brightness)) for value in colour)

    def polygon(self, points: list[tuple[float, float]], colour: Colour) -> None:
        self.draw.polygon([(x * self.side, y * self.side) for x, y in points], fill=self.lit(colour))

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour)

    def disc(self, x: float, y: float, radius: float, colour: Colour, glows: bool = False, flat: float = 1.0) -> None:
        n, fill = self.side, tuple(map(int, colour)) if glows else self.lit(colour)
        self.draw.ellipse(((x - radius) * n, (y - radius * flat) * n, (x + radius) * n, (y + radius * flat) * n), fill=fill)

    def hills(self, top: float, height: float, waves: float, phase: float, colour: Colour) -> None:
        xs = np.linspace(0, 1, 49)
        ridge = [(x, top + height * np.sin(6.283 * (waves * x + phase))) for x in xs]
        self.polygon([*ridge, (1, 1), (0, 1)], colour)

    def pine(self, x: float, base: float, height: float, colour: Colour, snow: bool = False) -> None:
        self.box(x - height * 0.05, base - height * 0.2, x + height * 0.05, base, (96, 66, 44))
        for tier, width in ((0.15, 0.3), (0.45, 0.22)):
            tip, foot = base - height * min(1, tier + 0.55), base - height * tier
            self.polygon([(x - height * width, foot), (x + height * width, foot), (x, tip)], colour)
            if snow:
                middle = (tip + foot) / 2
                self.polygon([(x - height * width / 2, middle), (x + height * width / 2, middle), (x, tip)], (244, 248, 255))

    def sky_lights(self, time: str, dice: Dice) -> None:
        x, y = dice.between(0.12, 0.3), dice.between(0.1, 0.2)
        if time == "night":
            for column in range(6):
                self.disc(0.08 + 0.17 * column, dice.between(0.03, 0.4), 0.012, (240, 238, 214), glows=True)
            self.disc(x, y, 0.075, (246, 240, 205), glows=True)
        elif time == "sunset":
            self.disc(x, dice.between(0.34, 0.42), 0.1, (255, 236, 160), glows=True)
        else:
            self.disc(x, y, 0.08, (255, 228, 100))
            cloud_x, cloud_y = dice.between(0.7, 0.88), dice.between(0.1, 0.2)
            for offset, radius in ((-0.07, 0.045), (0, 0.065), (0.07, 0.045)):
                self.disc(cloud_x + offset, cloud_y, radius, (250, 252, 255), flat=0.8)


def _beach(canvas: Canvas, time: str, dice: Dice) -> None:
    canvas.box(0, dice.between(0.44, 0.5), 1, 0.72, (32, 130, 200))
    canvas.hills(dice.between(0.66, 0.7), 0.015, 1.2, dice.between(0, 1), (236, 246, 250))
    canvas.hills(dice.between(0.69, 0.72), 0.015, 1.2, dice.between(0, 1), (240, 212, 148))
    trunk = dice.between(0.86, 0.94)
    canvas.polygon([(trunk, 0.82), (trunk + 0.035, 0.82), (trunk + 0.02, 0.36), (trunk - 0.01, 0.36)], (140, 98, 60))
    for x, y in ((-0.16, 0.42), (-0.12, 0.3), (0.04, 0.26), (0.12, 0.42)):
        canvas.polygon([(trunk, 0.35), (trunk + x, y), (trunk + 0.02, 0.39)], (52, 152, 72))


def _forest(canvas: Canvas, time: str, dice: Dice) -> None:
    for index in range(7):
        canvas.pine((index + dice.between(0.2, 0.8)) / 7, 0.7, dice.between(0.36, 0.5), (44, 116, 66))
    canvas.box(0, 0.69, 1, 1, (104, 166, 74))
    for x in (dice.between(0, 0.1), dice.between(0.9, 1)):
        canvas.pine(x, 0.84, dice.between(0.62, 0.72), (32, 92, 52))


def _snow(canvas: Canvas, time: str, dice: Dice) -> None:
    canvas.hills(dice.between(0.5, 0.56), 0.05, 1.0, dice.between(0, 1), (196, 214, 238))
    for x in (dice.between(0.04, 0.14), dice.between(0.24, 0.32), dice.between(0.72, 0.8), dice.between(0.9, 0.98)):
        canvas.pine(x, 0.7, dice.between(0.28, 0.36), (60, 124, 112), snow=True)
    canvas.hills(dice.between(0.66, 0.7), 0.015, 1.0, dice.between(0, 1), (246, 250, 255))
    for index in range(12):
        canvas.disc((index + 0.5) / 12, dice.between(0.02, 0.98), 0.012, (255, 255, 255), glows=True)


def _city(canvas: Canvas, time: str, dice: Dice) -> None:
    window = (214, 234, 248) if time == "day" else (255, 224, 110)
    colours = [(184, 116, 92), (124, 142, 168), (204, 182, 146), (150, 134, 156)]
    for index in range(5):
        left, top = index / 5, 0.72 - dice.between(0.3, 0.52)
        canvas.box(left, top, left + 0.19, 0.74, colours[(index + dice.random.randrange(4) * dice.flip()) % 4])
        for row in np.arange(top + 0.05, 0.66, 0.13):
            for column in (left + 0.03, left + 0.115):
                canvas.draw.rectangle([v * canvas.side for v in (column, row, column + 0.05, row + 0.065)], fill=window)
    canvas.box(0, 0.73, 1, 0.78, (190, 188, 184))
    canvas.box(0, 0.78, 1, 1, (92, 94, 100))


def _desert(canvas: Canvas, time: str, dice: Dice) -> None:
    canvas.hills(dice.between(0.54, 0.6), 0.06, 0.9, dice.between(0, 1), (224, 164, 92))
    canvas.hills(dice.between(0.66, 0.72), 0.03, 1.1, dice.between(0, 1), (240, 192, 118))
    x, height = dice.between(0.86, 0.93), dice.between(0.26, 0.36)
    for offset, bottom, top in ((0, 0.8, 0.8 - height), (-0.07, 0.66, 0.58), (0.07, 0.62, 0.54)):
        canvas.box(x + offset - 0.025, top, x + offset + 0.025, bottom, (66, 138, 74))
    canvas.box(x - 0.07, 0.62, x + 0.07, 0.665, (66, 138, 74))


def _underwater(canvas: Canvas, time: str, dice: Dice) -> None:
    canvas.hills(dice.between(0.82, 0.88), 0.025, 1.0, dice.between(0, 1), (208, 192, 138))
    for x in (dice.between(0.04, 0.14), dice.between(0.2, 0.28), dice.between(0.8, 0.9)):
        height = dice.between(0.2, 0.4)
        canvas.polygon([(x - 0.03, 0.9), (x + 0.03, 0.9), (x + 0.045, 0.9 - height)], (36, 138, 88))
    for index in range(5):
        canvas.disc((index + 0.5) / 5, dice.between(0.05, 0.5), dice.between(0.015, 0.03), (196, 236, 248))


def _space(canvas: Canvas, time: str, dice: Dice) -> None:
    for index in range(16):
        canvas.disc((index + 0.5) / 16, dice.between(0.02, 0.98), 0.01, (240, 240, 255))
    x, y = dice.between(0.1, 0.2), dice.between(0.14, 0.24)
    canvas.disc(x, y, 0.2, (226, 206, 166), flat=0.25)
    canvas.disc(x, y, 0.115, (214, 136, 88))


def _room(canvas: Canvas, time: str, dice: Dice) -> None:
    canvas.box(0, 0.68, 1, 1, (168, 116, 76))
    canvas.box(0, 0.66, 1, 0.685, (250, 248, 240))
    left = dice.between(0.06, 0.14)
    canvas.box(left, 0.1, left + 0.28, 0.46, (250, 248, 240))
    for x in (left + 0.03, left + 0.155):
        canvas.box(x, 0.13, x + 0.095, 0.43, (150, 206, 246))


def _plain(canvas: Canvas, time: str, dice: Dice) -> None:
    """Only the backdrop."""


# scene -> (draw function, height of the ground, whether it has a sky and a time of day)
SCENES: dict[str, tuple[Callable[[Canvas, str, Dice], None], float, bool]] = {
    "plain": (_plain, 0.86, False),
    "beach": (_beach, 0.88, True),
    "forest": (_forest, 0.88, True),
    "snow": (_snow, 0.88, True),
    "city": (_city, 0.89, True),
    "desert": (_desert, 0.88, True),
    "underwater": (_underwater, 0.88, False),
    "space": (_space, 0.86, False),
    "room": (_room, 0.88, False),
}
INDOOR_GRADIENTS: dict[str, tuple[Colour, Colour]] = {
    "underwater": ((84, 200, 222), (12, 84, 146)),
    "space": ((12, 8, 34), (46, 22, 84)),
    "room": ((240, 218, 184), (232, 206, 168)),
}


def draw_scene(scene: str, time: str, backdrop: str, side: int, dice: Dice) -> Image.Image:
    """The empty scene: RGB, [side, side]."""
    draw, _, has_sky = SCENES[scene]
    if scene == "plain":
        colour = np.array(BACKDROPS[backdrop])
        canvas = Canvas(side, tuple(colour * 1.02), tuple(colour * 0.93))
    elif has_sky:
        canvas = Canvas(side, *SKIES[time], brightness=BRIGHTNESS[time])
        canvas.sky_lights(time, dice)
    else:
        canvas = Canvas(side, *INDOOR_GRADIENTS[scene])
    draw(canvas, time, dice)
    return canvas.image
