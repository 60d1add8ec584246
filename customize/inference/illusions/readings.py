"""The readings of an illusion: the image under each view, or each of its components, with the prompt that it shows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from PIL import Image
from torch import Tensor

from customize.inference.explain.contact_sheet import contact_sheet
from customize.inference.explain.lessons import to_image
from customize.inference.illusions.build import PARTS
from customize.inference.illusions.views import parse_view
from customize.inference.inpainting import as_pixels
from customize.inference.run.grid import Grid, ImageRequest
from customize.settings.inference import OF_VIEWS


@dataclass(frozen=True)
class Reading:
    """What an image shows. seen: in words, how it is looked at; image: what is seen; moved: the image on its way there, see
    `View.moved`."""

    prompt: str
    seen: str
    image: Image.Image
    moved: Callable[[Tensor, float, int], Tensor]

    @property
    def label(self) -> str:
        """The prompt, and how the image is looked at."""
        return f"{self.prompt} ({self.seen})"


def readings(request: ImageRequest, image: Image.Image) -> list[Reading]:
    """One reading for each prompt, and for the component of an input image; none for an image without an illusion."""
    settings, prompts, pixels = request.settings, list(request.prompts), as_pixels(image)
    if settings.illusion in OF_VIEWS:
        views = [parse_view(view) for view in settings.view]
        seen = zip(prompts, settings.view, views, strict=True)
        return [Reading(prompt, named(text), to_image(view(pixels)), view.moved) for prompt, text, view in seen]
    if settings.illusion not in PARTS:
        return []
    components = PARTS[settings.illusion](settings)
    if settings.image_part:
        prompts.insert(components.names.index(settings.image_part), "the input image")
    parts = zip(prompts, components.names, components.split(pixels.double()), strict=True)
    return [
        Reading(prompt, name, to_image(part), partial(components.moved, index))
        for index, (prompt, name, part) in enumerate(parts)
    ]


def named(view: str) -> str:
    """A view as a label."""
    return "as it is" if view == "identity" else view.replace("_", " ")


def readings_sheet(grid: Grid, images: Mapping[int, Image.Image]) -> Image.Image | None:
    """A contact sheet with one row of readings per image of the grid; None without illusions."""
    places, rows = iter(range(len(grid.requests))), []
    for number, row in enumerate(grid.rows):
        for column, request in enumerate(row):
            image = images[next(places)]
            own = [labels[at] for labels, at in ((grid.row_labels, number), (grid.column_labels, column)) if labels]
            found = [(each.label, each.image) for each in readings(request, image)]
            rows.append((row_label(own, request), found or [("the image", image)]))
    if not any(len(found) > 1 for _, found in rows):
        return None
    headings = [[label for label, _ in found] for _, found in rows]
    same = all(each == headings[0] for each in headings)
    labels = [label if same else f"{label}: {' / '.join(each)}" for (label, _), each in zip(rows, headings, strict=True)]
    shown = [[each for _, each in found] for _, found in rows]
    return contact_sheet(shown, headings[0] if same else [], labels)


def row_label(own: Sequence[str], request: ImageRequest) -> str:
    """The labels of an image in the grid, without its prompts, which are shown above."""
    return ", ".join(label for label in own if label != ", ".join(request.prompts))
