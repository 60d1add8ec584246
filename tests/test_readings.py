"""Sheets of illusions show every reading: each view of the image, or each part of it, under its prompt."""

import numpy as np
import pytest
import torch
from PIL import Image

from customize.inference.illusions.readings import readings, readings_sheet
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
    (first, one), (second, other) = readings(found, IMAGE)
    assert (first, second) == ("a cat (as it is)", f"a dog ({words})")
    assert one == IMAGE and other == IMAGE.transpose(transposed)


@pytest.mark.parametrize(
    ("illusion", "names", "count"), [("hybrid", ("low", "high"), 2), ("triple", ("low", "middle", "high"), 3),
                                     ("colour", ("grey", "colour"), 2), ("motion", ("moving", "rest"), 2)],
)  # fmt: skip
def test_components_are_labelled_with_their_prompts(illusion, names, count):
    prompts = ("a cat", "a dog", "a fox")[:count]
    [found] = wanted(prompt=prompts, illusion=illusion).requests
    reported = readings(found, IMAGE)
    assert [label for label, _ in reported] == [f"{prompt} ({name})" for prompt, name in zip(prompts, names, strict=True)]
    if illusion == "colour":
        grey = np.asarray(IMAGE, dtype=np.float64).mean(-1)
        assert np.abs(np.asarray(reported[0][1], dtype=float) - grey[..., None]).max() <= 1


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
