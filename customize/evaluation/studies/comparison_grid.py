"""The pictures of a comparison side by side: a row for each prompt, a column for the base model and for each way of training."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from PIL import Image

from customize.evaluation.record import BASE, FOLDER, Evaluation
from customize.evaluation.studies.comparison import Result, places
from customize.inference.explain.contact_sheet import contact_sheet
from customize.storage import checkpoint
from customize.storage.untrusted_files import regular_file

PICTURES, OF_BASE = "pictures", "base"
MOST_ROWS, MOST_COLUMNS, SIDE = 8, 12, 512
"""More prompts and ways are left out; larger pictures are reduced."""


def grid(shown: Sequence[tuple[Result, Path]]) -> Image.Image | None:
    """The sheet, from the pictures that the evaluation of each run left in its folder; None if there are none.

    shown: a run of each way, and its folder. The base model's pictures are those of the first run; all are of the first seed.
    """
    measured = [(result, folder, result.evaluation) for result, folder in shown if result.evaluation][:MOST_COLUMNS]
    if not measured:
        return None
    _, first, evaluation = measured[0]
    columns = [pictures(first, evaluation, BASE)]
    columns += [pictures(folder, own, own.chosen if own.chosen is not None else own.steps) for _, folder, own in measured]
    numbers = sorted(columns[0].keys() | columns[1].keys())[:MOST_ROWS]
    if not numbers:
        return None
    texts = [prompt.plain or prompt.text for prompt in evaluation.prompts if prompt.kind == "concept"]
    labels = ["base model", *(result.way for result, _, _ in measured)]
    return contact_sheet([[column.get(number) for column in columns] for number in numbers], labels, [texts[n] for n in numbers])


def pictures(folder: Path, evaluation: Evaluation, step: int) -> dict[int, Image.Image]:
    """The first picture of each prompt of the concept, by the place of the prompt, after a step."""
    drawn = folder / FOLDER / PICTURES / (OF_BASE if step == BASE else checkpoint.name(step))
    order = [number for number, pair in enumerate(evaluation.pairs) if evaluation.prompts[pair.prompt].kind == "concept"]
    found: dict[int, Image.Image] = {}
    for number, (place, _) in zip(order, places(evaluation), strict=True):
        if place not in found:
            with suppress(OSError, ValueError), regular_file(drawn / f"{number:03d}.png") as stream:
                found[place] = read(stream)
    return found


def read(stream) -> Image.Image:
    """A PNG of at most `SIDE` pixels on its longer side."""
    with Image.open(stream, formats=["PNG"]) as image:
        picture = image.convert("RGB")
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return picture
