"""The formulas of a denoising step as HTML, with symbols and with numbers."""

import re
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from customize.diffusion.predictions import PREDICTIONS

X, CLEAN, NOISE = "<i>x<sub>t</sub></i>", "<i>x̂</i><sub>0</sub>", "<i>ε̂</i>"
VELOCITY = "<i>v̂</i>"


def reading(prediction_type: str) -> tuple[str, list[tuple[str, str, str]]]:
    """The symbol of the network's output, and (caption, symbol, formula) of the quantities that follow from it, see
    `predictions.split`."""
    row = PREDICTIONS[prediction_type]
    output = NOISE if row.noise == "y" else CLEAN if row.clean == "y" else VELOCITY
    letters = {"x": X, "y": output, "α": "[α]", "σ": "[σ]"}
    found = [("predicted clean image", CLEAN, row.clean), ("predicted noise", NOISE, row.noise)]
    return output, [
        (caption, letter, re.sub("[xyασ]", lambda each: letters[each[0]], formula))
        for caption, letter, formula in found
        if formula != "y"
    ]


def formulas(prediction_type: str, guided: bool, scale: Any) -> list[dict[str, Markup | str]]:
    """The formulas of a step, each with symbols and, in bold, with the numbers of the step that is shown."""
    output, following = reading(prediction_type)
    negative, positive = (f"{output}<sub>{name}</sub>" for name in ("negative", "prompt"))
    equations = [("input: image and noise", X, "[α] <i>x</i><sub>0</sub> + [σ] <i>ε</i>")]
    equations += [("output with guidance", output, f"{negative} + [g] ({positive} − {negative})")] if guided else []
    letters = {"[α]": "<i>α</i>", "[σ]": "<i>σ</i>", "[g]": "<i>g</i>"}
    numbers = {"[α]": '<b data-line="alpha"></b>', "[σ]": '<b data-line="sigma"></b>'}
    numbers["[g]"] = f"<b>{scale:g}</b>" if isinstance(scale, int | float) else letters["[g]"]

    def written(right: str, symbols: Mapping[str, str]) -> Markup:
        return Markup(re.sub(r"\[.\]", lambda found: symbols[found[0]], right))

    return [
        {"caption": caption, "left": Markup(left), "letters": written(right, letters), "numbers": written(right, numbers)}
        for caption, left, right in equations + following
    ]
