"""The charts of the report as geometry of an SVG, which `report.html.jinja` draws. One function per chart."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from customize.evaluation.record import BASE, MEASURES, Candidate, Evaluation
from customize.evaluation.statistics import Interval, number_of

WIDTH, HEIGHT, LABELS = 200, 140, 76
"""The area of a chart in pixels, without its axes; and the room beside it for the labels of several lines."""
GAP = 13
"""The least distance of two labels."""
BANDS = ("low noise", "some noise", "more noise", "high noise")
"""The four bands of noise levels of a probe loss, in order."""
SETS = {
    "training": "Your images",
    "held out": "Your images that were not trained on",
    "other crops": "Other crops of your images",
    "class": "Images of the class",
    "training as class": "Your images, under the prompt of the class",
}
"""The title of the chart of each probe set."""
Values = Sequence[tuple[float, Interval]]
"""What is known at each place of the x axis."""
Scale = Callable[[float], float]


@dataclass(frozen=True)
class Line:
    """A line with its interval as a band. points: (x, y, what it says); path, band: coordinates; at: y of its label."""

    label: str
    points: tuple[tuple[float, float, str], ...]
    path: str
    band: str
    at: float


@dataclass(frozen=True)
class Chart:
    """x, y: the axes' labels; ticks: (place, text); level: y of a line to compare with; chosen: x of what became the result."""

    title: str
    meaning: str
    x: str
    y: str
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    lines: tuple[Line, ...]
    level: float | None = None
    chosen: float | None = None


def of_measure(evaluation: Evaluation, measure: str) -> Chart | None:
    """A measure over the steps, at scale 1; None where it was not measured."""
    found = [(each.step, number_of(evaluation, each, measure)) for each in evaluation.candidates if each.scale == 1]
    values = [(step, number) for step, number in found if number]
    if not any(step > BASE for step, _ in values):
        return None
    wanted = {"high": "higher is better", "low": "lower is better", "": ""}[MEASURES[measure].better]
    title = measure.capitalize() + (f" ({wanted})" if wanted else "")
    return chart(title, MEASURES[measure].meaning, "step", measure, {"": values}, [0.0, 1.0], chosen=evaluation.chosen)


def of_losses(losses: Mapping[str, Mapping[int, Sequence[float]]], chosen: int | None = None) -> list[Chart]:
    """The losses of each probe set by step, one line for each noise band, on the same y axis.

    losses: by set and step, the loss of each noise band relative to the base model's.
    """
    known = {name: lines_of_bands(of_steps) for name, of_steps in losses.items() if any(step > BASE for step in of_steps)}
    limits = [each.value for lines in known.values() for values in lines.values() for _, each in values]
    drawn = (
        chart(SETS.get(name, name.capitalize()), "", "step", "relative loss", lines, [1.0, *limits], 1.0, chosen)
        for name, lines in known.items()
    )
    return [each for each in drawn if each]


def lines_of_bands(losses: Mapping[int, Sequence[float]]) -> dict[str, Values]:
    """The line of each noise band, by its name."""
    most = max(map(len, losses.values()))
    names = BANDS if most == len(BANDS) else [f"band {band + 1}" for band in range(most)]
    lines = {}
    for band, name in enumerate(names):
        known = [(step, numbers[band]) for step, numbers in sorted(losses.items()) if band < len(numbers)]
        lines[name] = [(step, Interval(number, number, number)) for step, number in known if math.isfinite(number)]
    return lines


def of_scales(evaluation: Evaluation, candidates: Sequence[Candidate]) -> Chart | None:
    """Likeness and obedience of the same weights over the scale at which they are used; None without several scales."""
    lines = {}
    for measure in ("likeness", "obedience"):
        found = [(0.0 if each.step == BASE else each.scale, number_of(evaluation, each, measure)) for each in candidates]
        lines[measure] = [(scale, number) for scale, number in found if number]
    lines = {measure: values for measure, values in lines.items() if len(values) > 1}
    if not lines:
        return None
    return chart("Likeness and obedience by scale", "", "scale", "likeness, obedience", lines, [0.0, 1.0])


def chart(
    title: str, meaning: str, x: str, y: str, lines: Mapping[str, Values], limits: Sequence[float],
    level: float | None = None, chosen: float | None = None,
) -> Chart | None:  # fmt: skip
    """Lines over a common x axis that begins at 0, on a y axis that includes the `limits`."""
    xs = [at for values in lines.values() for at, _ in values]
    if not xs:
        return None
    right = max(xs) or 1.0
    heights = [*limits, *(number for values in lines.values() for _, each in values for number in each if math.isfinite(number))]
    low, high = min(heights), max(heights)
    if low == high:
        low, high = low - 0.1, high + 0.1

    def place(at: float) -> float:
        return round(WIDTH * at / right, 1)

    def height(value: float) -> float:
        return round(HEIGHT * (high - value) / (high - low), 1)

    drawn = [line(label, x, values, place, height) for label, values in lines.items() if values]
    return Chart(
        title, meaning, x, y,
        tuple((place(tick), f"{tick:,g}") for tick in ticks(0.0, right, 6 if right < 1000 else 4)),
        tuple((height(tick), f"{tick:,g}") for tick in ticks(low, high)),
        apart(drawn), None if level is None else height(level), None if chosen is None or chosen > right else place(chosen),
    )  # fmt: skip


def line(label: str, x: str, values: Values, place: Scale, height: Scale) -> Line:
    """The geometry of one line. place, height: from numbers to coordinates."""
    points = tuple((place(at), height(each.value), f"{x} {at:,g}: {each}") for at, each in values)
    path = " ".join(f"{x},{y}" for x, y, _ in points)
    known = [(at, each) for at, each in values if math.isfinite(each.low)]
    there, back = (
        [f"{place(at)},{height(edge)}" for at, edge in edges]
        for edges in ([(at, each.high) for at, each in known], [(at, each.low) for at, each in reversed(known)])
    )
    has_band = any(each.low != each.high for _, each in known)
    return Line(label, points, path, " ".join(there + back) if has_band else "", points[-1][1])


def apart(lines: Sequence[Line]) -> tuple[Line, ...]:
    """The lines with their labels moved so that they are `GAP` apart and within the chart."""
    ordered = sorted(lines, key=lambda each: each.at)
    heights: list[float] = []
    for each in ordered:
        heights.append(max(each.at, heights[-1] + GAP if heights else 0.0))
    lowest = [HEIGHT - GAP * below for below in reversed(range(len(ordered)))]
    places = {each.label: min(pair) for each, *pair in zip(ordered, heights, lowest, strict=True)}
    return tuple(replace(each, at=places[each.label]) for each in lines)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most `most` + 1 multiples of 1, 2 or 5 times a power of ten that lie between two numbers."""
    power = math.floor(math.log10((high - low) / most))
    step = next(each for factor in (1, 2, 5, 10) if (each := factor * 10.0**power) * most >= (high - low) * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]
