"""The page Generate without a server: it takes no file from outside of the workspace, whatever a picture names."""

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from gradio.data_classes import ImageData
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from customize.web.pages import doctor_page
from customize.web.pages.generate_page import GeneratePage
from customize.web.workspace import Workspace


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("space") / "workspace"
    (folder / "images/0001-a").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "images/0001-a/000.png")
    (folder.parent / "probe.png").write_bytes((folder / "images/0001-a/000.png").read_bytes())
    with gr.Blocks():
        return GeneratePage(Workspace(folder))


def picture(path: Path, image: str) -> str:
    """A picture whose metadata, as ours, names this input image."""
    settings = {"prompt": ["a cat"], "image": image, "seed": 1}
    info = PngInfo()
    info.add_text("customize", json.dumps({"settings": settings, "base_model": "demo", "weights": [], "versions": {}}))
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    return str(path)


def updates(page: GeneratePage, path: str) -> dict[str, object]:
    """What `read` shows, by component."""
    scales, name, shown, painter, *_ = found = page.read(path)
    return {"name": name, "shown": shown, "painter": painter, "notes": found[-1], "scales": scales}


@pytest.mark.parametrize(
    "image", ["images/../../probe.png", "../probe.png", "/etc/passwd", "images/0001-a/none.png", "jobs/a.png"]
)
def test_an_input_image_outside_of_the_workspace_is_not_taken(page, tmp_path, image):
    found = updates(page, picture(tmp_path / "a.png", image))
    assert (found["name"], found["shown"], found["painter"]) == ("", None, "")
    assert "its input image is not here" in found["notes"]


def test_one_of_the_workspace_is(page, tmp_path):
    found = updates(page, picture(tmp_path / "a.png", "images/0001-a/000.png"))
    assert found["name"] == "images/0001-a/000.png" and found["painter"].startswith("/files/images/0001-a/000.png?v=")
    assert "its input image" not in found["notes"]


def test_an_uploaded_image_comes_as_it_is_so_that_its_size_is_checked_before_it_is_decoded(page, tmp_path):
    path = tmp_path / "grey.png"
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(path)
    handed_on = page.layout.picture.preprocess(ImageData(path=str(path), orig_name="grey.png"))
    assert Path(handed_on).read_bytes() == path.read_bytes()


def test_the_form_reads_what_it_shows(page):
    form = {
        "prompt": "a cat",
        "seed": 5,
        "width": 64,
        "words": ["runs/a"],
        "sweep": ["guidance_scale=1,5"],
        "more": "clip_skip = 1",
    }
    shown = page.fields.shown(form)
    assert len(shown) == len(page.fields.inputs)
    read = {name: value for name, value in page.fields.read(tuple(shown)).items() if name in form}
    assert read == form | {"seed": "5", "width": "64"}


def test_a_new_image_is_shown_at_once_and_nothing_else_takes_the_chosen_one_away(page):
    images = page.workspace.images
    first = page.changed((), "0001-a/000.png", [])
    known, selected, _, gallery, detail, words, _ = first
    assert selected == "0001-a/000.png" and 'data-image="0001-a/000.png"' in gallery and "Start from it" in detail
    assert words["choices"] == []
    assert page.changed(known, selected, [])[3:5] == [gr.skip(), gr.skip()]
    (images / "0002-b").mkdir()  # a job has begun
    known, selected, *_ = page.changed(known, "chosen", [])
    assert selected == "chosen"
    Image.new("RGB", (8, 8)).save(images / "0002-b/000.png")
    os.utime(images / "0002-b", (2e9, 2e9))
    known, selected, *_ = page.changed(known, "chosen", [])
    assert selected == "0002-b/000.png"
    assert page.refresh((), "", []) == [gr.skip()] * 7  # not before the page has been opened


@pytest.mark.parametrize(("run", "prompt", "chosen"), [("dusk", "a <dusk>", ["runs/dusk"]), ("../x", None, []), ("", None, [])])
def test_the_address_names_a_run_whose_word_is_in_the_prompt_then(page, run, prompt, chosen):
    folder = page.workspace.runs / "dusk"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "customize.json").write_text(json.dumps({"trigger_words": ["<dusk>"], "example_prompt": "a <dusk>"}))
    *_, words, _, _, shown = page.opened(SimpleNamespace(query_params={"run": run}))
    assert words["value"] == chosen and words["choices"] == [("<dusk> · dusk", "runs/dusk")]
    assert shown == (prompt or gr.skip())


def test_doctor_runs_no_module_of_the_workspace_and_shows_texts_as_text(page):
    folder = page.workspace.folder
    for name in ("json", "torch", "customize"):
        (folder / f"{name}.py").write_text("raise SystemExit('a module of the workspace ran')")
    table, text = doctor_page.report(page.workspace)
    assert '<th scope="row">torch</th>' in table and text.splitlines()[0].startswith("torch: ")
    row = {"name": "<b>", "value": "<script>", "status": "error", "remedy": "<i>"}
    assert "<script>" not in doctor_page.table_of([row]) and "1 to fix" in doctor_page.table_of([row])
    assert doctor_page.text_of([row]) == "<b>: <script> [error]\n    -> <i>"


def test_a_change_in_the_form_of_all_settings_is_written_into_the_toml_lines_and_checked(page):
    state = [{}, "", "", *page.fields.shown({"prompt": "a cat", "more": "clip_skip = 2  # mine"})]
    event = SimpleNamespace(changes={"hires_scale": "9", "none_such": "1"}, number=3)
    more, shown, _ = page.set(event, "clip_skip = 2  # mine", *state)
    assert more == "clip_skip = 2  # mine\nhires_scale = 9\n" and shown["done"]["number"] == 3
    assert (shown["values"]["clip_skip"], shown["values"]["hires_scale"]) == ("2", "9") and "clip_skip" in shown["changed"]
    assert shown["faults"]["hires_scale"].startswith("9 is not a number above 1")
    *_, checked = page.check({}, "", "", *page.fields.shown({"prompt": "a cat", "more": "clip_skip = "}))
    assert checked["broken"]
    names = set(re.findall(r'data-name="(\w+)"', page.layout.settings.props["form"]))
    assert {"clip_skip", "hires_scale", "vae"} <= names and not {"prompt", "merge", "save_model_as", "weights", "trace"} & names
