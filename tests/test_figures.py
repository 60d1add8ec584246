"""Sheets and animations: every picture is where it belongs, pixel for pixel."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFont

from customize.inference.figures import GAP, before_after, box_of, contact_sheet, gif, wrapped

RED, GREEN, BLUE, YELLOW = (250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0)


def flat(colour, size=(128, 128)) -> Image.Image:
    return Image.new("RGB", size, colour)


def places(sheet: Image.Image, colour) -> tuple[int, int, int, int]:
    """left, top, right, bottom of all pixels of a colour."""
    rows, columns = np.nonzero((np.asarray(sheet) == colour).all(-1))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_pictures_stand_in_rows_and_columns():
    sheet = contact_sheet([[flat(RED), flat(GREEN)], [flat(BLUE), None]], ["a", "b"], ["first", "second"])
    red, green, blue = (places(sheet, colour) for colour in (RED, GREEN, BLUE))
    for left, top, right, bottom in (red, green, blue):
        assert (right - left, bottom - top) == (128, 128)
    assert (green[0] - red[0], green[1]) == (128 + GAP, red[1])
    assert (blue[0], blue[1] - red[1]) == (red[0], 128 + GAP)
    pixels = np.asarray(sheet)
    assert (pixels[: red[1]] != 255).any() and (pixels[:, : red[0]] != 255).any(), "labels above and to the left"
    assert (pixels[green[3] :, green[0] :] == 255).all(), "None leaves its place empty"


def test_without_labels_there_is_no_room_for_them():
    sheet = contact_sheet([[flat(RED)]])
    left, top, right, bottom = places(sheet, RED)
    assert (left, top) == (sheet.width - right, sheet.height - bottom)


def test_small_pictures_are_enlarged_pixel_by_pixel():
    picture = Image.fromarray(np.array([[RED, GREEN], [BLUE, YELLOW]], dtype=np.uint8))
    left, top, right, bottom = places(contact_sheet([[picture]]), RED)
    assert (right - left, bottom - top) == (64, 64)
    large = contact_sheet([[flat(RED, (300, 200)), flat(GREEN, (100, 50))]])
    assert np.subtract(places(large, RED)[2:], places(large, RED)[:2]).tolist() == [300, 200], "none is shrunk"
    assert np.subtract(places(large, GREEN)[2:], places(large, GREEN)[:2]).tolist() == [100, 50]


@pytest.mark.parametrize("text", ["a photo of my dog in the bucket", "Donaudampfschifffahrtsgesellschaft" * 3, "", "x"])
@pytest.mark.parametrize("width", [60, 128, 400])
def test_labels_keep_to_their_width(text, width):
    font = ImageFont.load_default(12)
    lines = wrapped(text, font, width).split("\n")
    assert len(lines) <= 4 and all(font.getlength(line) <= width for line in lines)
    if font.getlength(text) <= width:
        assert lines == [text]
    assert box_of("\n".join(lines), font)[0] <= width + 1


def test_labels_lose_accents_that_the_font_has_not():
    assert wrapped("Häuschen àéîõç", ImageFont.load_default(12), 400) == "Hauschen aeioc"


def test_before_and_after_stand_beside_each_other_under_what_was_taught():
    taught = [flat(YELLOW, (300, 200))] * 9
    sheet = before_after(taught, [("a photo of <toy>", flat(RED), flat(GREEN)), ("a dog", flat(BLUE), flat(BLUE))])
    red, green, blue, yellow = (places(sheet, colour) for colour in (RED, GREEN, BLUE, YELLOW))
    assert yellow[3] < red[1] == green[1] < blue[1]
    assert red[2] < green[0]


def test_an_animation_has_its_frames_and_stops_at_the_last():
    animation = Image.open(io.BytesIO(gif([flat(RED), flat(GREEN), flat(BLUE)], milliseconds=100, last=900)))
    assert (animation.n_frames, animation.info["loop"]) == (3, 0)
    seen = []
    for frame in range(3):
        animation.seek(frame)
        seen.append((animation.convert("RGB").getpixel((5, 5)), animation.info["duration"]))
    assert seen == [(RED, 100), (GREEN, 100), (BLUE, 900)]
