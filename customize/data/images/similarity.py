"""Image features for finding near-duplicates (a perceptual hash and colours) and blurred images (sharpness).

Shapes: `h w` height and width; a grey image is np.float32 [h, w] in [0, 255].
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

SIDE, WAVES, TILES = 32, 8, 4
COSINES = np.cos(np.pi / SIDE * np.outer(np.arange(1, WAVES + 1), np.arange(SIDE) + 0.5))
"""[8, 32]: rows 1 to 8 of the discrete cosine transform (type II), without the constant row 0."""
DUPLICATE_BITS, DUPLICATE_COLOURS = 8, 32.0
"""Near-duplicates differ in at most this many of 64 bits, and in at most this mean difference of their tiles' colours.

Measured on 21 photographs: copies as JPEG of quality 30, at half and at double size differ in at most 6 bits; 20 of 21
cropped by 1% and 15 of 21 cropped by 2.5% on each side are still found; different photographs differ in 12 or more.
"""
MOST_PAIRS = 10_000
"""Of 10,000 images of one video nearly every pair is one."""
SHARP = 0.6
"""An image with a lower `sharpness` is blurred.

Measured on 17 photographs at 512 pixels: sharp they have 0.70 to 1.12, blurred by a Gaussian of 1.5 pixels or more 0.48
to 0.58. Noise hides blur: with a standard deviation of 5 of 255 it is seldom found.
"""


@dataclass(frozen=True)
class Features:
    """fingerprint: 64 bits; colours: the means of 4 x 4 tiles in RGB, 48 bytes; sharpness: see `sharpness`."""

    fingerprint: int
    colours: bytes
    sharpness: float


def measure(image: Image.Image, resolution: int) -> Features:
    """The features of an RGB image; sharpness after reducing the short side to `resolution`, if it is longer."""
    grey = image.convert("L")
    colours = image.resize((TILES, TILES), Image.Resampling.BOX, reducing_gap=1.0).tobytes()
    scale = resolution / min(grey.size)
    if scale < 1:
        size = max(1, round(grey.width * scale)), max(1, round(grey.height * scale))
        grey = grey.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    return Features(fingerprint(grey), colours, sharpness(np.asarray(grey, np.float32)))


def fingerprint(grey: Image.Image) -> int:
    """A 64-bit hash that hardly changes with size, compression and brightness.

    pHash (Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions", 3.2.1): whether each of the
    8 x 8 lowest frequencies of the image at 32 x 32 pixels, without the constant ones, is above their median.
    """
    pixels = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.LANCZOS), np.float64)
    waves = np.round(COSINES @ pixels @ COSINES.T, 3)  # so that rounding errors make no pattern in a flat image
    return int.from_bytes(np.packbits(waves > np.median(waves)).tobytes())


def sharpness(grey: np.ndarray) -> float:
    """The slope of the steepest edges, divided by their slope at half the size; the minimum over two halvings.

    About 1 for an edge as sharp as pixels can show, 1/2 for an edge so wide that halving doubles its slope. As a ratio, it
    does not depend on contrast or content. Flat and very small images count as sharp (1).
    """
    slopes = []
    for _ in range(3):
        if min(grey.shape) < 8:
            break
        slopes.append(_steepest(grey))
        height, width = (side // 2 * 2 for side in grey.shape)
        rows = grey[:height:2, :width] + grey[1:height:2, :width]
        grey = (rows[:, ::2] + rows[:, 1::2]) / 4  # exact, like the sums
    if not slopes or max(slopes) < 1:
        return 1.0
    return min((float(fine / coarse) for fine, coarse in zip(slopes, slopes[1:], strict=False) if coarse > 0), default=1.0)


def near_duplicates(images: Sequence[Features]) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of near-duplicates, most similar first; of many, about the first `MOST_PAIRS`."""
    prints = np.array([image.fingerprint for image in images], np.uint64)
    colours = np.array([np.frombuffer(image.colours, np.uint8) for image in images], np.int16)
    pairs: list[tuple[int, int, int]] = []
    for i in range(len(images) - 1):
        bits = np.bitwise_count(prints[i] ^ prints[i + 1 :])
        near = np.flatnonzero(bits <= DUPLICATE_BITS)
        near = near[np.abs(colours[i] - colours[i + 1 + near]).mean(axis=1) <= DUPLICATE_COLOURS]
        pairs += ((int(bits[j]), i, int(i + 1 + j)) for j in near)
        if len(pairs) >= MOST_PAIRS:
            break
    return [(i, j) for _, i, j in sorted(pairs)]


def _steepest(grey: np.ndarray) -> float:
    """The slope that one pixel in a hundred exceeds, in levels per pixel."""
    squares, down = grey[:-1, 1:] - grey[:-1, :-1], grey[1:, :-1] - grey[:-1, :-1]
    squares *= squares
    down *= down
    squares += down
    place = int(0.99 * (squares.size - 1))
    values = squares.ravel()
    values.partition(place)
    return float(np.sqrt(values[place]))
