"""Writes images with their metadata and recordings, and a contact sheet of all."""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from PIL.Image import Image

from customize import events
from customize.data.images.image_file import open_image
from customize.inference.explain.contact_sheet import contact_sheet
from customize.inference.illusions.animation import animation
from customize.inference.illusions.readings import readings, readings_sheet
from customize.inference.metadata.write_png import saving
from customize.inference.run.generate import GeneratedBatch
from customize.inference.run.grid import Grid, ImageRequest
from customize.inference.run.image_folder import ImageFolder
from customize.settings.inference import InferenceSettings
from customize.storage.atomic import write_bytes, write_image

MOST_ON_SHEET = 100
WORTH_TELLING = 60
"""Expected seconds for all images above which the estimate is reported."""


def write_images(
    settings: InferenceSettings, grid: Grid, place: ImageFolder, batches: Iterable[GeneratedBatch]
) -> tuple[dict[int, Image], dict[int, Image]]:
    """Writes each image as it is finished, with its trace, attention maps and animation. Returns what a sheet of up to
    `MOST_ON_SHEET` images needs: the images by place, and with `show_start` the noised starts."""
    count = len(grid.requests)
    images: dict[int, Image] = {}
    starts: dict[int, Image] = {}
    left, begin, reported = count - len(place.finished), time.monotonic(), False
    for drawn in batches:
        numbers = [place.start + number for number in drawn.places]
        drawn.observers.write(place.folder, numbers, drawn.images, place.file("trace.jsonl").name)
        for number, image, texts in zip(drawn.places, drawn.images, drawn.texts, strict=True):
            if number not in place.finished:
                write_animation(settings, grid.requests[number], image, place.animation(number))
                write_image(place.image(number), image, **saving(place.format, texts))
                place.finished.add(number)
        made = len(drawn.places)
        seconds = (time.monotonic() - begin) * left / made
        if not reported and made < left and seconds > WORTH_TELLING:
            events.emit(events.TimeEstimate(left, made, seconds))
        reported = True
        if settings.show_start:
            starts |= dict(zip(drawn.places, drawn.observers.starts(), strict=True))
        if count <= MOST_ON_SHEET:
            images |= dict(zip(drawn.places, drawn.images, strict=True))
    return images, starts


def write_sheet(
    settings: InferenceSettings, grid: Grid, place: ImageFolder, images: Mapping[int, Image], starts: Mapping[int, Image]
) -> None:
    """Writes sheet.png of 2 to `MOST_ON_SHEET` images, once all are finished. images: those at hand; the others are read."""
    count = len(grid.requests)
    place.finished |= set(range(count))
    if count > MOST_ON_SHEET and not settings.show_start:
        return
    images = {number: images[number] if number in images else open_image(place.image(number)) for number in range(count)}
    shown = None if starts else readings_sheet(grid, images)
    if shown or count > 1 or settings.show_start:
        write_image(place.file("sheet.png"), shown or sheet(grid, images, starts))


def write_animation(settings: InferenceSettings, request: ImageRequest, image: Image, path: Path) -> None:
    """Writes the animation of an illusion, unless `illusion_gif` is off."""
    if settings.illusion_gif and (found := readings(request, image)):
        write_bytes(path, animation(image, found))


def sheet(grid: Grid, images: Mapping[int, Image], starts: Mapping[int, Image]) -> Image:
    """A contact sheet of all images with the labels of the grid; above each row the noised starts, if given."""
    places, rows, labels = iter(range(len(grid.requests))), [], []
    for number, row in enumerate(grid.rows):
        here = [next(places) for _ in row]
        for kind, shown in (("start with noise", starts), ("result", images)):
            if shown:
                rows.append([shown[place] for place in here])
                own = grid.row_labels[number] if grid.row_labels else ""
                labels.append(f"{own} {kind}".strip() if starts else own)
    return contact_sheet(rows, grid.column_labels, labels if any(labels) else [])
