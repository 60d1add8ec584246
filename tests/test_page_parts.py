"""What the pages are made of, without a server: masks, input files, lessons, and HTML in which a stranger's text stays text."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from customize.errors import InputError, Problem
from customize.jobs import job_folder, queue
from customize.methods import DreamBoothSettings
from customize.settings.files import toml_file
from customize.settings.rules.inference_rules import PARTS_OF_AN_IMAGE
from customize.web import photo_section, photo_store, trial_section
from customize.web.pages import runs_page, teach_page
from customize.web.pictures import generation_jobs, picture_html
from customize.web.pictures.illusion_words import PARTS, VIEWS
from customize.web.pictures.image_gallery import folders
from customize.web.pictures.input_files import keep, keep_image
from customize.web.pictures.learned_words import LearnedWords
from customize.web.pictures.lesson_pages import WHERE, lessons, markdown_of
from customize.web.pictures.mask_painter import PREFIX, read_mask
from customize.web.workspace import Workspace

ROOT = Path(__file__).parents[1]
HOSTILE = "\"'><img src=x onerror=alert(1)>\"' {{value}} ${1+1} \x1b[31m\u202e"


def uri(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return PREFIX + base64.b64encode(file.getvalue()).decode()


def test_a_painted_mask_becomes_grey_and_keeps_its_pixels():
    pixels = np.zeros((48, 64, 4), np.uint8)
    pixels[..., 3] = 255
    pixels[10:20, 30:50, :3] = 255
    mask = Image.open(io.BytesIO(read_mask(uri(Image.fromarray(pixels, "RGBA")))))
    assert mask.mode == "L" and np.array_equal(np.asarray(mask), pixels[..., 0])


@pytest.mark.parametrize(
    "text", ["", "data:image/svg+xml;base64,PHN2Zz4=", PREFIX, PREFIX + "%%%", PREFIX + "AAAA", "x" * 9_000_000, "/etc/passwd"]
)
def test_what_is_no_mask_is_refused(text):
    with pytest.raises(InputError, match="is not a painted mask"):
        read_mask(text)


def test_an_input_is_kept_once_under_its_content_and_an_image_of_the_workspace_where_it_is(tmp_path):
    workspace = Workspace(tmp_path)
    name = keep(workspace, b"png")
    assert keep(workspace, b"png") == name and (tmp_path / name).read_bytes() == b"png" and keep(workspace, b"other") != name
    own = tmp_path / "images/0001-a/000.png"
    own.parent.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(own)
    assert keep_image(workspace, own) == "images/0001-a/000.png"
    photo = tmp_path / "photo.jpg"
    exif = Image.Exif()
    exif[274] = 6  # lies on its side
    Image.new("RGB", (20, 10), "red").save(photo, exif=exif)
    kept = Image.open(tmp_path / keep_image(workspace, photo))
    assert kept.format == "PNG" and kept.size == (10, 20) and not kept.getexif()
    photo.write_bytes(b"no image")
    with pytest.raises(InputError):
        keep_image(workspace, photo)


def test_lessons_are_pages_with_their_pictures_and_without_links_into_the_repository():
    found = lessons()
    assert [each.name[:2] for each in found] == [f"{number:02d}" for number in range(1, len(found) + 1)] and len(found) >= 13
    for each in found:
        text = markdown_of(each.name)
        without_code = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        assert text.startswith(f"## {each.title}\n") and "```math" not in text and "<!--" not in text
        links = re.findall(r"\]\(([^)]{0,60})", without_code)
        assert links and all(link.startswith(("https://", "data:image/")) for link in links)
    assert "data:image/png;base64," in markdown_of(found[0].name)


@pytest.mark.parametrize("name", ["", "../architecture", "README", "01_forward_process.md", "/etc/passwd"])
def test_only_a_lesson_is_read(name):
    assert markdown_of(name) == WHERE
    assert markdown_of(name, Path("/nowhere")) == WHERE and lessons(Path("/nowhere")) == []


def test_the_views_of_the_page_are_those_of_infer_py():
    source = (ROOT / "customize/inference/illusions/views.py").read_text()
    names = set(re.findall(r"^@(?:permutation|offered)\ndef (\w+)", source, re.MULTILINE))
    assert {"identity", "rotate_180", "jigsaw"} <= names and set(VIEWS) <= names
    assert set(PARTS) == {name for name, parts in PARTS_OF_AN_IMAGE.items() if len(parts) == 2}


def is_text(html: str) -> bool:
    """Whether `HOSTILE` has made no element and no attribute of its own in this HTML."""
    found: list[tuple[str, list]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.append((tag, attributes))  # type: ignore[method-assign]
    parser.feed(html)
    broken = [tag for tag, own in found for name, value in own if name.startswith("on") or (name, value) == ("src", "x")]
    return not broken and not {"\x1b", "\u202e"} & set(html)


def test_a_job_of_a_stranger_is_shown_as_text(tmp_path):
    texts = {"version": 1, "state": "running", "phase": HOSTILE, "step": HOSTILE, "total": HOSTILE, "seconds_left": HOSTILE}
    progress = {"version": 1, "state": "running", "phase": "drawing", "step": 3, "total": 8, "seconds_left": 61.0}
    for number, (state, said) in enumerate((("running", texts), ("running", progress), ("waiting", {}), ("failed", {}))):
        path = tmp_path / f"jobs/{number:04d}-a"
        path.mkdir(parents=True)
        job = job_folder.Job(path, "infer", state=state, name=HOSTILE, message=f"{HOSTILE}: x\n    -> {HOSTILE}")
        job.changed(config=job_folder.digest(b""))
        (path / "progress.json").write_text(json.dumps(said))
    jobs = [job_folder.read(path) for path in sorted((tmp_path / "jobs").iterdir(), reverse=True)]
    html = generation_jobs.html_of([job for job in jobs if job])
    assert is_text(html)
    assert 'value="3" max="8"' in html and "3 of 8, 1 min 1 s left" in html and "waits, number 1 in the queue" in html
    assert html.count("loading the model") == 1 and html.count("Failed: ") == 1


def test_a_job_from_elsewhere_shows_what_it_does_and_starts_on_a_word(tmp_path, monkeypatch):
    monkeypatch.setattr(queue, "wake", lambda workspace: None)
    workspace = Workspace(tmp_path)
    path = queue.add(tmp_path, "infer", {"prompt": ["a dog"]}, "dog")
    assert runs_page.looked_at(workspace, path.name) == "" and "waiting" in runs_page.waiting_of(workspace)
    (path / "config.toml").write_text(f"# {HOSTILE}\nprompt = 'the new one'")
    html = runs_page.waiting_of(workspace) + runs_page.looked_at(workspace, path.name)
    assert is_text(html) and "the new one" in html and "customize infer jobs/0001-dog/config.toml" in html
    assert runs_page.ELSEWHERE in runs_page.waiting_of(workspace) and "made elsewhere" in generation_jobs.shown(workspace)
    assert runs_page.ELSEWHERE not in runs_page.accepted(workspace, path.name) and job_folder.read(path).waits


def test_a_strangers_text_stays_text(tmp_path):
    workspace = Workspace(tmp_path)
    folder = tmp_path / "images" / "0001-a"
    folder.mkdir(parents=True)
    (folder / "000.png").touch()
    (folder / "config.toml").write_text('prompt = ["<img src=x onerror=alert(1)>"]')
    html = picture_html.problems([Problem(HOSTILE, HOSTILE, HOSTILE)], True) + picture_html.notes([HOSTILE])
    html += picture_html.chips([LearnedWords(HOSTILE, (HOSTILE,))], []) + picture_html.gallery(
        workspace, folders(workspace.images)
    )
    assert is_text(html) and "onerror=alert(1)&gt;" in html


def test_a_trial_is_the_plan_with_a_dry_run_and_is_not_shown_as_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(queue, "wake", lambda workspace: None)
    workspace = Workspace(tmp_path)
    plan = 'adapter = "lora"\ninstance_prompt = "a sks toy"\ninstance_data_dir = "p"\noutput_dir = "runs/toy"'
    said, name = trial_section.begun(workspace, plan, "train_dreambooth", {"waiting": {"rank": "5"}}, "toy")
    job = queue.find(tmp_path, name)
    values, _ = toml_file.read(str(job.path / job_folder.CONFIG))
    assert said == "" and values["dry_run"] is True and values["output_dir"] != "runs/toy"
    assert values | {"dry_run": None, "output_dir": None} == toml_file.of_text(plan, "")[0] | {
        "dry_run": None,
        "output_dir": None,
        "rank": 5,
    }
    assert trial_section.is_trial(job) and teach_page.newest(workspace) == ""
    assert "waits for its turn" in trial_section.report(job)
    job.output.write_text(HOSTILE)
    assert "<img" not in trial_section.report(job.changed(state="finished"))
    assert "there is none" in trial_section.begun(workspace, " ", "train_dreambooth", None, "toy")[0]


def test_another_run_starts_from_the_settings_of_a_run_but_not_in_its_place(tmp_path):
    workspace, folder = Workspace(tmp_path), tmp_path / "runs/toy"
    folder.mkdir(parents=True)
    own = {"adapter": "lora", "rank": 7, "instance_prompt": "a sks toy", "instance_data_dir": "p"}
    settings = DreamBoothSettings(**own, output_dir="runs/toy", resume_from_checkpoint="latest", change_learning_rate=True)
    (folder / "config.toml").write_text(settings.to_toml())
    said, text, command, name = teach_page.settings_again(workspace, "toy")
    values, _ = toml_file.of_text(text, "")
    assert values == own | {"learning_rate": 1e-4} and DreamBoothSettings(**values)
    assert (command, name) == ("train_dreambooth", "toy") and "the settings of toy" in said
    (folder / "config.toml").write_text('[method]\ninstance_prompt = "a sks toy"\nrank = -1')
    said, *others = teach_page.settings_again(workspace, "toy")
    assert "rank" in said and others == [gr.skip()] * 3
    (folder / "config.toml").write_text("num_blocks = 2")  # of a model that this page does not teach
    for asked in ("toy", None, "", "..", "no-run", "../toy", "toy/"):
        assert teach_page.settings_again(workspace, asked) == (gr.skip(),) * 4


def test_a_photo_is_cropped_by_a_frame_that_starts_as_its_largest_square(tmp_path):
    workspace = Workspace(tmp_path)
    (tmp_path / "photos/a").mkdir(parents=True)
    Image.new("RGB", (1000, 600)).save(tmp_path / "photos/a/b.jpg")
    frame, *numbers, words = photo_section.begun(workspace, "photos/a", "b.jpg")
    assert numbers == [50, 50, 100] and frame.props["frame"] == (50, 50, 100) and "600 x 600 of 1000 x 600" in words
    shown = Image.open(io.BytesIO(base64.b64decode(frame.value.partition(",")[2])))
    assert shown.size == (800, 480) and "250 x 250 of" in photo_section.kept_of(workspace, "photos/a", "b.jpg", 15, 20, 41.7)
    assert photo_section.begun(workspace, "photos/a", None)[-1] == ""
    photo_store.cropped(tmp_path / "photos/a", "b.jpg", 0.5, 0.5, 0.5)
    assert "300 x 300 of 300 x 300" in photo_section.begun(workspace, "photos/a", "b.png")[-1]
    Image.new("RGB", (40, 30)).save(tmp_path / "photos/a/b.png")
    assert "30 x 30 of 40 x 30" in photo_section.begun(workspace, "photos/a", "b.png")[-1]
    frame, *_, words = photo_section.begun(workspace, "photos/a", HOSTILE)
    assert frame.value == "" and is_text(words) and "there is no" in words
