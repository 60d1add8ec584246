"""The objects of the demo world: glyphs of Noto Color Emoji (SIL Open Font License 1.1), some of them recoloured.

Only drawing the world needs the font (Debian: `fonts-noto-color-emoji`); the shipped model does not.
"""

import functools
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FONT = Path(os.environ.get("NOTO_COLOR_EMOJI", "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"))
BITMAP_SIZE = 109  # the only bitmap size of the font


@dataclass(frozen=True)
class Object:
    """An object of a scene. `hue` (0..255): the hue of the part of the glyph that can be recoloured, if any."""

    glyph: str
    nouns: tuple[str, ...]
    kind: str
    hue: int | None = None
    floats: bool = False


def _table(kind: str, **glyphs: str) -> dict[str, Object]:
    return {name: Object(glyph, (name.replace("_", " "),), kind, HUES.get(name)) for name, glyph in glyphs.items()}


# The hue of the part of a glyph that a colour word recolours.
HUES = dict(
    **dict(cat=26, turtle=46, frog=42, pig=10, chick=26, fish=38, whale=130, crab=14, octopus=10, butterfly=22, ladybug=2),
    **dict(snail=14, fox=14, bus=134, sailboat=6, rocket=2, house=18, tent=14, strawberry=2, pear=42, tulip=234, sunflower=22),
    **dict(cactus=54, drum=2, crown=30, bell=30, lantern=10),
)
OBJECTS: dict[str, Object] = {
    **_table("animal", cat="🐈", dog="🐕", elephant="🐘", turtle="🐢", duck="🦆", penguin="🐧", frog="🐸"),
    **_table("animal", pig="🐖", cow="🐄", lion="🦁", rabbit="🐇", chick="🐥", fish="🐠", whale="🐳"),
    **_table("animal", crab="🦀", octopus="🐙", butterfly="🦋", ladybug="🐞", snail="🐌", fox="🦊", panda="🐼"),
    **_table("vehicle", bus="🚌", sailboat="⛵", rocket="🚀", tractor="🚜", train="🚂"),
    **_table("building", house="🏠", castle="🏰", tent="⛺"),
    **_table("fruit", strawberry="🍓", pear="🍐", pineapple="🍍"),
    **_table("plant", cactus="🌵", sunflower="🌻", tulip="🌷"),
    **_table("thing", cake="🎂", snowman="⛄", drum="🥁", crown="👑", bell="🔔", lantern="🏮"),
    "car": Object("🚗", ("car", "automobile"), "vehicle", hue=0),
    "apple": Object("🍎", ("apple",), "fruit", hue=6),
    "mushroom": Object("🍄", ("mushroom", "toadstool"), "plant", hue=8),
    "balloon": Object("🎈", ("balloon",), "toy", hue=2, floats=True),
    "umbrella": Object("☂", ("umbrella", "parasol"), "thing", hue=174),
    "teapot": Object("🫖", ("teapot",), "thing", hue=4),
}

# Never part of the training images: subjects for users to train. The first two are for tuning, the others for testing.
TUNING_SUBJECTS = _table("toy", dinosaur="🦕", robot="🤖")
TEST_SUBJECTS = _table("toy", teddy_bear="🧸", pumpkin="🎃", parrot="🦜", flying_saucer="🛸")
HELD_OUT_OBJECTS = TUNING_SUBJECTS | TEST_SUBJECTS

# colour -> (hue 0..255, factor on saturation, factor on value)
COLOURS = {
    "red": (0, 1.0, 1.0),
    "orange": (18, 1.0, 1.05),
    "yellow": (34, 1.0, 1.15),
    "green": (88, 0.9, 0.85),
    "blue": (156, 1.0, 1.0),
    "purple": (198, 0.8, 0.85),
    "pink": (235, 0.6, 1.1),
}


@functools.cache
def sprite(name: str, colour: str = "") -> Image.Image:
    """The object on a transparent background: RGBA, about 128 pixels, in `colour` if it is given.

    Raises `ValueError` if the object cannot be recoloured.
    """
    thing = (OBJECTS | HELD_OUT_OBJECTS)[name]
    image = Image.new("RGBA", (150, 150))
    font = ImageFont.truetype(str(FONT), BITMAP_SIZE)
    ImageDraw.Draw(image).text((5, 5), thing.glyph, font=font, embedded_color=True)
    image = image.crop(image.getbbox())
    if not colour:
        return image
    if thing.hue is None:
        raise ValueError(f"a {name} has its own colours and cannot be {colour}")
    hue, saturation, value = COLOURS[colour]
    hsv = np.asarray(image.convert("RGB").convert("HSV")).astype(np.float32)
    distance = np.abs((hsv[..., 0] - thing.hue + 128) % 256 - 128)
    part = (distance < 24) & (hsv[..., 1] > 60)
    saturation *= max(1.0, 130 / np.median(hsv[part, 1]))  # so that pale objects get a strong colour, too
    turned = np.stack([np.full_like(distance, hue), hsv[..., 1] * saturation, hsv[..., 2] * value], -1)
    hsv = np.where(part[..., None], turned, hsv)
    recoloured = Image.fromarray(hsv.clip(0, 255).astype(np.uint8), "HSV").convert("RGB")
    recoloured.putalpha(image.getchannel("A"))
    return recoloured
