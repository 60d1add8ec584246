"""Pictures of pictures: labelled sheets and animations, with Pillow and its built-in font."""

import io
import unicodedata
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

GAP, MARGIN, MAX_LINES = 6, 10, 4
PAPER, INK, LINE = "white", "black", (225, 225, 225)


def contact_sheet(
    rows: Sequence[Sequence[Image.Image | None]],
    column_labels: Sequence[str] = (),
    row_labels: Sequence[str] = (),
    min_side: int = 128,
) -> Image.Image:
    """Pictures in rows and columns, with labels above and to the left; None leaves a place empty.

    All places have the size of the largest picture. Pictures are never shrunk; small ones are enlarged by a whole
    factor, pixel by pixel, towards `min_side`, so that labels have room and every pixel can be seen as it is.
    """
    pictures = [picture for row in rows for picture in row if picture is not None]
    assert pictures, "a sheet needs a picture"
    factor = max(1, min_side // max(max(picture.size) for picture in pictures))
    width = max(picture.width for picture in pictures) * factor
    height = max(picture.height for picture in pictures) * factor
    font = ImageFont.load_default(max(11, min(18, width // 12)))
    above = [wrapped(label, font, width) for label in column_labels]
    beside = [wrapped(label, font, max(width, 110), height) for label in row_labels]
    left = MARGIN + max((box_of(text, font)[0] + GAP for text in beside), default=0)
    top = MARGIN + max((box_of(text, font)[1] + GAP for text in above), default=0)
    columns = [left + column * (width + GAP) for column in range(max(map(len, rows)))]
    lines = [top + line * (height + GAP) for line in range(len(rows))]
    sheet = Image.new("RGB", (columns[-1] + width + MARGIN, lines[-1] + height + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    for x, text in zip(columns, above, strict=False):
        draw.multiline_text((x + width // 2, top - GAP), text, INK, font, anchor="md", align="center")
    for y, text in zip(lines, beside, strict=False):
        draw.multiline_text((left - GAP, y + height // 2), text, INK, font, anchor="rm", align="right")
    for y, row in zip(lines, rows, strict=True):
        for x, picture in zip(columns, row, strict=False):
            if picture is not None:
                large = ImageOps.scale(picture.convert("RGB"), factor, Image.Resampling.NEAREST)
                sheet.paste(large, (x + (width - large.width) // 2, y + (height - large.height) // 2))
    return sheet


def before_after(
    pictures: Sequence[Image.Image], rows: Sequence[tuple[str, Image.Image, Image.Image]], most: int = 8
) -> Image.Image:
    """What was taught, above what came of it: the first pictures in a row, then (prompt, before, after) in a sheet."""
    below = contact_sheet([row[1:] for row in rows], ["before", "after"], [row[0] for row in rows])
    side = max(rows[0][1].width, 96)
    thumbnails = []
    for picture in pictures[:most]:
        thumbnail = picture.convert("RGB")
        thumbnail.thumbnail((side, side), Image.Resampling.LANCZOS)
        thumbnails.append(thumbnail)
    left_out = f" (of {len(pictures)})" if len(pictures) > most else ""
    return stacked([contact_sheet([thumbnails], row_labels=[f"taught{left_out}"]), below])


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


def gif(frames: Sequence[Image.Image], milliseconds: int = 120, last: int = 1500) -> bytes:
    """An animation that repeats for ever; every frame is shown for `milliseconds`, the last one for `last`."""
    file = io.BytesIO()
    durations = [milliseconds] * (len(frames) - 1) + [last]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    return file.getvalue()


def wrapped(text: str, font, width: int, height: int | None = None) -> str:
    """The text in lines of at most `width` pixels, cut off with an ellipsis when there are too many of them.

    Letters lose their accents, which the built-in font has not.
    """
    lines = [""]
    for word in "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c)).split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    most = MAX_LINES if height is None else max(1, height // (font.size + 4))
    if len(lines) > most:
        lines = [*lines[: most - 1], f"{lines[most - 1]}…"]
    return "\n".join(shortened(line, font, width) for line in lines)


def shortened(line: str, font, width: int) -> str:
    """A line of at most `width` pixels: letters are dropped from its middle when a word is too long."""
    kept = line
    while len(kept) > 3 and font.getlength(kept) > width:
        half = (len(kept) - 2) // 2
        kept = f"{kept[:half]}…{kept[-half:]}" if half else kept[:1]
    return kept


def box_of(text: str, font) -> tuple[int, int]:
    """Width and height of a text of several lines in pixels."""
    left, top, right, bottom = ImageDraw.Draw(Image.new("L", (1, 1))).multiline_textbbox((0, 0), text, font)
    return round(right - left), round(bottom - top) + 2
