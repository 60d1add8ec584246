"""The trace of an image as one self-contained HTML file; its template is `trace.html.jinja`.

Images are embedded as data URIs. A film is one image with all frames in a grid, row by row.

S evaluations, N words, h w height and width of a frame.
"""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup
from PIL import Image
from torch.nn import functional as F

from customize.inference.explain.attention import WordMaps, heat_colours, heat_levels
from customize.inference.explain.formulas import CLEAN, NOISE, X, formulas
from customize.inference.explain.step_sentences import sentences
from customize.inference.explain.trace import Trace, film
from customize.printable import printable

WIDTH, HEIGHT = 520, 130  # of a chart, without its margins
HEAT_SIDE, PICTURE_SIDE = 32, 512
LINES = {
    "latents": (f"‖{X}‖", "light-dark(#3b6fb6, #86b1ec)"),
    "clean": (f"‖{CLEAN}‖", "light-dark(#23744a, #67c794)"),
    "noise": (f"‖{NOISE}‖", "light-dark(#b8452e, #ef9a86)"),
    "guidance": (f"‖{NOISE}<sub>prompt</sub> − {NOISE}<sub>negative</sub>‖", "light-dark(#8e5bb5, #c9a3e6)"),
    "alpha": ("<i>α</i>", "light-dark(#23744a, #67c794)"),
    "sigma": ("<i>σ</i>", "light-dark(#b8452e, #ef9a86)"),
}
"""The label and colour of each line of a chart."""


def page(
    trace: Trace, position: int, image: Image.Image, prompt: str, settings: Mapping[str, Any], word_maps: WordMaps | None = None
) -> str:
    """The page of one image of a trace, as HTML.

    position: index of the image in the batch; image: as it was generated; settings: those to show; word_maps: attention maps of
    the same evaluations. All user text is escaped. Raises ValueError if word_maps has another number of evaluations.
    """
    if word_maps and len(word_maps.maps) != len(trace.steps):
        raise ValueError(f"maps of {len(word_maps.maps)} evaluations for a trace of {len(trace.steps)}")
    of_trace = trace.norms()
    of_image = {name.removesuffix("_norm"): [each[position] for each in values] for name, values in of_trace.items()}
    norms = {name: values for name, values in of_image.items() if None not in values and name in LINES}
    levels = {name: [getattr(seen.step, name) for seen in trace.steps] for name in ("alpha", "sigma")}
    latents, clean = film(trace.steps, position, image)
    panels = [reel("latents", Markup(f"latents {X}"), latents), reel("clean", Markup(f"predicted clean {CLEAN}"), clean)]
    if "guidance" in norms:
        maps = torch.stack([seen.guidance[position] for seen in trace.steps if seen.guidance is not None])
        panels.append(reel("guidance", "effect of the prompt", heat_levels(maps[:, None])[:, 0]))
    shrunk = image.convert("RGB")
    shrunk.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS)
    return template().render(
        prompt=prompt,
        panels=panels,
        image=data_uri(shrunk, "WEBP", quality=90),
        words=words(word_maps) if word_maps and word_maps.words else [],
        formulas=formulas(trace.steps[0].step.prediction_type, "guidance" in norms, settings.get("guidance_scale")),
        charts=[chart("norms", norms), chart("level", levels)],
        settings=settings,
        data={
            "timesteps": [float(seen.step.timestep) for seen in trace.steps],
            "lines": norms | levels,
            "sentences": sentences(trace.rows(of_trace, position), settings.get("guidance_scale")),
        },
        width=WIDTH,
        height=HEIGHT,
    )


def template() -> Template:
    """The template of the page. Its filter `printable` is for untrusted texts, which autoescape then converts to HTML."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    environment.filters["printable"] = printable
    return environment.get_template("trace.html.jinja")


def reel(name: str, caption: str, frames: np.ndarray, seen_through: bool = False) -> dict[str, Any]:
    """A film with its frames in one image. frames: colours [S, h, w, 3], or levels [S, h, w] of `heat_levels`; seen_through:
    transparent, to overlay an image."""
    across = math.ceil(math.sqrt(len(frames)))
    sheet = Image.fromarray(grid(frames, across))
    options: dict[str, Any] = {"quality": 85, "method": 1}
    if frames.ndim == 3:
        sheet.putpalette(heat_colours()[:, :3].tobytes())
        options = {"transparency": heat_colours()[:, 3].tobytes()} if seen_through else {}
    source = data_uri(sheet, "PNG" if frames.ndim == 3 else "WEBP", **options)
    size = {"height": frames.shape[1], "width": frames.shape[2]}
    return {"id": name, "caption": caption, "frames": len(frames), "columns": across, "source": source, **size}


def grid(frames: np.ndarray, across: int) -> np.ndarray:
    """[S, h, w, ...] -> [rows * h, across * w, ...]; the rest of the last row is 0."""
    down = -(-len(frames) // across)
    missing = np.zeros((across * down - len(frames), *frames.shape[1:]), frames.dtype)
    whole = np.concatenate([frames, missing]).reshape(down, across, *frames.shape[1:]).swapaxes(1, 2)
    return whole.reshape(down * frames.shape[1], across * frames.shape[2], *frames.shape[3:])


def words(word_maps: WordMaps) -> list[dict[str, Any]]:
    """A film of each word's attention maps, to overlay the image."""
    size = [min(side, HEAT_SIDE) for side in word_maps.maps.shape[2:]]
    levels = heat_levels(F.adaptive_avg_pool2d(word_maps.maps, size)).swapaxes(0, 1)
    return [
        reel(f"word-{i}", text, own, seen_through=True) for i, (text, own) in enumerate(zip(word_maps.words, levels, strict=True))
    ]


def chart(name: str, lines: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Lines over the evaluations, from 0 to a round number, as points of an SVG of size WIDTH x HEIGHT."""
    most = max(max(values) for values in lines.values()) or 1.0
    unit = 10 ** math.floor(math.log10(most)) / 2
    top = math.ceil(most / unit) * unit
    drawn = []
    for line, values in lines.items():
        label, colour = LINES[line]
        xs = np.linspace(0, WIDTH, len(values)) if len(values) > 1 else [WIDTH / 2]
        points = " ".join(f"{x:.1f},{HEIGHT * (1 - value / top):.1f}" for x, value in zip(xs, values, strict=True))
        drawn.append({"name": line, "label": Markup(label), "colour": colour, "points": points})
    return {"name": name, "top": top, "lines": drawn}


def data_uri(image: Image.Image, kind: str, **options: Any) -> str:
    """The image as a data URI. kind: PNG or WEBP."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
