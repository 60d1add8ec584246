"""Labelled contact sheets and animations, with Pillow and its built-in font."""

import io
import math
import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import suppress

from PIL import Image, ImageDraw, ImageFont, ImageOps

from customize.printable import printable

GAP, MARGIN, MAX_LINES = 6, 10, 4
PAPER, INK, LINE = "white", "black", (225, 225, 225)
SMALLEST, LARGEST, SPACE = 14, 36, 0.3
"""Font sizes of labels in pixels, which grow with the images; and the space between words as a fraction of the font size,
because that of the built-in font is too narrow."""
OTHER_FONTS = (
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "PingFang.ttc", "msyh.ttc",
    "meiryo.ttc", "malgun.ttf", "arial.ttf",
)  # fmt: skip
"""System fonts to try for characters that the built-in font does not have."""


def contact_sheet(
    rows: Sequence[Sequence[Image.Image | None]],
    column_labels: Sequence[str] = (),
    row_labels: Sequence[str] = (),
    min_side: int = 128,
) -> Image.Image:
    """Images in rows and columns, with labels above and to the left; None leaves a cell empty.

    All cells have the size of the largest image, enlarged towards `min_side` so that labels fit. Images are never reduced; small
    ones are enlarged by an integer factor, with nearest neighbour, as far as their cell allows, so that every pixel is visible.
    """
    images = [image for row in rows for image in row if image is not None]
    assert images, "a contact sheet needs an image"
    factor = max(1, min_side // max(max(image.size) for image in images))
    width = max(image.width for image in images) * factor
    height = max(image.height for image in images) * factor
    font = font_for("".join([*column_labels, *row_labels]), max(SMALLEST, min(LARGEST, width // 18)))
    above = [wrapped(label, font, width) for label in column_labels]
    beside = [wrapped(label, font, min(max(width, 150), 12 * font.size), height) for label in row_labels]
    left = MARGIN + max((box_of(text, font)[0] + GAP for text in beside), default=0)
    top = MARGIN + max((box_of(text, font)[1] + GAP for text in above), default=0)
    columns = [left + column * (width + GAP) for column in range(max(map(len, rows)))]
    lines = [top + line * (height + GAP) for line in range(len(rows))]
    sheet = Image.new("RGB", (columns[-1] + width + MARGIN, lines[-1] + height + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    for x, text in zip(columns, above, strict=False):
        write(draw, text, font, x + width // 2, top - GAP - box_of(text, font)[1], 0.5)
    for y, text in zip(lines, beside, strict=False):
        write(draw, text, font, left - GAP, y + (height - box_of(text, font)[1]) // 2, 1.0)
    for y, row in zip(lines, rows, strict=True):
        for x, image in zip(columns, row, strict=False):
            if image is not None:
                times = min(width // image.width, height // image.height)
                large = ImageOps.scale(image.convert("RGB"), times, Image.Resampling.NEAREST)
                sheet.paste(large, (x + (width - large.width) // 2, y + (height - large.height) // 2))
    return sheet


def before_after(
    images: Sequence[Image.Image],
    rows: Sequence[tuple[str, Image.Image, Image.Image]],
    most: int = 8,
    of: int = 0,
    labels: tuple[str, str] = ("before", "after"),
) -> Image.Image:
    """The training images in a row, above a sheet of samples (prompt, before, after).

    of: the total number of training images, if not all are given; labels: those of the two columns.
    """
    below = contact_sheet([row[1:] for row in rows], labels, [row[0] for row in rows])
    side = max(rows[0][1].width, 96)
    thumbnails = []
    for image in images[:most]:
        thumbnail = image.convert("RGB")
        thumbnail.thumbnail((side, side), Image.Resampling.LANCZOS)
        thumbnails.append(thumbnail)
    count = max(of, len(images))
    taught = f"taught: {len(thumbnails)} of {count:,}" if count > len(thumbnails) else "taught"
    return stacked([contact_sheet([thumbnails], row_labels=[taught]), below])


def stacked(sheets: Sequence[Image.Image]) -> Image.Image:
    """Sheets one below the other, left-aligned, with a line between them."""
    result = Image.new("RGB", (max(sheet.width for sheet in sheets), sum(sheet.height for sheet in sheets)), PAPER)
    y = 0
    for sheet in sheets:
        result.paste(sheet, (0, y))
        if y:
            ImageDraw.Draw(result).line((MARGIN, y, result.width - MARGIN, y), LINE)
        y += sheet.height
    return result


def gif(frames: Sequence[Image.Image], milliseconds: Sequence[int]) -> bytes:
    """A looping GIF, in which each frame is shown for so many milliseconds."""
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=list(milliseconds), loop=0)
    return file.getvalue()


def steadily(count: int, milliseconds: int = 120, last: int = 1500) -> list[int]:
    """The durations of so many frames for `gif`: equal ones, and `last` at the end."""
    return [milliseconds] * (count - 1) + [last]


def write(draw: ImageDraw.ImageDraw, text: str, font, x: int, y: int, align: float) -> None:
    """Draws lines of text below y; align: the fraction of each line to the left of x."""
    for line in text.split("\n"):
        place = x - align * line_length(line, font)
        for word in line.split(" "):
            draw.text((round(place), y), word, INK, font, anchor="la")
            place += font.getlength(word) + SPACE * font.size
        y += line_height(font)


def line_length(line: str, font) -> float:
    """The width in pixels of a line drawn by `write`."""
    return sum(font.getlength(word) for word in line.split(" ")) + line.count(" ") * SPACE * font.size


def line_height(font) -> int:
    """The line spacing in pixels."""
    return round(1.25 * font.size)


def font_for(text: str, size: int):
    """The built-in font; if it lacks a letter, a system font that has all letters, if there is one."""
    own = ImageFont.load_default(size)
    letters = set(without_accents(text))
    if has(own, letters):
        return own
    for name in OTHER_FONTS:
        with suppress(OSError):
            other = ImageFont.truetype(name, size)
            if has(other, letters):
                return other
    return own


def has(font, letters: Iterable[str]) -> bool:
    """Whether a font has a glyph of its own for each of these letters."""
    nothing = bytes(font.getmask("\U0010ffff"))
    return all(bytes(font.getmask(letter)) != nothing for letter in letters if not letter.isspace())


def without_accents(text: str) -> str:
    """The text without accents, which the built-in font does not have."""
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))


def wrapped(text: str, font, width: int, height: int | None = None) -> str:
    """Wraps text to lines of at most `width` pixels; too many lines are cut off with an ellipsis. Removes accents."""
    lines = [""]
    for word in without_accents(printable(" ".join(text.split()))).split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and line_length(longer, font) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    most = MAX_LINES if height is None else max(1, height // line_height(font))
    if len(lines) > most:
        lines = [*lines[: most - 1], f"{lines[most - 1]}…"]
    return "\n".join(shortened(line, font, width) for line in lines)


def shortened(line: str, font, width: int) -> str:
    """Shortens a line to at most `width` pixels by removing letters from its middle."""
    kept = line
    while len(kept) > 3 and line_length(kept, font) > width:
        half = (len(kept) - 2) // 2
        kept = f"{kept[:half]}…{kept[-half:]}" if half else kept[:1]
    return kept


def box_of(text: str, font) -> tuple[int, int]:
    """Width and height of a multi-line text in pixels."""
    lines = text.split("\n")
    return math.ceil(max(line_length(line, font) for line in lines)), len(lines) * line_height(font)
