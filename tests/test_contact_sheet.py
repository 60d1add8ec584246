"""Contact sheets and animations: every image is in its place, pixel for pixel."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFont

from customize.inference.explain.contact_sheet import (
    GAP,
    SMALLEST,
    before_after,
    box_of,
    contact_sheet,
    font_for,
    gif,
    line_length,
    steadily,
    wrapped,
)
from customize.inference.run.grid import Axis
from customize.methods import DreamBoothSettings, TextualInversionSettings

RED, GREEN, BLUE, YELLOW = (250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0)


def flat(colour, size=(128, 128)) -> Image.Image:
    return Image.new("RGB", size, colour)


def places(sheet: Image.Image, colour) -> tuple[int, int, int, int]:
    """left, top, right, bottom of all pixels of a colour."""
    rows, columns = np.nonzero((np.asarray(sheet) == colour).all(-1))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_images_are_in_rows_and_columns():
    sheet = contact_sheet([[flat(RED), flat(GREEN)], [flat(BLUE), None]], ["a", "b"], ["first", "second"])
    red, green, blue = (places(sheet, colour) for colour in (RED, GREEN, BLUE))
    for left, top, right, bottom in (red, green, blue):
        assert (right - left, bottom - top) == (128, 128)
    assert (green[0] - red[0], green[1]) == (128 + GAP, red[1])
    assert (blue[0], blue[1] - red[1]) == (red[0], 128 + GAP)
    pixels = np.asarray(sheet)
    assert (pixels[: red[1]] != 255).any() and (pixels[:, : red[0]] != 255).any(), "labels above and to the left"
    assert (pixels[green[3] :, green[0] :] == 255).all(), "None leaves its place empty"


def test_without_labels_no_space_is_reserved():
    sheet = contact_sheet([[flat(RED)]])
    left, top, right, bottom = places(sheet, RED)
    assert (left, top) == (sheet.width - right, sheet.height - bottom)


def test_small_images_are_enlarged_pixel_by_pixel():
    picture = Image.fromarray(np.array([[RED, GREEN], [BLUE, YELLOW]], dtype=np.uint8))
    left, top, right, bottom = places(contact_sheet([[picture]]), RED)
    assert (right - left, bottom - top) == (64, 64)
    large = contact_sheet([[flat(RED, (300, 200)), flat(GREEN, (100, 50))]])
    assert np.subtract(places(large, RED)[2:], places(large, RED)[:2]).tolist() == [300, 200], "none is shrunk"
    assert np.subtract(places(large, GREEN)[2:], places(large, GREEN)[:2]).tolist() == [300, 150], "a small one fills its cell"


@pytest.mark.parametrize("text", ["a photo of my dog in the bucket", "Donaudampfschifffahrtsgesellschaft" * 3, "", "x"])
@pytest.mark.parametrize("width", [60, 128, 400])
def test_labels_fit_their_width(text, width):
    font = ImageFont.load_default(12)
    lines = wrapped(text, font, width).split("\n")
    assert len(lines) <= 4 and all(line_length(line, font) <= width for line in lines)
    if line_length(text, font) <= width:
        assert lines == [text]
    assert box_of("\n".join(lines), font)[0] <= width + 1


def test_blanks_between_words_are_seen():
    """Between two words of a label there is a gap of more than a fifth of the letters' size."""
    sheet = np.asarray(contact_sheet([[flat(RED)]], ["HH HH"]).convert("L"))
    label = sheet[: places(Image.fromarray(np.asarray(contact_sheet([[flat(RED)]], ["HH HH"]))), RED)[1]]
    columns = np.nonzero((label < 128).any(0))[0]
    gaps = np.diff(columns) - 1
    assert max(gaps) >= 0.2 * SMALLEST and max(gaps) > 2 * sorted(gaps)[-2]


def test_letters_grow_with_the_images():
    assert contact_sheet([[flat(RED, (768, 768))]], ["x"]).height - 768 > contact_sheet([[flat(RED)]], ["x"]).height - 128


def test_missing_letters_come_from_another_font():
    assert font_for("a photo of <cat>", 14).getname() == ImageFont.load_default(14).getname()
    assert font_for("\U0010fffe", 14).getname() == ImageFont.load_default(14).getname()
    try:
        other = ImageFont.truetype("DejaVuSans.ttf", 14)
    except OSError:
        pytest.skip("no other font")
    assert font_for("фото кошки", 14).getname() == other.getname()


def test_labels_lose_accents_that_the_font_lacks():
    assert wrapped("Häuschen àéîõç", ImageFont.load_default(12), 400) == "Hauschen aeioc"


def test_before_and_after_are_side_by_side_below_the_training_images():
    taught = [flat(YELLOW, (300, 200))] * 9
    sheet = before_after(taught, [("a photo of <toy>", flat(RED), flat(GREEN)), ("a dog", flat(BLUE), flat(BLUE))])
    red, green, blue, yellow = (places(sheet, colour) for colour in (RED, GREEN, BLUE, YELLOW))
    assert yellow[3] < red[1] == green[1] < blue[1]
    assert red[2] < green[0]


def test_an_animation_has_its_frames_and_stops_at_the_last():
    animation = Image.open(io.BytesIO(gif([flat(RED), flat(GREEN), flat(BLUE)], steadily(3, 100, 900))))
    assert (animation.n_frames, animation.info["loop"]) == (3, 0)
    seen = []
    for frame in range(3):
        animation.seek(frame)
        seen.append((animation.convert("RGB").getpixel((5, 5)), animation.info["duration"]))
    assert seen == [(RED, 100), (GREEN, 100), (BLUE, 900)]


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([("/home/me/runs/cat",), ("/home/me/runs/dog",)], ["weights cat", "weights dog"]),
        ([("runs/cat:0.5",), ("runs/cat:1",)], ["weights cat:0.5", "weights cat:1"]),
        ([("a/x/pytorch_lora_weights.safetensors:0.8",), ("a/y/learned_embeds.safetensors",)], ["weights x:0.8", "weights y"]),
        ([("one/run",), ("two/run",)], ["weights one/run", "weights two/run"]),
        ([("r/weights/step-000100", "s.safetensors:2"), ()], ["weights step-000100 + s:2", "weights (none)"]),
        ([(r"C:\Users\me\cat.safetensors",), ("dog",)], ["weights cat", "weights dog"]),
    ],
)
def test_column_labels_are_names_not_paths(values, labels):
    assert Axis("weights", tuple(values)).labels == labels


def test_images_too():
    assert Axis("image", ("/a/b/photo.png", None)).labels == ["image photo.png", "image (none)"]


def words(*tokens: str, **settings) -> TextualInversionSettings:
    return TextualInversionSettings(placeholder_token=tokens, train_data_dir="x", **settings)


@pytest.mark.parametrize(
    ("settings", "label"),
    [
        (DreamBoothSettings(instance_prompt="x", instance_data_dir="x"), "base model"),
        (words("<dusk>", initializer_token="black and white"), '"black and white" for <dusk>'),
        (words("<a>", "<b>", initializer_token="toy"), '"toy" for <a>, "toy" for <b>'),
    ],
)
def test_labels_of_before_and_after_can_be_chosen(settings, label):
    assert settings.start_label == label
