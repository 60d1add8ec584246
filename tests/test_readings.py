"""Sheets of illusions show every reading: each view of the image, or each part of it, under its prompt."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from customize.inference.illusions import animation as of_illusions
from customize.inference.illusions.animation import MOVING, RESTING, STEPS, animation, frame
from customize.inference.illusions.readings import readings, readings_sheet
from customize.inference.illusions.views import parse_view
from customize.inference.inpainting import as_pixels
from customize.inference.run.grid import grid
from customize.settings.inference import InferenceSettings

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def wanted(**changes):
    return grid(InferenceSettings(**{"prompt": ("a cat", "a dog"), **changes}))


@pytest.mark.parametrize(
    ("view", "transposed", "words"),
    [
        ("flip", Image.Transpose.FLIP_TOP_BOTTOM, "flip"), ("rotate_180", Image.Transpose.ROTATE_180, "rotate 180"),
        ("rotate_90_cw", Image.Transpose.ROTATE_270, "rotate 90 cw"),
        ("rotate_90_ccw", Image.Transpose.ROTATE_90, "rotate 90 ccw"),
    ],
)  # fmt: skip
def test_an_anagram_has_a_reading_per_view(view, transposed, words):
    [found] = wanted(illusion="anagram", view=("identity", view)).requests
    one, other = readings(found, IMAGE)
    assert (one.label, other.label) == ("a cat (as it is)", f"a dog ({words})")
    assert one.image == IMAGE and other.image == IMAGE.transpose(transposed)


@pytest.mark.parametrize(
    ("illusion", "names", "count"), [("hybrid", ("low", "high"), 2), ("triple", ("low", "middle", "high"), 3),
                                     ("colour", ("grey", "colour"), 2), ("motion", ("moving", "rest"), 2)],
)  # fmt: skip
def test_components_are_labelled_with_their_prompts(illusion, names, count):
    prompts = ("a cat", "a dog", "a fox")[:count]
    [found] = wanted(prompt=prompts, illusion=illusion).requests
    reported = readings(found, IMAGE)
    assert [each.label for each in reported] == [f"{prompt} ({name})" for prompt, name in zip(prompts, names, strict=True)]
    if illusion == "colour":
        grey = np.asarray(IMAGE, dtype=np.float64).mean(-1)
        assert np.abs(np.asarray(reported[0].image, dtype=float) - grey[..., None]).max() <= 1


def test_the_component_of_an_image_is_called_so():
    [found] = wanted(prompt="a cat", illusion="hybrid", image="x.png", image_part="low").requests
    assert [each.label for each in readings(found, IMAGE)] == ["the input image (low)", "a cat (high)"]


def test_a_sheet_has_a_row_for_each_image_and_a_column_for_each_reading():
    made = wanted(illusion="anagram", view=("identity", "flip"), num_images=3)
    plain = wanted(num_images=3)
    images = {place: IMAGE for place in range(3)}
    sheet = readings_sheet(made, images)
    assert sheet is not None and readings_sheet(plain, {place: IMAGE for place in range(6)}) is None
    pixels = np.asarray(sheet)
    enlarged = np.asarray(IMAGE.resize((128, 128), Image.Resampling.NEAREST))
    rows = [y for y in range(sheet.height - 127) for x in [sheet.width - 10 - 128 - 6 - 128]
            if np.array_equal(pixels[y : y + 128, x : x + 128], enlarged)]  # fmt: skip
    assert len(rows) == 3 and {after - before for before, after in zip(rows, rows[1:], strict=False)} == {134}
    flipped = enlarged[::-1]
    assert all(np.array_equal(pixels[y : y + 128, sheet.width - 138 : sheet.width - 10], flipped) for y in rows)


def test_pixels_are_those_of_the_image():
    assert torch.equal(as_pixels(IMAGE)[0, :, 0, 0], torch.tensor(IMAGE.getpixel((0, 0))).float() / 127.5 - 1)


def enlarged(image: Image.Image, factor: int) -> np.ndarray:
    return np.asarray(image).repeat(factor, 0).repeat(factor, 1)


ILLUSIONS = [
    {"illusion": "anagram", "view": ("identity", "jigsaw")}, {"illusion": "anagram", "view": ("flip", "rotate_90_cw")},
    {"illusion": "looking_glass", "view": ("identity", "negate")}, {"illusion": "colour"}, {"illusion": "motion"},
]  # fmt: skip


@pytest.mark.parametrize("settings", ILLUSIONS)
def test_frames_begin_with_the_image_and_end_with_a_reading(settings):
    [found] = wanted(**settings).requests
    for reading in readings(found, IMAGE):
        first, last = (np.asarray(frame(as_pixels(IMAGE), reading, fraction)) for fraction in (0.0, 1.0))
        assert np.array_equal(first, enlarged(IMAGE, 4)) and np.array_equal(last, enlarged(reading.image, 4))


@pytest.mark.parametrize(("width", "height"), [(48, 16), (16, 48), (32, 32)])
@pytest.mark.parametrize("fraction", [0.25, 0.6])
def test_a_picture_that_turns_stays_visible_as_a_whole(width, height, fraction):
    """It shrinks to the largest size at which the turned rectangle fits into the frame, and no corner of it is cut off."""
    scale, corners = 16, (-0.8, -0.4, 0.0, 0.4)
    image = torch.full((1, 1, height, width), -1.0)
    image[..., [0, 0, -1, -1], [0, -1, 0, -1]] = torch.tensor(corners)
    shown = parse_view("rotate_180").moved(image, fraction, scale)[0, 0]
    cos, sin = abs(math.cos(math.pi * fraction)), abs(math.sin(math.pi * fraction))
    size = min(width / (width * cos + height * sin), height / (width * sin + height * cos), 1)
    side = scale * size
    for value in corners:
        assert (shown == value).sum().item() == pytest.approx(side**2, rel=0.5)
    assert (shown < 1).sum().item() == pytest.approx(width * height * side**2, rel=0.02)


def test_a_hybrid_recedes_until_its_low_frequencies_are_left():
    [found] = wanted(illusion="hybrid").requests
    low, high = readings(found, IMAGE)
    shown = np.asarray(frame(as_pixels(IMAGE), low, 1.0))
    assert np.abs(shown[96:160, 96:160].astype(int) - np.asarray(low.image)).max() <= 1, "a quarter of 256 pixels"
    shown = shown.copy()
    shown[96:160, 96:160] = 255
    assert (shown == 255).all()
    assert np.array_equal(np.asarray(frame(as_pixels(IMAGE), high, 1.0)), enlarged(high.image, 4))


def test_an_animation_rests_at_its_readings_and_returns(monkeypatch):
    monkeypatch.setattr(of_illusions, "SIDE", 64)
    [found] = wanted(illusion="anagram", view=("identity", "rotate_180")).requests
    data = animation(IMAGE, readings(found, IMAGE))
    assert data == animation(IMAGE, readings(found, IMAGE)) and len(data) < 32 * 84 * 200
    shown, durations = [], []
    with Image.open(io.BytesIO(data)) as film:
        assert film.info["loop"] == 0
        for number in range(film.n_frames):
            film.seek(number)
            durations.append(film.info["duration"])
            shown.append(np.asarray(film.convert("RGB")))
    assert durations == [RESTING, *[MOVING] * (STEPS - 1)] * 2
    assert all(np.array_equal(shown[step], shown[-step]) for step in range(1, STEPS))
    assert np.array_equal(shown[0][10:74, 10:74], shown[STEPS][10:74, 10:74][::-1, ::-1])
    captions = [(each[74:] < 128).any() for each in shown]
    assert [number for number, written in enumerate(captions) if written] == [0, STEPS]


def test_an_animation_of_any_image_is_bounded(monkeypatch):
    monkeypatch.setattr(of_illusions, "SIDE", 64)
    flat, large = Image.new("RGB", (64, 64)), IMAGE.resize((640, 320))
    [found] = wanted(illusion="anagram", view=("identity", "flip")).requests
    assert Image.open(io.BytesIO(animation(flat, readings(found, flat)))).size[0] == 84
    assert frame(as_pixels(large), readings(found, large)[1], 0.3).size == (64, 32)
