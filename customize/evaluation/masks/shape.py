"""The shape of the subject: a coarse map of where it may be, spread along the colours of the image, and cut in two.

Attention maps have a few dozen cells a side. The random walk of Grady 2006, "Random Walks for Image Segmentation", here with a
weight for the map at every pixel, carries them to the edges in the image; the threshold is that of Otsu 1979, "A Threshold
Selection Method from Gray-Level Histograms". h w height and width of the image as it is worked on, K maps of it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage, sparse
from scipy.sparse.linalg import splu

SIDE = 96
"""The long side in pixels at which shapes are found."""
EDGES = 3.0
"""How much the walk avoids edges: pixels that differ by the mean difference of the image have a weight of exp(-EDGES)."""
REACH = 12.0
"""The walk goes this far, as the side of the image over the square root of `REACH`, where there is no edge."""
WEAKEST = 1e-5
BINS, ROUNDING = 64, 1e-9
LEAST_PART = 0.1
"""Smaller parts, relative to the largest one, are dropped."""


class Shape(NamedTuple):
    """pixels: bool [h, w]; confidence: the share of the variance of the map that lies between inside and outside (Otsu's
    criterion), 0 to 1: 0.75 for a map without any edge, such as a slope."""

    pixels: np.ndarray
    confidence: float


def shapes_of(image: Image.Image, maps: Sequence[np.ndarray]) -> list[Shape]:
    """The shapes in an RGB image that maps of any resolution point to."""
    small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    fine = [Image.fromarray(each.astype(np.float32)).resize(small.size, Image.Resampling.BILINEAR) for each in maps]
    walked = walk(np.asarray(small).astype(np.float64) / 255, np.stack([in_two(np.asarray(each)) for each in fine]))
    found = [(each, *otsu(each)) for each in walked]
    return [Shape(whole(each > threshold), confidence) for each, threshold, confidence in found]


def otsu(values: np.ndarray) -> tuple[float, float]:
    """The threshold that leaves the most variance between the numbers above and below it, and its share of all variance."""
    low, high = float(values.min()), float(values.max())
    if high - low <= ROUNDING * max(abs(low), abs(high)):
        return low, 0.0
    counts, edges = np.histogram(values, BINS, (low, high))
    share, middle = counts / counts.sum(), (edges[:-1] + edges[1:]) / 2
    below, moment = np.cumsum(share)[:-1], np.cumsum(share * middle)
    between = (moment[-1] * below - moment[:-1]) ** 2 / np.maximum(below * (1 - below), 1e-12)
    best = int(between.argmax())
    total = float((share * (middle - moment[-1]) ** 2).sum())
    return float(edges[best + 1]), float(between[best]) / total


def in_two(values: np.ndarray) -> np.ndarray:
    """A map as a likelihood in (0, 1): 0.5 at Otsu's threshold, and steep as the two groups are apart."""
    values = values.astype(np.float64)
    threshold, _ = otsu(values)
    above = values > threshold
    if above.all() or not above.any():
        return np.full(values.shape, 0.5)
    apart = values[above].mean() - values[~above].mean()
    return 1 / (1 + np.exp(-4 * (values - threshold) / apart))


def walk(colours: np.ndarray, likely: np.ndarray) -> np.ndarray:
    """The likelihoods [K, h, w] that a walk from each pixel of the image [h, w, 3], slow across edges, ends inside. At each pixel
    it ends with a small chance, inside with the likelihood there [K, h, w]."""
    count, height, width = likely.shape
    places = np.arange(height * width).reshape(height, width)
    starts = np.concatenate([places[:, :-1].ravel(), places[:-1].ravel()])
    ends = np.concatenate([places[:, 1:].ravel(), places[1:].ravel()])
    flat = colours.reshape(-1, 3)
    apart = ((flat[starts] - flat[ends]) ** 2).sum(1)
    weights = np.exp(-EDGES * apart / max(float(apart.mean()) if len(apart) else 0.0, 1e-9)) + WEAKEST
    both = np.concatenate([starts, ends]), np.concatenate([ends, starts])
    neighbours = sparse.coo_matrix((np.concatenate([weights, weights]), both), shape=(places.size,) * 2).tocsr()
    stop = REACH / max(height, width) ** 2
    system = sparse.diags(np.asarray(neighbours.sum(1)).ravel() + stop) - neighbours
    return splu(system.tocsc()).solve(stop * likely.reshape(count, -1).T).T.reshape(likely.shape)


def whole(pixels: np.ndarray) -> np.ndarray:
    """The parts of a mask that are not small beside the largest one, without holes."""
    labels, count = ndimage.label(pixels)
    if not count:
        return pixels
    sizes = np.bincount(labels.ravel())[1:]
    kept = 1 + np.flatnonzero(sizes >= LEAST_PART * sizes.max())
    return ndimage.binary_fill_holes(np.isin(labels, kept))
