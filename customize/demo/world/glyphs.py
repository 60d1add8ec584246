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
BITMAP_SIZE = 109  # the one size in which the font holds its pictures


@dataclass(frozen=True)
class Object:
    """Something that can stand in a scene. `hue` (0..255): which part of the glyph takes another colour, if any."""

    glyph: str
    nouns: tuple[str, ...]
    kind: str
    hue: int | None = None
    floats: bool = False


def _table(kind: str, **glyphs: str) -> dict[str, Object]:
    return {name: Object(glyph, (name.replace("_", " "),), kind, HUES.get(name)) for name, glyph in glyphs.items()}


# The hue of that part of a glyph which a colour word repaints.
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

# Never drawn for training: the subjects that a user brings. The first two are for tuning, the others for testing.
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
    """The object cut out of its background: RGBA, about 128 pixels, in `colour` if one is named.

    Raises `ValueError` for a colour that the object cannot take.
    """
    thing = (OBJECTS | HELD_OUT_OBJECTS)[name]
    picture = Image.new("RGBA", (150, 150))
    font = ImageFont.truetype(str(FONT), BITMAP_SIZE)
    ImageDraw.Draw(picture).text((5, 5), thing.glyph, font=font, embedded_color=True)
    picture = picture.crop(picture.getbbox())
    if not colour:
        return picture
    if thing.hue is None:
        raise ValueError(f"a {name} has its own colours and cannot be {colour}")
    hue, saturation, value = COLOURS[colour]
    hsv = np.asarray(picture.convert("RGB").convert("HSV")).astype(np.float32)
    distance = np.abs((hsv[..., 0] - thing.hue + 128) % 256 - 128)
    part = (distance < 24) & (hsv[..., 1] > 60)
    saturation *= max(1.0, 130 / np.median(hsv[part, 1]))  # a pale pig shall be a plainly blue one
    turned = np.stack([np.full_like(distance, hue), hsv[..., 1] * saturation, hsv[..., 2] * value], -1)
    hsv = np.where(part[..., None], turned, hsv)
    recoloured = Image.fromarray(hsv.clip(0, 255).astype(np.uint8), "HSV").convert("RGB")
    recoloured.putalpha(picture.getchannel("A"))
    return recoloured
