"""The page Look inside without a server: what it shows of an image, by what lies beside it."""

import json
from types import SimpleNamespace

import gradio as gr
import pytest
from PIL import Image

from customize.web.pages.look_inside_page import LookInsidePage
from customize.web.pictures.image_gallery import find
from customize.web.workspace import Workspace

ROW = {"image": 0, "alpha": 0.6, "sigma": 0.8, "clean_norm": 50.0, "noise_norm": 20.0, "guidance_norm": 5.0}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workspace")
    for name in ("0001-plain", "0002-strip", "0003-page"):
        place = folder / "images" / name
        place.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(place / "000.png")
        rows = [{**ROW, "step": step, "clean_change": step and 10.0} for step in range(3)]
        (place / "trace.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows) * (name != "0001-plain"))
    (folder / "images/0002-strip/000-trace.png").touch()
    (folder / "images/0003-page/000-trace.html").write_text("<p>trace</p>")
    with gr.Blocks():
        return LookInsidePage(Workspace(folder))


def view(page: LookInsidePage, name: str) -> str:
    return page.view_of(find(page.workspace.images, f"{name}/000.png"))


def test_a_recorded_image_has_its_page_in_a_sandbox_and_its_steps_in_words(page):
    found = view(page, "0003-page")
    assert 'sandbox="allow-scripts"' in found and 'src="/files/images/0003-page/000-trace.html?v=' in found
    assert found.count("<li>") == 3 and found.count("changes by 20 % of its size") == 2 and "Record its steps" not in found


def test_of_another_the_steps_can_be_recorded_and_what_there_is_of_them_is_shown(page):
    assert "000-trace.png" in view(page, "0002-strip") and "<li>" in view(page, "0002-strip")
    plain = view(page, "0001-plain")
    assert "Record its steps" in plain and "Record its steps" in view(page, "0002-strip")
    assert "<li>" not in plain and "iframe" not in plain and "Choose an image" in view(page, "none")


def test_the_image_of_the_address_is_shown_and_one_that_is_recorded_later(page):
    known, selected, _, _, shown, *_ = page.opened(SimpleNamespace(query_params={"image": "0001-plain/000.png"}))
    assert selected == "0001-plain/000.png" and "Record its steps" in shown
    assert page.changed(known, selected)[3:] == [gr.skip()] * 3
    place = page.workspace.images / "0004-again"
    place.mkdir()
    Image.new("RGB", (8, 8)).save(place / "000.png")
    (place / "000-trace.html").touch()
    _, selected, _, _, shown, _ = page.changed(known, selected)
    assert selected == "0004-again/000.png" and "0004-again/000-trace.html" in shown


@pytest.mark.parametrize(
    ("kind", "prompts", "expected"),
    [
        ("anagram", ("a cat", "a dog", "", ""), {"prompt": ("a cat", "a dog"), "view": ("identity", "rotate_180")}),
        ("anagram", ("a cat", "", "a dog", ""), {"prompt": ("a cat", "a dog"), "view": ("identity", "rotate_90_cw")}),
        ("hybrid", ("a cat", "a dog", "left over", ""), {"prompt": ("a cat", "a dog"), "view": ()}),
    ],
)
def test_prompts_of_an_illusion_come_with_their_views(page, kind, prompts, expected):
    views = ("identity", "rotate_180", "rotate_90_cw", "flip")
    readings = [each for pair in zip(prompts, views, strict=True) for each in pair]
    filled = page.illusion(kind, 10, 4, "3", 1, "demo", *readings)
    assert not filled.problems and {name: getattr(filled.settings, name) for name in expected} == expected
    assert filled.settings.illusion == kind and filled.settings.seed == 3
    assert page.illusion(kind, 10, 4, "3", 1, "demo", "a cat", *readings[1:2], *[""] * 6).problems
