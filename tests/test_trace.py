"""Traces: numbers equal those of the tensors, previews those of a linear map, and nothing is decoded for them."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from kit import conditioning
from PIL import Image

from customize.inference.estimates import Composed, Conditional, Thresholded, WithChannels, guided
from customize.inference.explain.contact_sheet import GAP, MARGIN
from customize.inference.explain.trace import (  # fmt: skip
    COLOURS,
    RIDGE,
    Trace,
    animation,
    colour_map,
    enlarged,
    few_colours,
    film,
    guidance,
    spread,
)
from customize.inference.sampler import StepResult
from customize.inference.step import Step

NOBODY = Conditional(conditioning(torch.zeros(2, 1, 1)))


def moment(index: int, count: int, prediction_type: str = "epsilon") -> StepResult:
    generator = torch.Generator().manual_seed(index)
    latents, noise, clean, a, b = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(5))
    step = Step(index, count, torch.tensor(900 - index), None, 0.6, 0.8, prediction_type)
    return StepResult(step, latents, latents, guided(NOBODY, NOBODY, 3.0), [a, b], noise, clean)


def traced(count: int) -> Trace:
    trace = Trace()
    for index in range(count):
        trace(moment(index, count))
    return trace


def decode(latents: torch.Tensor) -> list[Image.Image]:
    """A linear autoencoder of 2 x 2 pixels per latent pixel."""
    pixels = (latents[:, :3] * 20 + 128).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(array).resize((16, 16), Image.Resampling.NEAREST) for array in pixels]


@pytest.mark.parametrize(("prediction_type", "factor"), [("epsilon", 1.0), ("v_prediction", 0.6)])
def test_a_trace_has_the_norms_of_every_step(prediction_type, factor):
    trace, moments = Trace(), [moment(index, 3, prediction_type) for index in range(3)]
    for each in moments:
        trace(each)
    lines = [json.loads(line) for line in trace.lines([5, 9]).splitlines()]
    assert [(line["image"], line["step"]) for line in lines] == [(i, step) for i in (5, 9) for step in range(3)]
    for line in lines:
        its, image = moments[line["step"]], [5, 9].index(line["image"])
        negative, positive = (answer[image].double() for answer in its.outputs)
        assert line["guidance_norm"] == pytest.approx(factor * (positive - negative).norm().item(), rel=1e-5)
        assert line["latents_norm"] == pytest.approx(its.model_input[image].double().norm().item(), rel=1e-5)
        assert line["clean_norm"] == pytest.approx(its.clean[image].double().norm().item(), rel=1e-5)
        assert line["noise_norm"] == pytest.approx(its.noise[image].double().norm().item(), rel=1e-5)
        before = moments[line["step"] - 1] if line["step"] else None
        change = before and (its.clean[image].double() - before.clean[image].double()).norm().item()
        assert line["clean_change"] == (change and pytest.approx(change, rel=1e-5))
        assert (line["timestep"], line["alpha"], line["sigma"]) == (900 - line["step"], 0.6, 0.8)


def test_without_guidance_its_norm_is_null():
    trace, one = Trace(), moment(0, 1)
    trace(replace(one, estimate=NOBODY, outputs=one.outputs[:1]))
    assert json.loads(trace.lines([0, 1]).splitlines()[0])["guidance_norm"] is None


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_guidance_is_the_difference_of_the_predictions(prediction_type):
    one = moment(0, 1, prediction_type)
    negative, first = (answer.double() for answer in one.outputs)
    second, weights = torch.randn_like(first), [torch.full((2, 1, 1, 1), weight) for weight in (0.7, -0.4)]

    def difference(positive: torch.Tensor) -> torch.Tensor:
        noises = [one.step.split(answer, one.model_input.double())[0] for answer in (positive, negative)]
        return (noises[0] - noises[1]).square().sum(1).sqrt().float()

    torch.testing.assert_close(guidance(one), difference(first), rtol=1e-4, atol=1e-5)
    inpainting = replace(one, estimate=WithChannels(one.estimate, torch.zeros(2, 5, 8, 8)))
    torch.testing.assert_close(guidance(inpainting), guidance(one), rtol=0, atol=0)
    thresholded = replace(one, estimate=Thresholded(inpainting.estimate, 0.95, 1.5))
    torch.testing.assert_close(guidance(thresholded), guidance(one), rtol=0, atol=0)
    composed = Composed(((NOBODY, weights[0]), (NOBODY, weights[1])), NOBODY, 3.0)
    expected = difference(negative + 0.7 * (first - negative) - 0.4 * (second - negative))
    answers = [*one.outputs, second.float()]
    torch.testing.assert_close(guidance(replace(one, estimate=composed, outputs=answers)), expected, rtol=1e-4, atol=1e-5)


def test_colours_are_those_of_ridge_regression_on_the_neighbours_of_each_latent():
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(4, 6, 8, generator=generator)
    picture = Image.fromarray(np.random.default_rng(2).integers(0, 256, (24, 32, 3), dtype=np.uint8))
    pixels, wide = np.asarray(picture, dtype=float), np.pad(latents.double().numpy(), ((0, 0), (1, 1), (1, 1)), "edge")
    seen = np.array([wide[:, y : y + 3, x : x + 3].ravel() for y in range(6) for x in range(8)])
    patches = np.array([pixels[4 * y : 4 * y + 4, 4 * x : 4 * x + 4].ravel() for y in range(6) for x in range(8)])
    centred, level = seen - seen.mean(0), patches.mean(0)
    ridge = RIDGE * np.square(centred).sum() / 36 * np.eye(36)
    weight = np.linalg.solve(centred.T @ centred + ridge, centred.T @ (patches - level))
    expected = (centred @ weight + level).reshape(6, 8, 4, 4, 3).swapaxes(1, 2).reshape(24, 32, 3)
    shown = colour_map(latents, picture)(latents[None])[0]
    assert np.abs(shown - expected.clip(0, 255)).max() <= 0.51


def test_previews_come_close_to_a_linear_autoencoder():
    clean = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    colours = colour_map(clean[0], decode(clean[:1])[0].resize((32, 32), Image.Resampling.NEAREST))
    for latents in clean:
        exact = np.asarray(decode(latents[None])[0].resize((32, 32), Image.Resampling.NEAREST), dtype=int)
        assert np.abs(colours(latents[None])[0] - exact).mean() < 6


def test_uniform_images_and_latents_are_shown_unchanged():
    grey = Image.new("RGB", (16, 16), (10, 20, 30))
    for latents in (torch.zeros(4, 8, 8), torch.randn(4, 8, 8)):
        assert (colour_map(latents, grey)(latents[None]) == (10, 20, 30)).all()


def test_a_trace_is_written_without_decoding(tmp_path):
    trace = traced(25)
    images = decode(trace.steps[-1].clean)
    trace.write(tmp_path, [7, 12], images)
    names = [path.name for path in sorted(tmp_path.iterdir())]
    assert names == ["007-trace.gif", "007-trace.png", "012-trace.gif", "012-trace.png", "trace.jsonl"]
    animated = Image.open(tmp_path / "007-trace.gif")
    assert animated.n_frames == 25
    for number, picture in zip((7, 12), (0, 1), strict=True):
        strip = np.asarray(Image.open(tmp_path / f"{number:03d}-trace.png").convert("RGB"))
        indices, palette = few_colours(film(trace.steps, picture, images[picture]))
        colours = np.frombuffer(palette, np.uint8).reshape(-1, 3)
        for row in range(2):
            for column, step in enumerate(spread(25, 10)):
                y = strip.shape[0] - MARGIN + GAP - (2 - row) * (128 + GAP)
                x = strip.shape[1] - MARGIN + GAP - (10 - column) * (128 + GAP)
                expected = enlarged(colours[indices[row, step]], 128)
                np.testing.assert_array_equal(strip[y : y + 128, x : x + 128], expected)
        assert (strip[:20] != 255).any() and (strip[:, :90] != 255).any(), "labels above and beside"


def test_every_shown_step_is_decoded_on_request(tmp_path):
    trace = traced(60)
    asked: list[torch.Tensor] = []

    def noticed(latents: torch.Tensor) -> list[Image.Image]:
        asked.append(latents)
        return decode(latents)

    images = decode(trace.steps[-1].clean)
    trace.write(tmp_path, [0, 1], images, noticed)
    assert len(asked) == 100 and all(len(latents) == 1 for latents in asked)
    assert Image.open(tmp_path / "000-trace.gif").n_frames == 50
    latents, clean = film(trace.steps, 1, images[1], decode)
    assert latents.shape == clean.shape == (60, 16, 16, 3)
    assert all(np.array_equal(frame, decode(seen.clean[1:])[0]) for frame, seen in zip(clean, trace.steps, strict=True))


def test_a_trace_of_one_step(tmp_path):
    trace = traced(1)
    trace.write(tmp_path, [0, 1], decode(trace.steps[-1].clean))
    assert Image.open(tmp_path / "000-trace.gif").n_frames == 1


def test_few_colours_are_near_the_many():
    x, y = np.meshgrid(np.linspace(0, 255, 32), np.linspace(0, 255, 32))
    frames = np.stack([np.stack([x, y, 255 - x], -1), np.stack([y, x, x], -1)]).round().astype(np.uint8)
    indices, palette = few_colours(frames)
    colours = np.frombuffer(palette, np.uint8).reshape(-1, 3)
    assert indices.shape == (2, 32, 32) and indices.max() < COLOURS and colours.shape == (256, 3)
    assert np.abs(colours[indices].astype(int) - frames).mean() < 12
    assert colours[COLOURS].tolist() == [0, 0, 0] and colours[-1].tolist() == [255, 255, 255]


def test_an_animation_stops_at_its_last_frame():
    palette = bytes(range(256)) * 3
    frames = [np.full((4, 6), i, dtype=np.uint8) for i in (3, 90, 200)]
    played = Image.open(io.BytesIO(animation(frames, palette)))
    assert (played.n_frames, played.size, played.info["loop"]) == (3, (6, 4), 0)
    seen = []
    for i in range(3):
        played.seek(i)
        seen.append((played.convert("RGB").getpixel((1, 1)), played.info["duration"]))
    colours = np.frombuffer(palette, np.uint8).reshape(-1, 3)
    assert seen == [(tuple(colours[i].tolist()), duration) for i, duration in ((3, 120), (90, 120), (200, 1500))]


def test_steps_shown_are_spread_evenly_with_both_ends():
    assert spread(50, 10) == [0, 5, 11, 16, 22, 27, 33, 38, 44, 49]
    assert spread(1, 10) == [0]
    assert spread(4, 10) == [0, 1, 2, 3]
