"""The formulas of a denoising step as HTML, with letters and with numbers."""

import re
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

X, CLEAN, NOISE = "<i>x<sub>t</sub></i>", "<i>x̂</i><sub>0</sub>", "<i>ε̂</i>"
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


def formulas(prediction_type: str, guided: bool, scale: Any) -> list[dict[str, Markup | str]]:
    """The formulas of a step, each with letters and, in bold, with the numbers of the step that is shown."""
    answer, following = FORMULAS[prediction_type]
    negative, positive = (f"{answer}<sub>{name}</sub>" for name in ("negative", "prompt"))
    equations = [("seen: a picture and noise", X, "[α] <i>x</i><sub>0</sub> + [σ] <i>ε</i>")]
    equations += [("answered, with guidance", answer, f"{negative} + [g] ({positive} − {negative})")] if guided else []
    letters = {"[α]": "<i>α</i>", "[σ]": "<i>σ</i>", "[g]": "<i>g</i>"}
    numbers = {"[α]": '<b data-line="alpha"></b>', "[σ]": '<b data-line="sigma"></b>'}
    numbers["[g]"] = f"<b>{scale:g}</b>" if isinstance(scale, int | float) else letters["[g]"]

    def written(right: str, symbols: Mapping[str, str]) -> Markup:
        return Markup(re.sub(r"\[.\]", lambda found: symbols[found[0]], right))

    return [
        {"caption": caption, "left": Markup(left), "letters": written(right, letters), "numbers": written(right, numbers)}
        for caption, left, right in equations + following
    ]
