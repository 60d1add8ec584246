"""The curve of a learning-rate range test as an SVG image."""

import math
from collections.abc import Iterator

from customize.evaluation.studies.range_test import Curve

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 420, 64, 20, 44, 52
INK, GREY, LINE, MARK = "#222", "#ddd", "#2a6fb0", "#c0392b"


def svg(curve: Curve, rate: float, chosen: float | None) -> str:
    """The loss, relative to that before the first step, over the learning rate on a logarithmic scale.

    rate: that of the settings, to which the factors of the points refer; chosen: the suggested one, which is marked. Losses far
    above the first one are drawn at the upper edge.
    """
    rates = [rate * point.factor for point in curve.points]
    losses = [point.loss / curve.before for point in curve.points]
    left, right = math.log10(rates[0]), math.log10(rates[-1]) + 1e-9
    low, high = min([1.0, *losses]), min(max([1.0, *losses]), 1.25)
    low, high = low - 0.05 * (high - low) - 1e-4, high + 0.05 * (high - low) + 1e-4

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (math.log10(value) - left) / (right - left)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (min(max(value, low), high) - low) / (high - low)

    def text(at_x: float, at_y: float, words: str, anchor: str = "middle", more: str = "") -> str:
        return f'<text x="{at_x:.1f}" y="{at_y:.1f}" text-anchor="{anchor}" {more}>{words}</text>'

    def line(x1: float, y1: float, x2: float, y2: float, colour: str, more: str = "") -> str:
        return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" {more}/>'

    def parts() -> Iterator[str]:
        yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="14">'
        yield f'<title>Learning-rate range test</title><rect width="{WIDTH}" height="{HEIGHT}" fill="white"/><g fill="{INK}">'
        for tick in ticks(left, right):
            yield line(x(tick), TOP, x(tick), HEIGHT - BOTTOM, GREY)
            yield text(x(tick), HEIGHT - BOTTOM + 20, f"{tick:.0e}".replace("e-0", "e-"))
        for step in range(5):
            value = low + (high - low) * step / 4
            yield line(LEFT, y(value), WIDTH - RIGHT, y(value), GREY)
            yield text(LEFT - 8, y(value) + 5, f"{100 * value:.0f} %", "end")
        yield text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, "learning rate")
        yield text(8, 18, "loss on fixed samples, relative to that of the base model", "start")
        places = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in zip(rates, losses, strict=True))
        yield f'<polyline points="{places}" fill="none" stroke="{LINE}" stroke-width="2.5" stroke-linejoin="round"/>'
        if chosen:
            anchor, shift = ("start", 6) if x(chosen) < WIDTH / 2 else ("end", -6)
            yield line(x(chosen), TOP - 16, x(chosen), HEIGHT - BOTTOM, MARK, 'stroke-width="2" stroke-dasharray="6 4"')
            yield text(x(chosen) + shift, TOP - 6, f"suggested: {chosen:g}", anchor, f'fill="{MARK}"')
        yield "</g></svg>\n"

    return "\n".join(parts())


def ticks(left: float, right: float) -> list[float]:
    """The powers of ten between 10^left and 10^right."""
    return [10.0**power for power in range(math.ceil(left), math.floor(right) + 1)]
