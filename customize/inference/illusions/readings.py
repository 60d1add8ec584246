"""The readings of an illusion: the image under each view, or each of its components, with the prompt that it shows."""

from collections.abc import Mapping, Sequence

from PIL import Image

from customize.inference.explain.contact_sheet import contact_sheet
from customize.inference.explain.lessons import to_image
from customize.inference.illusions.build import PARTS
from customize.inference.illusions.views import parse_view
from customize.inference.inpainting import as_pixels
from customize.inference.run.grid import Grid, ImageRequest
from customize.settings.inference import OF_VIEWS

Reading = tuple[str, Image.Image]


def readings(request: ImageRequest, image: Image.Image) -> list[Reading]:
    """(label, image) for each prompt; empty for an image without an illusion."""
    settings, prompts = request.settings, request.prompts
    if settings.illusion in OF_VIEWS:
        shown = [to_image(parse_view(view)(as_pixels(image))) for view in settings.view]
        return [(f"{prompt} ({named(view)})", each) for prompt, view, each in zip(prompts, settings.view, shown, strict=True)]
    if settings.illusion not in PARTS:
        return []
    components = PARTS[settings.illusion]()
    parts = [to_image(part) for part in components.split(as_pixels(image).double())]
    if settings.image_part:  # one component comes from the input image, the other from the only prompt
        return [(name, part) for name, part in zip(components.names, parts, strict=True)]
    return [(f"{prompt} ({name})", part) for prompt, name, part in zip(prompts, components.names, parts, strict=True)]


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
            rows.append((row_label(own, request), readings(request, image) or [("the image", image)]))
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
