"""An animation of an illusion: the image moves to each of its readings, rests there with its prompt beneath, and moves back.

H W height and width of the image, h w of a frame's.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from customize.inference.explain.contact_sheet import GAP, MARGIN, PAPER, box_of, font_for, gif, wrapped, write
from customize.inference.explain.lessons import to_image
from customize.inference.explain.trace import few_colours, in_colours
from customize.inference.illusions.readings import Reading
from customize.inference.inpainting import as_pixels

SIDE = 256
"""The largest side of the image in a frame. Smaller images are enlarged by an integer factor, larger ones reduced."""
SMOOTH = 2
"""How many times larger small images are drawn than they are shown, so that moving edges are smooth."""
FONT_SIZE = 16
STEPS, MOVING, RESTING = 16, 60, 1800
"""The steps from the image to a reading; for how many milliseconds one of them is shown, and a reading."""


def animation(image: Image.Image, readings: Sequence[Reading]) -> bytes:
    """A looping GIF. Readings that equal the image (such as the first of most anagrams) need no motion."""
    moving = [each for each in readings if each.image != image]
    own = " / ".join(each.prompt for each in readings if each not in moving) or "the image"
    pixels, film = as_pixels(image), []
    for reading in moving or readings[:1]:
        frames = [frame(pixels, reading, step / STEPS) for step in range(STEPS + 1)]
        way = [(each, "", MOVING) for each in frames[1:-1]]
        film += [(frames[0], own, RESTING), *way, (frames[-1], reading.prompt, RESTING), *reversed(way)]
    sheets = captioned([each for each, _, _ in film], [label for _, label, _ in film])
    indices, palette = few_colours(np.stack(sheets))
    return gif([in_colours(each, palette) for each in indices], [duration for _, _, duration in film])


def frame(pixels: Tensor, reading: Reading, fraction: float) -> Image.Image:
    """The image [1, 3, H, W] in [-1, 1] at this fraction of the time from itself (0) to the reading (1)."""
    longest = max(pixels.shape[-2:])
    scale = SMOOTH * (SIDE // longest) or 1
    size = [round(side * (scale / SMOOTH if longest <= SIDE else SIDE / longest)) for side in pixels.shape[-2:]]
    eased = fraction**2 * (3 - 2 * fraction)  # slow at both ends
    return to_image(F.interpolate(reading.moved(pixels.double(), eased, scale), size, mode="area"))


def captioned(frames: Sequence[Image.Image], labels: Sequence[str]) -> list[np.ndarray]:
    """Each frame on white paper with its label beneath, [height, width, 3] uint8; all have one size."""
    (width, height), font = frames[0].size, font_for("".join(labels), FONT_SIZE)
    texts = {label: wrapped(label, font, width) for label in labels}
    below = max(box_of(text, font)[1] for text in texts.values())
    sheets = []
    for picture, label in zip(frames, labels, strict=True):
        sheet = Image.new("RGB", (width + 2 * MARGIN, height + 2 * MARGIN + GAP + below), PAPER)
        sheet.paste(picture, (MARGIN, MARGIN))
        write(ImageDraw.Draw(sheet), texts[label], font, sheet.width // 2, MARGIN + height + GAP, 0.5)
        sheets.append(np.asarray(sheet))
    return sheets
