"""One picture's way from noise as a page to look at: a single HTML file that needs nothing else.

Its images are data URIs. A film is one image with all its frames in a grid, row by row.

S evaluations, N words, h w height and width of a frame.
"""

import base64
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from customize.inference.attention import WordMaps, heat_colours, heat_levels
from customize.inference.trace import Trace, film
from customize.printable import html

WIDTH, HEIGHT = 520, 130  # of a chart, without its margins
HEAT_SIDE, PICTURE_SIDE = 32, 512
X, CLEAN, NOISE = "<i>x<sub>t</sub></i>", "<i>x̂</i><sub>0</sub>", "<i>ε̂</i>"
LINES = {
    "latents": (f"‖{X}‖", "#3b6fb6"),
    "clean": (f"‖{CLEAN}‖", "#2e8b57"),
    "noise": (f"‖{NOISE}‖", "#c8553d"),
    "guidance": (f"‖{NOISE}<sub>prompt</sub> − {NOISE}<sub>negative</sub>‖", "#8e5bb5"),
    "alpha": ("<i>α</i>", "#2e8b57"),
    "sigma": ("<i>σ</i>", "#c8553d"),
}
"""What a line of a chart shows, and its colour."""
FORMULAS = {
    "epsilon": (NOISE, [("so the picture is", CLEAN, f"({X} − [σ] {NOISE}) / [α]")]),
    "v_prediction": (
        "<i>v̂</i>",
        [("so the picture is", CLEAN, f"[α] {X} − [σ] <i>v̂</i>"), ("and the noise", NOISE, f"[σ] {X} + [α] <i>v̂</i>")],
    ),
    "sample": (CLEAN, [("so the noise is", NOISE, f"({X} − [α] {CLEAN}) / [σ]")]),
    "flow_prediction": (
        "<i>v̂</i>",
        [("so the picture is", CLEAN, f"{X} − [σ] <i>v̂</i>"), ("and the noise", NOISE, f"{X} + [α] <i>v̂</i>")],
    ),
}
"""By prediction type: what the network answers, and what follows from it (see `diffusion.predictions.split`)."""


def page(
    trace: Trace, image: int, picture: Image.Image, prompt: str, settings: Mapping[str, Any], looks: WordMaps | None = None
) -> str:
    """The page of one image of a trace. picture: what came of it; settings: what it was made with, to be shown.

    looks: where the words look, at the same evaluations. Whatever a user can write is escaped. Raises ValueError when
    looks are of another number of evaluations.
    """
    if looks and len(looks.maps) != len(trace.steps):
        raise ValueError(f"maps of {len(looks.maps)} evaluations for a trace of {len(trace.steps)}")
    of_image = {name.removesuffix("_norm"): [each[image] for each in values] for name, values in trace.norms().items()}
    norms = {name: values for name, values in of_image.items() if None not in values}
    levels = {name: [getattr(seen.step, name) for seen in trace.steps] for name in ("alpha", "sigma")}
    latents, clean = film(trace.steps, image, picture)
    panels = panel("latents", f"latents {X}", latents) + panel("clean", f"predicted clean {CLEAN}", clean)
    if "guidance" in norms:
        maps = torch.stack([seen.guidance[image] for seen in trace.steps if seen.guidance is not None])
        panels += panel("guidance", "what the prompt changes in it", heat_levels(maps[:, None])[:, 0])
    shrunk = picture.convert("RGB")
    shrunk.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS)
    looked, buttons = words(looks) if looks and looks.words else ("", "")
    timesteps = [float(seen.step.timestep) for seen in trace.steps]
    return filled(
        PAGE,
        title=html(prompt),
        panels=panels,
        picture=data_uri(shrunk, "WEBP", quality=90),
        looked=looked,
        buttons=buttons,
        formulas=formulas(trace.steps[0].step.prediction_type, "guidance" in norms, settings.get("guidance_scale")),
        charts=chart("norms", norms) + chart("level", levels),
        settings="".join(f"<dt>{html(name)}<dd>{html(value)}" for name, value in settings.items()),
        data=json.dumps({"timesteps": timesteps, "lines": norms | levels}).replace("<", "\\u003c"),
        last=str(len(timesteps) - 1),
        width=str(WIDTH),
    )


def filled(template: str, **values: str) -> str:
    """The template with each {{name}} replaced, once: what looks like a name within a value stays."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], template)


def panel(name: str, caption: str, frames: np.ndarray) -> str:
    """A place in which a film runs."""
    view = f'<div class="view"><canvas data-film="{name}" width="{frames.shape[2]}" height="{frames.shape[1]}"></canvas></div>'
    return f"<figure>{view}<figcaption>{caption}</figcaption>{reel(name, frames)}</figure>"


def reel(name: str, frames: np.ndarray, seen_through: bool = False) -> str:
    """A film as an element that is not shown. frames: colours [S, h, w, 3], or levels [S, h, w] as of `heat_levels`,
    seen_through: as they lie over a picture.
    """
    across = math.ceil(math.sqrt(len(frames)))
    sheet = Image.fromarray(grid(frames, across))
    options: dict[str, Any] = {"quality": 85, "method": 1}
    if frames.ndim == 3:
        sheet.putpalette(heat_colours()[:, :3].tobytes())
        options = {"transparency": heat_colours()[:, 3].tobytes()} if seen_through else {}
    source = data_uri(sheet, "PNG" if frames.ndim == 3 else "WEBP", **options)
    return f'<img hidden id="{name}" alt="" data-frames="{len(frames)}" data-columns="{across}" src="{source}">'


def grid(frames: np.ndarray, across: int) -> np.ndarray:
    """[S, h, w, ...] -> [rows * h, across * w, ...]; what is left of the last row is 0."""
    down = -(-len(frames) // across)
    missing = np.zeros((across * down - len(frames), *frames.shape[1:]), frames.dtype)
    whole = np.concatenate([frames, missing]).reshape(down, across, *frames.shape[1:]).swapaxes(1, 2)
    return whole.reshape(down * frames.shape[1], across * frames.shape[2], *frames.shape[3:])


def words(looks: WordMaps) -> tuple[str, str]:
    """What lies over the picture: a place with the films of where the words look; and a button for each word."""
    maps = looks.maps
    size = [min(side, HEAT_SIDE) for side in maps.shape[2:]]
    levels = heat_levels(F.adaptive_avg_pool2d(maps, size)).swapaxes(0, 1)
    reels = [reel(f"word-{i}", each, seen_through=True) for i, each in enumerate(levels)]
    view = f'<canvas hidden id="heat" width="{size[1]}" height="{size[0]}"></canvas>'
    buttons = [f'<button data-word="word-{i}">{html(text)}</button>' for i, text in enumerate(looks.words)]
    return view + "".join(reels), f"<nav>where a word looks: {' '.join(buttons)}</nav>"


def formulas(prediction_type: str, guided: bool, scale: Any) -> str:
    """The formulas of a step, each with letters and, in bold, with the numbers of the step that is shown."""
    answer, following = FORMULAS[prediction_type]
    negative, positive = (f"{answer}<sub>{name}</sub>" for name in ("negative", "prompt"))
    equations = [("seen: a picture and noise", X, "[α] <i>x</i><sub>0</sub> + [σ] <i>ε</i>")]
    equations += [("answered, with guidance", answer, f"{negative} + [g] ({positive} − {negative})")] if guided else []
    letters = {"[α]": "<i>α</i>", "[σ]": "<i>σ</i>", "[g]": "<i>g</i>"}
    numbers = {"[α]": '<b data-line="alpha"></b>', "[σ]": '<b data-line="sigma"></b>'}
    numbers["[g]"] = f"<b>{scale:g}</b>" if isinstance(scale, int | float) else letters["[g]"]

    def written(right: str, symbols: Mapping[str, str]) -> str:
        return re.sub(r"\[.\]", lambda found: symbols[found[0]], right)

    return "".join(
        f"<p><small>{caption}</small>{left} = {written(right, letters)} <span>= {written(right, numbers)}</span>"
        for caption, left, right in equations + following
    )


def chart(name: str, lines: Mapping[str, Sequence[float]]) -> str:
    """Lines over the evaluations, from 0 to a round number; a rule marks the evaluation that is shown."""
    most = max(max(values) for values in lines.values()) or 1.0
    unit = 10 ** math.floor(math.log10(most)) / 2
    top = math.ceil(most / unit) * unit
    drawn, legend = [], []
    for line, values in lines.items():
        label, colour = LINES[line]
        xs = np.linspace(0, WIDTH, len(values)) if len(values) > 1 else [WIDTH / 2]
        points = " ".join(f"{x:.1f},{HEIGHT * (1 - value / top):.1f}" for x, value in zip(xs, values, strict=True))
        drawn.append(f'<polyline points="{points}" stroke="{colour}"/>')
        legend.append(f'<span style="color:{colour}">{label} <b data-line="{line}"></b></span>')
    ticks = [f'<path d="M0 {y}H{WIDTH}"/><text x="-6" y="{y + 4}">{tick:g}</text>' for tick, y in ((top, 0), (0, HEIGHT))]
    return (
        f'<div class="legend">{name}: {" ".join(legend)}</div><svg viewBox="-40 -8 {WIDTH + 48} {HEIGHT + 16}">'
        f'{"".join(ticks + drawn)}<path class="rule" d="M0 0V{HEIGHT}"/></svg>'
    )


def data_uri(picture: Image.Image, kind: str, **options: Any) -> str:
    """The picture as an address that holds it. kind: PNG or WEBP."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{{title}}</title>
<style>
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 1140px; margin: 24px auto;
  padding: 0 20px; }
h1 { font-size: 22px; font-weight: 600; margin: 0 0 14px; overflow-wrap: anywhere; }
.controls { display: flex; flex-wrap: wrap; align-items: center; gap: 8px 14px; margin-bottom: 18px; }
.controls input { flex: 1 1 150px; min-width: 0; accent-color: #3b6fb6; }
#place { min-width: min(15em, 100%); text-align: right; font-variant-numeric: tabular-nums; }
button { font: inherit; padding: 2px 12px; border: 1px solid #bbb; border-radius: 5px; background: #f7f7f7; cursor: pointer;
  max-width: 100%; overflow-wrap: anywhere; }
button:hover { background: #eee; }
button[aria-pressed=true] { background: #3b6fb6; border-color: #3b6fb6; color: #fff; }
#play { min-width: 5.5em; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(200px, 100%), 1fr)); gap: 18px; }
figure { margin: 0; min-width: 0; }
.columns > * { min-width: 0; }
.view { position: relative; line-height: 0; background: #f3f3f3; }
.view img, .view canvas { width: 100%; }
#heat { position: absolute; left: 0; top: 0; height: 100%; }
.view:has(#heat:not([hidden])) img { filter: grayscale(1); }
figcaption { margin-top: 6px; color: #555; }
nav { margin-top: 14px; display: flex; flex-wrap: wrap; gap: 6px; align-items: center; color: #555; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); gap: 8px 40px; margin-top: 22px;
  padding-top: 16px; border-top: 1px solid #ddd; }
b { font-weight: 600; font-variant-numeric: tabular-nums; }
.formulas p { overflow-wrap: anywhere; font: 18px/1.4 Georgia, "Times New Roman", serif; margin: 0 0 12px; }
.formulas small { display: block; font: 14px system-ui, sans-serif; color: #777; }
.formulas span { display: block; padding-left: 1.6em; }
.formulas b { font-size: 16px; color: #3b6fb6; }
dl { display: grid; grid-template-columns: fit-content(50%) minmax(0, 1fr); gap: 1px 16px; margin: 0; font-size: 14px; }
dt { color: #777; overflow-wrap: anywhere; }
dd { margin: 0; overflow-wrap: anywhere; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 18px; font-size: 14px; color: #777; }
svg { display: block; width: 100%; margin: 4px 0 14px; cursor: pointer; }
polyline { fill: none; stroke-width: 2; }
path { stroke: #ddd; }
path.rule { stroke: #222; stroke-width: 1.5; }
text { font-size: 11px; fill: #777; text-anchor: end; }
</style>
</head>
<body>
<h1>{{title}}</h1>
<div class="controls">
<button id="play">Play</button>
<input id="step" type="range" min="0" max="{{last}}" aria-label="step">
<output id="place"></output>
</div>
<div class="panels">
{{panels}}
<figure><div class="view"><img src="{{picture}}" alt="">{{looked}}</div><figcaption id="seen">the picture</figcaption></figure>
</div>
{{buttons}}
<div class="columns">
<div class="formulas">{{formulas}}</div>
<div>{{charts}}<dl>{{settings}}</dl></div>
</div>
<script type="application/json" id="data">{{data}}</script>
<script>
"use strict";
const get = id => document.getElementById(id), all = selector => [...document.querySelectorAll(selector)];
const {timesteps, lines} = JSON.parse(get("data").textContent), last = timesteps.length - 1, heat = get("heat");
let step = 0, timer = null;

function draw(canvas, film) {
  const {width, height} = canvas, columns = Number(film.dataset.columns), ink = canvas.getContext("2d");
  ink.clearRect(0, 0, width, height);
  ink.drawImage(film, -(step % columns) * width, -Math.floor(step / columns) * height);
}

function show(to) {
  step = Math.max(0, Math.min(last, to));
  get("step").value = step;
  get("place").textContent = `step ${step + 1} of ${last + 1}, timestep ${Math.round(timesteps[step])}`;
  for (const canvas of all("[data-film]")) draw(canvas, get(canvas.dataset.film));
  for (const number of all("[data-line]")) {
    const value = lines[number.dataset.line][step];
    number.textContent = value < 10 ? value.toFixed(3) : value.toFixed(1);
  }
  const x = last ? step / last * {{width}} : {{width}} / 2;
  for (const rule of all(".rule")) rule.setAttribute("transform", `translate(${x})`);
}

function play(on) {
  clearInterval(timer);
  timer = on ? setInterval(() => step < last ? show(step + 1) : play(false), 160) : null;
  get("play").textContent = on ? "Pause" : "Play";
  if (on && step === last) show(0);
}

function look(button) {
  const on = button.ariaPressed !== "true";
  for (const other of all("[data-word]")) other.ariaPressed = String(on && other === button);
  if (on) heat.dataset.film = button.dataset.word;
  else delete heat.dataset.film;
  heat.hidden = !on;
  get("seen").textContent = on ? `where “${button.textContent}” looks` : "the picture";
  show(step);
}

get("play").onclick = () => play(!timer);
get("step").oninput = event => show(Number(event.target.value));
for (const button of all("[data-word]")) button.onclick = () => look(button);
for (const chart of all("svg")) chart.onclick = event => {
  const x = new DOMPoint(event.clientX, event.clientY).matrixTransform(chart.getScreenCTM().inverse()).x;
  show(Math.round(x / {{width}} * last));
};
document.onkeydown = event => {
  const to = {ArrowLeft: step - 1, ArrowRight: step + 1, Home: 0, End: last}[event.key];
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  if (to !== undefined) show(to);
  else if (event.key === " " && event.target.tagName !== "BUTTON") play(!timer);
  else return;
  event.preventDefault();
};
window.onload = () => show(location.hash ? Number(location.hash.slice(1)) - 1 || 0 : last);
</script>
</body>
</html>
"""
