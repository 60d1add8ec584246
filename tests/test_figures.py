"""Sheets, animations and traces: every picture is where it belongs, pixel for pixel."""

import io
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from customize.inference.estimates import Conditional, guided
from customize.inference.figures import GAP, before_after, box_of, contact_sheet, gif, wrapped
from customize.inference.sampler import Moment, Step
from customize.inference.trace import Trace, colour_map, preview, spread

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


def moment(index: int, count: int, prediction_type: str = "epsilon") -> Moment:
    generator = torch.Generator().manual_seed(index)
    latents, noise, clean, a, b = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(5))
    step = Step(index, count, torch.tensor(900 - index), None, 0.6, 0.8, prediction_type)
    estimate = guided(Conditional(torch.zeros(2, 1, 1)), Conditional(torch.zeros(2, 1, 1)), 3.0)
    return Moment(step, latents, latents, estimate, [a, b], noise, clean)


def decode(latents: torch.Tensor) -> list[Image.Image]:
    """A linear autoencoder of 2 x 2 pixels per latent pixel."""
    pixels = (latents[:, :3] * 20 + 128).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(array).resize((16, 16), Image.Resampling.NEAREST) for array in pixels]


@pytest.mark.parametrize(("prediction_type", "factor"), [("epsilon", 1.0), ("v_prediction", 0.6)])
def test_a_trace_tells_the_norms_of_every_step(prediction_type, factor):
    trace, moments = Trace(), [moment(index, 3, prediction_type) for index in range(3)]
    for each in moments:
        trace(each)
    lines = [json.loads(line) for line in trace.lines(first_image=5).splitlines()]
    assert [(line["image"], line["step"]) for line in lines] == [(i, step) for i in (5, 6) for step in range(3)]
    for line in lines:
        its, image = moments[line["step"]], line["image"] - 5
        negative, positive = (answer[image].double() for answer in its.answers)
        assert line["guidance_norm"] == pytest.approx(factor * (positive - negative).norm().item(), rel=1e-5)
        assert line["latents_norm"] == pytest.approx(its.seen[image].double().norm().item(), rel=1e-5)
        assert line["clean_norm"] == pytest.approx(its.clean[image].double().norm().item(), rel=1e-5)
        assert line["noise_norm"] == pytest.approx(its.noise[image].double().norm().item(), rel=1e-5)
        assert (line["timestep"], line["alpha"], line["sigma"]) == (900 - line["step"], 0.6, 0.8)


def test_without_guidance_its_norm_is_null():
    trace, one = Trace(), moment(0, 1)
    trace(replace(one, estimate=Conditional(torch.zeros(2, 1, 1)), answers=one.answers[:1]))
    assert json.loads(trace.lines().splitlines()[0])["guidance_norm"] is None


def test_a_trace_is_drawn_and_played(tmp_path):
    trace = Trace()
    for index in range(25):
        trace(moment(index, 25))
    trace.write(tmp_path, 7, decode)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "007-trace.gif", "007-trace.png", "008-trace.gif", "008-trace.png", "trace.jsonl",
    ]  # fmt: skip
    assert Image.open(tmp_path / "007-trace.gif").n_frames == 25
    strip = Image.open(tmp_path / "007-trace.png")
    assert strip.width > 10 * 128 and strip.height > 2 * 128
    latents, clean = trace.pictures(0, trace.steps, decode)
    assert all(map(np.array_equal, clean, [decode(seen.clean[:1])[0] for seen in trace.steps]))
    assert [picture.size for picture in latents] == [(16, 16)] * 25


def test_the_colours_of_latents_are_those_of_the_autoencoder():
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    colours = colour_map(latents, decode(latents))
    expected = torch.zeros(5, 3)
    expected[:3] = 20 * torch.eye(3)
    expected[4] = 128
    torch.testing.assert_close(colours, expected, rtol=0, atol=0.3)
    shown = np.asarray(preview(latents[0], colours, (16, 16)), dtype=int)
    assert np.abs(shown - np.asarray(decode(latents[:1])[0], dtype=int)).max() <= 2


def test_steps_shown_are_spread_evenly_with_both_ends():
    steps = [SimpleNamespace(index=index) for index in range(50)]
    assert [step.index for step in spread(steps, 10)] == [0, 5, 11, 16, 22, 27, 33, 38, 44, 49]
    assert spread(steps[:1], 10) == steps[:1]
    assert [step.index for step in spread(steps[:4], 10)] == [0, 1, 2, 3]
