"""The demo world: small captioned images, composed of an object, its colour, a scene, a time of day and a style.

Everything is a function of (seed, index): `World(...).example(seed, index)` is the same everywhere. Held-out objects, styles
and combinations (`HELD_OUT_OBJECTS`, `HELD_OUT_STYLES`, `HELD_OUT_COMBINATIONS`) are never sampled.
"""

import random
from dataclasses import asdict, dataclass

from PIL import Image, ImageDraw, ImageFilter

from customize.demo.world.glyphs import COLOURS, HELD_OUT_OBJECTS, OBJECTS, sprite
from customize.demo.world.scenes import BACKDROPS, SCENES, Dice, draw_scene
from customize.demo.world.styles import EFFECTS, Effect, Style, apply_style, sample_style

RESOLUTION = 64

# Combinations of known things that are never sampled, to evaluate new combinations.
HELD_OUT_COMBINATIONS: tuple[dict[str, str], ...] = (
    {"object": "penguin", "scene": "desert"},
    {"object": "turtle", "scene": "city"},
    {"object": "sailboat", "scene": "forest"},
    {"object": "elephant", "scene": "snow"},
    {"object": "snowman", "scene": "beach"},
    {"object": "car", "colour": "yellow", "scene": "beach"},
    {"object": "teapot", "time": "night", "scene": "snow"},
    {"object": "cat", "scene": "underwater"},
    {"object": "house", "scene": "space"},
    {"object": "mushroom", "colour": "blue", "time": "night"},
    {"object": "pig", "colour": "green"},
    {"object": "sailboat", "colour": "purple"},
)

PLACES = {
    "plain": ("on a {backdrop} background", "on plain {backdrop}", "in front of a {backdrop} wall"),
    "beach": ("on the beach", "at the beach", "by the sea"),
    "forest": ("in the forest", "in a forest", "in the woods"),
    "snow": ("in the snow", "in a snowy landscape", "in winter"),
    "city": ("in the city", "in a city street", "in town"),
    "desert": ("in the desert", "among the dunes"),
    "underwater": ("under water", "at the bottom of the sea"),
    "space": ("in space", "among the stars"),
    "room": ("in a room", "indoors", "at home"),
}
TIMES = {
    "day": ("", "", "by day", "on a sunny day"),
    "sunset": ("at sunset", "at dusk"),
    "night": ("at night", "by night", "in the dark"),
}
SIZES = {"": (0.56, 0.66), "big": (0.72, 0.8), "small": (0.4, 0.46)}
SIZE_WORDS = {"": ("",), "big": ("big", "large"), "small": ("small", "tiny")}
PLAIN_PHRASES = ("{}", "{}", "{}", "a picture of {}", "a photo of {}", "an illustration of {}", "a drawing of {}")
LIGHT = {"day": (1, 1, 1), "sunset": (1.0, 0.88, 0.78), "night": (0.66, 0.68, 0.82)}


@dataclass(frozen=True)
class Spec:
    """The content of an image. `colour`, `backdrop` and `size` may be empty."""

    object: str
    scene: str
    colour: str = ""
    time: str = "day"
    backdrop: str = ""
    size: str = ""
    style: Style = ()

    def matches(self, part: dict[str, str]) -> bool:
        return all(getattr(self, field) == value for field, value in part.items())

    @classmethod
    def from_dict(cls, fields: dict) -> "Spec":
        style = tuple(Effect(effect["name"], tuple(effect["colours"])) for effect in fields["style"])
        return cls(**{**fields, "style": style})

    def to_dict(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class World:
    """The part of the world to sample from, and the amount of variation (`spread`, 0..1)."""

    objects: tuple[str, ...] = tuple(OBJECTS)
    scenes: tuple[str, ...] = ("plain", *SCENES)
    times: tuple[str, ...] = ("day", "day", "night", "sunset")
    colours: tuple[str, ...] = tuple(COLOURS)
    backdrops: tuple[str, ...] = tuple(BACKDROPS)
    sizes: tuple[str, ...] = ("", "", "big", "small")
    effects: tuple[str, ...] = tuple(EFFECTS)
    coloured: float = 0.6
    styled: float = 0.5
    combined: float = 0.2  # fraction of the styled images with two effects
    spread: float = 1.0

    def spec(self, seed: int, index: int) -> Spec:
        """The spec of image `index`; never a held-out combination."""
        dice = random.Random(f"spec {seed} {index}")
        while True:
            name, scene = dice.choice(self.objects), dice.choice(self.scenes)
            spec = Spec(
                object=name,
                scene=scene,
                colour=dice.choice(self.colours) if OBJECTS[name].hue is not None and dice.random() < self.coloured else "",
                time=dice.choice(self.times) if SCENES[scene][2] else "day",
                backdrop=dice.choice(self.backdrops) if scene == "plain" else "",
                size=dice.choice(self.sizes),
                style=sample_style(dice, self.effects, self.combined) if dice.random() < self.styled else (),
            )
            if not any(spec.matches(part) for part in HELD_OUT_COMBINATIONS):
                return spec

    def render(self, spec: Spec, seed: int, index: int, side: int = RESOLUTION) -> Image.Image:
        """Renders an image: RGB, [side, side], drawn at four times the size and downscaled."""
        return render(spec, Dice(f"picture {seed} {index}", self.spread), side)

    def captions(self, spec: Spec, seed: int, index: int, count: int = 4) -> tuple[str, ...]:
        return tuple(caption(spec, random.Random(f"caption {seed} {index} {number}")) for number in range(count))

    def example(self, seed: int, index: int) -> tuple[Image.Image, tuple[str, ...], Spec]:
        spec = self.spec(seed, index)
        return self.render(spec, seed, index), self.captions(spec, seed, index), spec


def render(spec: Spec, dice: Dice, side: int = RESOLUTION) -> Image.Image:
    """Renders the object in its scene and style: RGB, [side, side], drawn at four times the size and downscaled."""
    canvas = 4 * side
    image = draw_scene(spec.scene, spec.time, spec.backdrop, canvas, dice)
    thing = (OBJECTS | HELD_OUT_OBJECTS)[spec.object]
    cut_out = sprite(spec.object, spec.colour)
    if dice.flip():
        cut_out = cut_out.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    scale = dice.between(*SIZES[spec.size]) * canvas / max(cut_out.height, 0.85 * cut_out.width)
    size = round(cut_out.width * scale), round(cut_out.height * scale)
    cut_out = cut_out.resize(size, Image.Resampling.BICUBIC)
    cut_out = cut_out.rotate(dice.between(-8, 8), Image.Resampling.BICUBIC, expand=True)
    centre, ground = dice.between(0.4, 0.6) * canvas, (SCENES[spec.scene][1] + dice.between(-0.02, 0.04)) * canvas
    if thing.floats or spec.scene in ("underwater", "space"):
        ground -= dice.between(0.02, 0.12) * canvas
    else:
        _shadow(image, centre, ground, 0.4 * cut_out.width)
    *colours, alpha = cut_out.split()
    lit = [band.point(lambda value, k=k: value * k) for band, k in zip(colours, LIGHT[spec.time], strict=True)]
    corner = round(centre - cut_out.width / 2), round(ground - 0.97 * cut_out.height)
    image.paste(Image.merge("RGB", lit), corner, alpha)
    return apply_style(image.reduce(4), spec.style, dice.random)


def _shadow(image: Image.Image, centre: float, ground: float, radius: float) -> None:
    small = image.width // 4
    mask = Image.new("L", (small, small))
    x, y, r = centre / 4, ground / 4, radius / 4
    ImageDraw.Draw(mask).ellipse((x - r, y - 0.16 * r, x + r, y + 0.14 * r), fill=100)
    mask = mask.filter(ImageFilter.GaussianBlur(small / 64)).resize(image.size)
    image.paste((0, 0, 20), (0, 0), mask)


CONSONANTS = "bcdfghjklmnprstvwxz"
FOREIGN = ((0xC0, 0x24F), (0x400, 0x4FF), (0x4E00, 0x9FFF))  # ranges of Latin, Cyrillic and Chinese letters


def unknown_word(dice: random.Random) -> str:
    """A meaningless word, mostly of syllables, so that the model has seen every letter."""
    if dice.random() < 0.1:
        return "".join(chr(dice.randint(*dice.choice(FOREIGN))) for _ in range(2))
    syllables = range(dice.randint(2, 4))
    return "".join(dice.choice(CONSONANTS) + dice.choice("aeiouy") * (dice.random() < 0.7) for _ in syllables)


def caption(spec: Spec, dice: random.Random, noun: str = "") -> str:
    """A random caption of the image; `noun` replaces that of the object.

    Raises `ValueError` for a style that cannot be described.
    """
    thing = (OBJECTS | HELD_OUT_OBJECTS)[spec.object]
    noun = noun or (thing.kind if dice.random() < 0.06 else dice.choice(thing.nouns))
    if dice.random() < 0.1:
        noun = f"{unknown_word(dice)} {noun}"
    size = dice.choice(SIZE_WORDS[spec.size]) if spec.size == "small" or dice.random() < 0.3 else ""
    words = " ".join(word for word in (size, spec.colour, noun) if word)
    article = "the" if dice.random() < 0.06 else "an" if words[0] in "aeiou" else "a"
    place = dice.choice(PLACES[spec.scene]).format(backdrop=spec.backdrop)
    time = dice.choice(TIMES[spec.time]) if SCENES[spec.scene][2] else ""
    text = " ".join(word for word in (article, words, place, time) if word)
    if not spec.style:
        return dice.choice(PLAIN_PHRASES).format(text)
    for effect in spec.style:
        text = effect.say(text, dice)
    return text
