"""Traces of sampling: numbers of every step, a contact sheet, and an animation.

Latents are shown by a linear map that is fitted to the decoded image, so that recording costs only a few percent of sampling.

B images, C latent channels, H W latent height and width, S evaluations, k pixels shown per latent along one side.
"""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from customize.inference.estimates import Composed, Guided, Thresholded, WithChannels
from customize.inference.explain.contact_sheet import GAP, MARGIN, contact_sheet, steadily
from customize.inference.prompt_estimates import Changing
from customize.inference.sampler import StepResult
from customize.inference.step import Step
from customize.storage.atomic import append_text, write_bytes, write_image

Decode = Callable[[Tensor], list[Image.Image]]
"""Latents [B, C, H, W] -> B images."""
MOST_COLUMNS, MOST_FRAMES = 10, 50
SIDE = 128  # of a preview, in pixels
COLOURS, GREYS = 240, 16
ROWS = "latents", "predicted clean"
RIDGE = 0.1  # of the variance of a latent channel


@dataclass(frozen=True)
class TraceStep:
    """One evaluation, on the CPU in float32: the network's input and the predicted clean latents [B, C, H, W], the norm of the
    predicted noise [B] over C, H and W, and the norms [B, H, W] over C of the change by guidance (None without guidance).
    """

    step: Step
    latents: Tensor
    clean: Tensor
    noise_norm: Tensor
    guidance: Tensor | None


class Trace:
    """A callback for `record` that keeps every step, to be written as numbers, sheet and animation."""

    def __init__(self) -> None:
        self.steps: list[TraceStep] = []

    def __call__(self, result: StepResult) -> None:
        latents, clean, noise = (tensor.float().cpu() for tensor in (result.model_input, result.clean, result.noise))
        self.steps.append(TraceStep(result.step, latents, clean, norm(noise), guidance(result)))

    def norms(self) -> dict[str, list[list[float | None]]]:
        """The norms by name, one number per evaluation and image: [S][B]."""
        return {
            "latents_norm": [norm(each.latents).tolist() for each in self.steps],
            "clean_norm": [norm(each.clean).tolist() for each in self.steps],
            "clean_change": [
                [None] * len(each.clean) if before is None else norm(each.clean - before.clean).tolist()
                for before, each in zip([None, *self.steps], self.steps, strict=False)
            ],
            "noise_norm": [each.noise_norm.tolist() for each in self.steps],
            "guidance_norm": [
                [None] * len(each.latents) if each.guidance is None else norm(each.guidance).tolist() for each in self.steps
            ],
        }

    def lines(self, places: Sequence[int]) -> str:
        """trace.jsonl: one JSON object per image and evaluation; places: the numbers of the first images."""
        norms = self.norms()
        rows = [{"image": place, **row} for position, place in enumerate(places) for row in self.rows(norms, position)]
        return "".join(f"{json.dumps(row)}\n" for row in rows)

    def rows(self, norms: Mapping[str, Sequence[Sequence[float | None]]], position: int) -> list[dict[str, Any]]:
        """The numbers of each evaluation of one image. norms: see `norms`; position: the index of the image in the batch."""
        rows = []
        for index, step in enumerate(each.step for each in self.steps):
            own = {"step": step.index, "timestep": float(step.timestep)}
            level = {"alpha": step.alpha, "sigma": step.sigma}
            numbers = {name: values[index][position] for name, values in norms.items()}
            plain = {name: None if number is None else round(number, 6) for name, number in numbers.items()}
            rows.append(own | level | plain)
        return rows

    def write(
        self,
        folder: Path,
        places: Sequence[int],
        images: Sequence[Image.Image],
        decode: Decode | None = None,
        listing: str = "trace.jsonl",
    ) -> None:
        """Appends to the file `listing`, and writes NNN-trace.png and NNN-trace.gif of each generated image.

        places: their numbers NNN. With `decode`, predicted clean latents are decoded one by one, which is exact but slow.
        """
        append_text(folder / listing, self.lines(places))
        shown = [self.steps[i] for i in spread(len(self.steps), MOST_FRAMES)]
        for position, (place, image) in enumerate(zip(places, images, strict=True)):
            indices, palette = few_colours(film(shown, position, image, decode))
            indices, steps = enlarged(indices[..., None], SIDE)[..., 0], [each.step for each in shown]
            write_image(folder / f"{place:03d}-trace.png", strip(indices, palette, steps), compress_level=1)
            write_bytes(folder / f"{place:03d}-trace.gif", animation(pairs(indices), palette))


def guidance(result: StepResult) -> Tensor | None:
    """Norms [B, H, W] over C of the unscaled guidance (positive minus negative predicted noise); None without guidance."""
    estimate = result.estimate
    while isinstance(estimate, WithChannels | Thresholded):
        estimate = estimate.estimate
    estimate = estimate.now(result.step) if isinstance(estimate, Changing) else estimate
    if not isinstance(estimate, Guided | Composed):
        return None
    parts = [
        part.combine(iter(result.outputs), result.model_input, result.step)
        for part in (estimate.negative, replace(estimate, scale=1.0))
    ]
    negative, positive = (result.step.split(part.float(), result.model_input.float())[0] for part in parts)
    return (positive - negative).norm(dim=1).cpu()


def norm(tensor: Tensor) -> Tensor:
    """[B, ...] -> the Euclidean norm of each image [B]."""
    return tensor.flatten(1).norm(dim=1)


def spread(count: int, most: int) -> list[int]:
    """At most `most` evenly spaced indices of 0 to count - 1, including the first and the last."""
    shown = min(count, most)
    return [round(i * (count - 1) / max(shown - 1, 1)) for i in range(shown)]


def film(shown: Sequence[TraceStep], position: int, image: Image.Image, decode: Decode | None = None) -> np.ndarray:
    """Frames [2, S, kH, kW, 3] uint8 of one image: its latents, and its predicted clean latents.

    position: index of the image in the batch; image: as it was generated. decode: decodes the clean latents instead of mapping
    them, and enlarges the other frames to that size.
    """
    latents, clean = (torch.stack([getattr(each, name)[position] for each in shown]) for name in ("latents", "clean"))
    colours = colour_map(clean[-1], image)
    if decode is None:
        return np.stack([colours(latents), colours(clean)])
    decoded = np.stack([np.asarray(decode(each[None])[0]) for each in clean])
    return np.stack([enlarged(colours(latents), max(decoded.shape[1:3])), decoded])


@dataclass(frozen=True)
class ColourMap:
    """A linear map from 3 x 3 latents to the k x k pixels of the central one: weight [3kk, C, 3, 3], bias [3kk]."""

    weight: Tensor
    bias: Tensor
    k: int

    def __call__(self, latents: Tensor) -> np.ndarray:
        """[N, C, H, W] -> colours [N, kH, kW, 3], uint8."""
        patches = F.conv2d(F.pad(latents, (1, 1, 1, 1), mode="replicate"), self.weight, self.bias)
        return F.pixel_shuffle(patches, self.k).clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def colour_map(latents: Tensor, image: Image.Image) -> ColourMap:
    """Fits the map from latents [C, H, W] to their decoded image by ridge regression, with k such that sides are at most `SIDE`.

    It works with any autoencoder, because it is fitted to each image.
    """
    channels, height, width = latents.shape
    k = max(1, min(SIDE, max(image.size)) // max(height, width))
    small = np.asarray(image.convert("RGB").resize((k * width, k * height), Image.Resampling.BOX), dtype=np.float32)
    patches = F.pixel_unshuffle(torch.from_numpy(small).permute(2, 0, 1), k).flatten(1).T
    inputs = F.unfold(F.pad(latents[None], (1, 1, 1, 1), mode="replicate"), 3)[0].T
    centre, level = inputs.mean(0), patches.mean(0)
    squares = (inputs - centre).T @ (inputs - centre)
    squares += RIDGE * squares.trace() / len(squares) * torch.eye(len(squares))
    weight = torch.linalg.lstsq(squares, (inputs - centre).T @ (patches - level), driver="gelsd").solution.T
    return ColourMap(weight.reshape(-1, channels, 3, 3), level - weight @ centre, k)


def strip(indices: np.ndarray, palette: bytes, steps: Sequence[Step]) -> Image.Image:
    """[2, S, h, w] as a sheet of two rows with at most `MOST_COLUMNS` steps."""
    columns = spread(len(steps), MOST_COLUMNS)
    labels = tuple(f"step {steps[i].index + 1}/{steps[i].count}, t {float(steps[i].timestep):.0f}" for i in columns)
    sheet = laid(indices[:, columns], paper(indices.shape[:1:-1], labels, ROWS))
    return in_colours(sheet, palette)


def pairs(indices: np.ndarray) -> list[np.ndarray]:
    """[2, S, h, w] as one sheet of two images per step, with a progress bar."""
    sheet, count = paper(indices.shape[:1:-1], ROWS, ()), indices.shape[1]
    return [laid(indices[None, :, i], sheet, (i + 1) / count) for i in range(count)]


def animation(frames: Sequence[np.ndarray], palette: bytes) -> bytes:
    """Like `contact_sheet.gif`, for palette indices [h, w]: half the time, twice the file size."""
    file, (first, *others) = io.BytesIO(), [in_colours(frame, palette) for frame in frames]
    first.save(file, "GIF", save_all=True, append_images=others, duration=steadily(len(frames)), loop=0, optimize=False)
    return file.getvalue()


def in_colours(indices: np.ndarray, palette: bytes) -> Image.Image:
    """Palette indices [h, w] as an image."""
    image = Image.fromarray(indices)
    image.putpalette(palette)
    return image


def few_colours(frames: np.ndarray) -> tuple[np.ndarray, bytes]:
    """Quantizes [..., w, 3] to indices [..., w] of one shared palette: `COLOURS` colours, then `GREYS` from black to white."""
    tall = Image.fromarray(frames.reshape(-1, *frames.shape[-2:]))
    few = tall.quantize(COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    palette = few.getpalette()
    greys = [255 * i // (GREYS - 1) for i in range(GREYS) for _ in range(3)]
    return np.asarray(few).reshape(frames.shape[:-1]), bytes(palette + [0] * (3 * COLOURS - len(palette)) + greys)


def enlarged(frames: np.ndarray, side: int) -> np.ndarray:
    """[..., h, w, 3] or [..., h, w, 1], each pixel repeated by the largest integer factor that keeps sides at most `side`."""
    factor = max(1, side // max(frames.shape[-3:-1]))
    return frames.repeat(factor, -3).repeat(factor, -2)


@lru_cache(maxsize=4)
def paper(size: tuple[int, int], column_labels: tuple[str, ...], row_labels: tuple[str, ...]) -> np.ndarray:
    """A contact sheet with empty cells of `size` (width, height), in the greys of `few_colours`.

    Cached, because drawing labels takes ten times as long as inserting images.
    """
    empty = [[Image.new("L", size, "white")] * len(column_labels)] * max(1, len(row_labels))
    sheet = np.asarray(contact_sheet(empty, column_labels, row_labels).convert("L"))
    return COLOURS + sheet // (256 // GREYS)


def laid(images: np.ndarray, sheet: np.ndarray, done: float = 0) -> np.ndarray:
    """Inserts images [R, K, h, w] into the cells of a sheet, with a progress bar for the fraction `done`."""
    (rows, columns, height, width), sheet = images.shape, sheet.copy()
    for row, column in np.ndindex(rows, columns):
        y = sheet.shape[0] - MARGIN + GAP - (rows - row) * (height + GAP)
        x = sheet.shape[1] - MARGIN + GAP - (columns - column) * (width + GAP)
        sheet[y : y + height, x : x + width] = images[row, column]
    sheet[-MARGIN // 2 - 1 : -MARGIN // 2 + 2, MARGIN : MARGIN + round(done * (sheet.shape[1] - 2 * MARGIN))] = COLOURS + 8
    return sheet
