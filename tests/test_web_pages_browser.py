"""The pages Generate, Look inside and Doctor in a browser: what a person does there, from a click to the pixels on the disk."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from playwright.sync_api import expect
from safetensors.numpy import save_file
from web_browser import PHONE

from customize.inference.metadata.read_png import read_generation_info

pytestmark = pytest.mark.browser
TAG = "<img src=x onerror=alert(1)>"
HOSTILE = f"{TAG} {{{{value}}}} ${{1+1}}"
LONG = 90_000
"""Milliseconds that a job may take: the first one imports torch and loads the model."""


@pytest.fixture(scope="module")
def server(page_server):
    """The page on a workspace that has learned a word."""
    run = page_server.folder / "runs/dusk"
    run.mkdir(parents=True)
    metadata = {"base_model": "demo", "method": "textual_inversion", "trigger_words": ["<dusk>"], "steps": 3}
    (run / "customize.json").write_text(json.dumps(metadata))
    vector = np.random.default_rng(0).normal(size=192).astype(np.float32)
    save_file({"<dusk>": vector}, run / "learned_embeds.safetensors", {"customize": json.dumps(metadata)})
    return page_server


@pytest.fixture(scope="module")
def visit(server, browser):
    """The page Generate, in a window that stays open."""
    visit = server.visit(browser, "generate")
    yield visit
    visit.close()


@pytest.fixture(scope="module")
def inside(server, browser):
    """The page Look inside, opened on a telephone."""
    visit = server.visit(browser, "look_inside", **PHONE)
    yield visit
    visit.close()


def images(server) -> list[Path]:
    return sorted((server.folder / "images").glob("0*/0*[0-9].png"))


def generate(visit, server, count: int = 1) -> list[Path]:
    before = images(server)
    visit.page.get_by_role("button", name="Generate", exact=True).click()
    visit.page.locator(f"button.tile >> nth={len(before) + count - 1}").wait_for(timeout=LONG)
    return [path for path in images(server) if path not in before]


def field(visit, label: str):
    return visit.page.get_by_label(label, exact=True)


def test_a_learned_word_is_clicked_wrong_values_are_marked_and_an_image_comes(server, visit):
    visit.page.get_by_role("button", name="<dusk>").click()
    visit.page.wait_for_function("document.querySelector('textarea').value === '<dusk>'")
    field(visit, "Steps").fill("0")
    visit.page.locator(".problem", has_text="0 is not a whole number from 1 to 10000").wait_for()
    visit.page.get_by_role("button", name="Generate", exact=True).click()
    visit.page.locator(".note", has_text="Nothing was started").wait_for()
    assert not (server.folder / "jobs").exists()
    field(visit, "Steps").fill("2")
    visit.page.locator(".problem").wait_for(state="detached")
    [image] = generate(visit, server)
    info = read_generation_info(image)
    assert info.settings["prompt"] == ("<dusk>",) and info.settings["num_inference_steps"] == 2
    assert [Path(path.name).parent.name for path in info.weights] == ["dusk"]
    visit.page.locator(".large").wait_for()
    visit.check()


def test_a_painted_part_is_generated_anew_and_the_rest_stays(server, visit):
    visit.page.locator("button.tile").first.click()
    visit.page.get_by_role("button", name="Change a part of it").click()
    canvas = visit.page.locator("canvas")
    canvas.wait_for()
    visit.page.wait_for_function("document.querySelector('canvas').width === 64")
    field(visit, "Prompt").fill("a red circle")
    field(visit, "Steps").fill("2")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    visit.page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 4)
    visit.page.mouse.down()
    visit.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 4, steps=4)
    visit.page.mouse.up()
    visit.page.locator(".paint p", has_text="of the image is painted").wait_for()
    [image] = generate(visit, server)
    info = read_generation_info(image)
    mask = np.asarray(Image.open(server.folder / info.settings["mask_image"])) > 127
    assert mask.shape == (64, 64) and mask[16, 16:32].all() and not mask[30:].any() and 0.02 < mask.mean() < 0.2
    before, after = (np.asarray(Image.open(path).convert("RGB"), int) for path in (server.folder / info.settings["image"], image))
    changed = np.abs(before - after).max(-1)
    assert changed[mask].mean() > 10 > changed[40:].max()


def test_image_to_image_and_a_grid_of_two_settings(server, browser):
    visit = server.visit(browser, "generate")
    visit.page.locator("button.tile").first.click()
    visit.page.get_by_role("button", name="Start from it").click()
    visit.page.get_by_label("Strength (0: keep it, 1: replace it)").wait_for()
    field(visit, "Prompt").fill(TAG)
    field(visit, "Steps").fill("2")
    visit.page.get_by_role("button", name="Compare settings in a grid").click()
    visit.page.get_by_label("Columns: setting").fill("strength")
    visit.page.get_by_label("Columns: setting").press("Enter")
    field(visit, "Columns: values").fill("0.5, 1")
    found = generate(visit, server, 2)
    visit.page.locator("a.tile", has_text="grid of all 2").first.wait_for()
    assert [read_generation_info(path).settings["strength"] for path in found] == [0.5, 1.0]
    assert (found[0].parent / "sheet.png").is_file()
    assert visit.page.locator(".caption", has_text=TAG).count() == 2 and not visit.page.locator("img[src=x]").count()
    visit.page.locator(f"button.tile[data-image='{found[0].parent.name}/{found[0].name}']").click()
    visit.page.locator("button", has_text="Delete all 2 of its folder").wait_for(state="attached")
    visit.page.locator("summary", has_text="Delete ...").click()
    visit.page.get_by_role("button", name="Delete all 2 of its folder").click()
    visit.page.locator("a.tile", has_text="grid of all 2").wait_for(state="detached")
    assert not found[0].parent.exists() and images(server)
    visit.close()


def test_the_settings_of_an_a1111_picture_fill_the_form(visit, tmp_path):
    info = PngInfo()
    info.add_text(
        "parameters", f"{HOSTILE} <lora:toy:0.7>\nSteps: 20, Sampler: DPM++ 2M Karras, CFG scale: 6.5, Seed: 42, Size: 64x48"
    )
    Image.new("RGB", (64, 48)).save(tmp_path / "a1111.png", pnginfo=info)
    visit.page.get_by_role("button", name="Read the settings of a picture").click()
    visit.page.locator("input[type=file]").last.set_input_files(tmp_path / "a1111.png")
    visit.page.locator(".note", has_text="<lora:toy:0.7> (not read").wait_for()
    values = {label: field(visit, label).input_value() for label in ("Prompt", "Steps", "Guidance", "Seed", "Width", "Height")}
    assert values == {"Prompt": HOSTILE, "Steps": "20", "Guidance": "6.5", "Seed": "42", "Width": "64", "Height": "48"}
    assert visit.page.get_by_label("Sampler").input_value() == "DPM++ 2M Karras"


def test_the_steps_of_an_image_are_recorded_and_looked_at_one_by_one(server, inside):
    name = f"{images(server)[0].parent.name}/{images(server)[0].name}"
    inside.page.locator(f"[data-image='{name}']").click()
    inside.page.get_by_role("button", name="Record its steps").click()
    frame = inside.page.frame_locator("iframe.trace")
    frame.locator("#step").wait_for(timeout=LONG)
    sentences = []
    for step in ("0", "1"):
        frame.locator("#step").fill(step)
        sentences.append(frame.locator("#sentence").inner_text())
    assert "first guess" in sentences[0] and "Its guess of the image changes by" in sentences[1]
    frame.get_by_role("button", name="<dusk>").click()
    assert frame.locator("#seen").inner_text() == "attention of “<dusk>”"
    first, *_, again = images(server)
    assert np.array_equal(*(np.asarray(Image.open(path)) for path in (first, again)))
    inside.check()


def test_an_anagram_shows_each_reading_under_its_prompt_and_turns(server, inside):
    inside.page.get_by_role("tab", name="Anagrams and hybrids").click()
    field(inside, "Steps").fill("2")
    field(inside, "Images").fill("1")
    inside.page.get_by_role("button", name="The command for this").click()
    expect(inside.page.locator("textarea:disabled")).to_have_value(re.compile("--num_inference_steps 2(?!.*--num_images 2)"))
    inside.page.get_by_role("button", name="Generate", exact=True).click()
    inside.page.locator("section .sheet[alt*='every reading']").wait_for(timeout=LONG)
    inside.page.locator("summary", has_text="See it turn").click()
    inside.page.locator("img[src*='000-illusion.gif']").wait_for()
    assert Image.open(images(server)[-1].with_name("000-illusion.gif")).n_frames > 20
    inside.check()
    inside.page.get_by_role("tab", name="Lessons").click()
    inside.page.get_by_role("heading", name="1. The forward process").wait_for()
    inside.page.locator(".lesson img").wait_for()
    inside.check()


def test_doctor_says_what_is_here(server, browser):
    visit = server.visit(browser, "doctor", **PHONE)
    visit.page.locator("th >> text=torch").first.wait_for(timeout=LONG)
    visit.check()
    visit.close()


def test_the_form_works_by_keyboard_alone(server, browser):
    visit = server.visit(browser, "generate", **PHONE)
    visit.page.locator("button.tile").first.wait_for()
    assert visit.scrolls_sideways() == 0
    before, reached = images(server), []
    for _ in range(40):
        visit.page.keyboard.press("Tab")
        reached.append(
            visit.page.evaluate("(document.activeElement.closest('label') || document.activeElement).innerText.trim()")
        )
        if reached[-1] == "Prompt":
            visit.page.keyboard.type("a house")
        if reached[-1] == "Generate" and "Prompt" in reached:
            visit.page.keyboard.press("Enter")
            break
    visit.page.locator(".job").wait_for()
    assert reached.index("Prompt") < reached.index("<dusk>") < reached.index("Negative prompt") < len(reached) - 1
    visit.page.locator(".job button", has_text="Stop").focus()
    visit.page.keyboard.press("Enter")
    visit.page.locator(".job").wait_for(state="detached", timeout=LONG)
    assert len(images(server)) <= len(before) + 1
    visit.close()
