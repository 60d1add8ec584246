"""The page of a trace: it is valid, has every frame and number, and escapes user texts."""

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from kit import conditioning
from PIL import Image

from customize.diffusion.predictions import PREDICTIONS
from customize.inference.estimates import Conditional, guided
from customize.inference.explain.attention import LEVELS, WordMaps, heat_colours
from customize.inference.explain.formulas import CLEAN, NOISE, X, reading
from customize.inference.explain.trace import Trace, film
from customize.inference.explain.trace_page import HEIGHT, LINES, WIDTH, chart, grid, page, template
from customize.inference.sampler import StepResult
from customize.inference.step import Step

NOBODY = Conditional(conditioning(torch.zeros(2, 1, 1)))
HOSTILE = '</title></script><script>alert("1")</script><img src=x onerror=alert(2)>\'"&lt;<!-- {{data}} ' + "\u2028"
IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 16, 3), dtype=np.uint8))


class Read(HTMLParser):
    """Collects elements with their attributes, and the text of selected ones."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append((self.elements[-1][0] if self.elements else "", data))

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, tag: str) -> str:
        return "".join(data for name, data in self.texts if name == tag)


def traced(count: int, with_guidance: bool = True, prediction_type: str = "v_prediction") -> Trace:
    trace = Trace()
    for index in range(count):
        generator = torch.Generator().manual_seed(index)
        latents, noise, clean, a, b = (torch.randn(2, 4, 12, 8, generator=generator) for _ in range(5))
        step = Step(index, count, torch.tensor(900 - index), None, 0.6, 0.8, prediction_type)
        estimate = guided(NOBODY, NOBODY, 3.0) if with_guidance else NOBODY
        trace(StepResult(step, latents, latents, estimate, [a, b] if with_guidance else [a], noise, clean))
    return trace


def opened(source: str) -> Image.Image:
    kind, data = re.fullmatch(r"data:image/(png|webp);base64,([A-Za-z0-9+/=]+)", source).groups()
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    picture.load()
    assert picture.format == kind.upper()
    return picture


def frames_of(film: dict, height: int, width: int) -> list[np.ndarray]:
    """The frames of a film element, cut out as the page's script does it."""
    sheet, columns = np.asarray(opened(film["src"]).convert("RGBA"))[..., :3], int(film["data-columns"])
    places = [divmod(i, columns) for i in range(int(film["data-frames"]))]
    assert sheet.shape[0] == height * (places[-1][0] + 1) and sheet.shape[1] == width * columns
    return [sheet[y * height : (y + 1) * height, x * width : (x + 1) * width] for y, x in places]


def test_every_step_has_its_frame():
    trace, word_maps = traced(7), WordMaps(("a", "dog"), torch.rand(7, 2, 12, 8))
    read = Read(page(trace, 1, IMAGE, "a dog", {}, word_maps))
    films = {attributes["id"]: attributes for attributes in read.all("img") if "data-frames" in attributes}
    assert list(films) == ["latents", "clean", "guidance", "word-0", "word-1"]
    assert {film["data-frames"] for film in films.values()} == {"7"}
    sizes = {each["data-film"]: (int(each["height"]), int(each["width"])) for each in read.all("canvas") if "data-film" in each}
    for name, exact in zip(("latents", "clean"), film(trace.steps, 1, IMAGE), strict=True):
        frames = frames_of(films[name], *sizes[name])
        assert sizes[name] == (24, 16) and len(frames) == 7
        errors = [np.abs(a.astype(int) - b).mean() for a in frames for b in exact]
        assert (np.array(errors).reshape(7, 7).argmin(1) == range(7)).all(), "each is its own step's"
    (heat,) = [each for each in read.all("canvas") if each.get("id") == "heat"]
    colours = heat_colours()[:, :3].astype(int)
    for name, maps in ("guidance", torch.stack([seen.guidance[1] for seen in trace.steps])), ("word-1", word_maps.maps[:, 1]):
        shown = np.stack(frames_of(films[name], int(heat["height"]), int(heat["width"]))).astype(int)
        levels = (LEVELS - 1) * (maps - maps.min()) / (maps.max() - maps.min())
        np.testing.assert_allclose(shown, colours[levels.round().int().numpy()], atol=1)
    assert "transparency" in opened(films["word-0"]["src"]).info and "transparency" not in opened(films["guidance"]["src"]).info
    assert opened(next(each["src"] for each in read.all("img") if "id" not in each)).size == IMAGE.size


def test_the_page_has_every_number_of_the_trace():
    trace = traced(3)
    data = json.loads(Read(page(trace, 0, IMAGE, "a dog", {})).text("script").split('"use strict"')[0])
    lines = [json.loads(line) for line in trace.lines([0]).splitlines()]
    assert data["timesteps"] == [900, 899, 898]
    for line, values in data["lines"].items():
        name = line if line in ("alpha", "sigma") else f"{line}_norm"
        assert values == pytest.approx([each[name] for each in lines], abs=1e-6)
    assert set(data["lines"]) == set(LINES)


def test_without_guidance_and_words_their_sections_are_omitted():
    text = page(traced(2, with_guidance=False), 0, IMAGE, "a dog", {"guidance_scale": 1.0})
    read = Read(text)
    assert [each.get("id") for each in read.all("img")] == ["latents", "clean", None]
    assert "<nav>" not in text and "negative" not in text and [each["id"] for each in read.all("button")] == ["play"]
    assert "<nav>" not in page(traced(2), 0, IMAGE, "", {}, WordMaps((), torch.zeros(2, 0, 12, 8)))


SHOWN = HOSTILE.replace("\u2028", "\\u2028")
"""Marks that end a line are shown as what they are."""


def test_user_texts_are_escaped():
    word_maps = WordMaps((HOSTILE, "dog"), torch.rand(2, 2, 12, 8))
    harmless, hostile = (
        Read(page(traced(2), 0, IMAGE, text, {name: text, "guidance_scale": text}, word_maps))
        for text, name in (("a dog", "name"), (HOSTILE, HOSTILE))
    )
    tags = [[tag for tag, _ in read.elements] for read in (harmless, hostile)]
    assert tags[0] == tags[1] and tags[1].count("script") == 2
    assert hostile.text("title").strip() == hostile.text("h1").strip() == SHOWN.strip()
    assert hostile.text("dt") == SHOWN + "guidance_scale" and hostile.text("dd").startswith(SHOWN)
    assert SHOWN in hostile.text("button")
    assert json.loads(hostile.text("script").split('"use strict"')[0])["timesteps"] == [900, 899]


def test_nothing_is_fetched():
    text = page(traced(2), 0, IMAGE, "a dog", {}, WordMaps(("dog",), torch.rand(2, 1, 12, 8)))
    read = Read(text)
    assert all(each["src"].startswith("data:") for each in read.all("img"))
    assert not read.all("link") and not any({"src", "href"} & set(each) for tag, each in read.elements if tag != "img")
    assert "http:" not in text and "https:" not in text and "url(" not in text
    policies = [each["content"] for each in read.all("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    assert policies and policies[0].startswith("default-src 'none'; img-src data:;")


@pytest.mark.parametrize("prediction_type", list(PREDICTIONS))
def test_formulas_are_those_of_the_sampler(prediction_type):
    generator = torch.Generator().manual_seed(3)
    x, answer = (torch.randn(1, 4, 8, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    alpha, sigma = (0.2 if prediction_type == "flow_prediction" else 0.6), 0.8  # of a flow, their sum is 1
    step = Step(0, 1, torch.tensor(1), None, alpha, sigma, prediction_type)
    noise, clean = step.split(answer, x)
    name, following = reading(prediction_type)
    letters = {X: "x", CLEAN: "clean", NOISE: "noise", "<i>v̂</i>": "v", "− ": "-", "/ [α]": f"/ {alpha}", "/ [σ]": f"/ {sigma}"}
    letters |= {"[α]": f"{alpha} *", "[σ]": f"{sigma} *"}
    values = {"x": x, "clean": clean, "noise": noise, "v": answer}
    for _, left, right in following:
        for written, meant in letters.items():
            right = right.replace(written, meant)
        torch.testing.assert_close(eval(right, {}, values), values[letters[left]])
    torch.testing.assert_close(values[letters[name]], answer)


@pytest.mark.parametrize(("scale", "shown"), [(4.0, "<b>4</b>"), (2.5, "<b>2.5</b>"), (None, "<i>g</i>"), ((1, 2), "<i>g</i>")])
def test_the_scale_of_guidance_is_filled_in(scale, shown):
    assert f"negative</sub> + {shown} (" in page(traced(1), 0, IMAGE, "", {"guidance_scale": scale})


def test_a_chart_has_a_point_for_each_step():
    drawn = chart("norms", {"latents": [0.0, 30.0, 60.0], "noise": [15.0, 15.0, 15.0]})
    points = [[tuple(map(float, point.split(","))) for point in line["points"].split()] for line in drawn["lines"]]
    assert points == [
        [(0, HEIGHT), (WIDTH / 2, HEIGHT / 2), (WIDTH, 0)],
        [(0, 0.75 * HEIGHT), (WIDTH / 2, 0.75 * HEIGHT), (WIDTH, 0.75 * HEIGHT)],
    ]
    assert drawn["top"] == 60 and chart("level", {"alpha": [0.0]})["lines"][0]["points"].startswith("260.0,")
    read = Read(page(traced(3), 0, IMAGE, "a dog", {}))
    assert [len(each["points"].split()) for each in read.all("polyline")] == [3] * len(LINES)


def test_frames_are_in_a_grid_row_by_row():
    frames = np.arange(1, 6)[:, None, None].repeat(2, 1).repeat(3, 2)
    assert grid(frames, 3)[::2, ::3].tolist() == [[1, 2, 3], [4, 5, 0]]
    assert grid(frames[..., None], 3).shape == (4, 9, 1)


def test_large_maps_are_reduced_and_long_traces_are_complete():
    word_maps = WordMaps(("dog",), torch.rand(60, 1, 96, 64))
    trace = traced(60)
    read = Read(page(trace, 0, IMAGE, "dog", {}, word_maps))
    (word,) = [each for each in read.all("img") if each.get("id") == "word-0"]
    assert len(frames_of(word, 32, 32)) == 60


def test_maps_of_another_run_are_refused():
    with pytest.raises(ValueError, match="3 evaluations for a trace of 2"):
        page(traced(2), 0, IMAGE, "dog", {}, WordMaps(("dog",), torch.rand(3, 1, 12, 8)))


def test_a_trace_in_which_nothing_differs_is_drawn():
    trace = traced(2)
    trace.steps[:] = [replace(seen, guidance=torch.zeros_like(seen.guidance)) for seen in trace.steps]
    assert 'id="guidance"' in page(trace, 0, IMAGE, "dog", {})


def test_a_page_fits_a_telephone():
    """At 390 pixels nothing asks for more: no column or box has a least width that is not bounded by what there is."""
    source = Path(template().filename).read_text(encoding="utf-8")
    css = source[source.index("<style>") : source.index("</style>")]
    for least in re.findall(r"minmax\((.*?), 1fr\)", css):
        assert least == "0" or re.fullmatch(r"min\(\d+px, 100%\)", least), least
    for value in re.findall(r"[^-]min-width: ([^;}]+)", css):
        assert value in ("0", "min(15em, 100%)", "5.5em"), value
    assert "flex-wrap: wrap" in css[css.index(".controls {") : css.index(".controls input")]
    assert not re.findall(r"[^-]width: \d{3,}px", css)
