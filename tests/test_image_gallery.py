"""The images and the learned words that the page finds in a workspace, whoever made them."""

import json
import os

import numpy as np
import pytest
from safetensors.numpy import save_file

from customize.web.pictures.image_gallery import find, folders, state, trace_rows
from customize.web.pictures.learned_words import learned, with_words, without_words


@pytest.fixture
def images(tmp_path):
    """Three folders, of which the second is the newest, and what is not listed: inputs, an empty folder, a link, a file."""
    for number, (name, age) in enumerate((("0001-a-cat", 30), ("0002-a-dog", 10), ("0003-a-fox", 20))):
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        (folder / "config.toml").write_text(f'[inference]\nprompt = ["{name[5:]} <b>"]\n')
        for image in range(number + 1):
            (folder / f"{image:03d}.png").touch()
        os.utime(folder, (1e9 - age, 1e9 - age))
    (tmp_path / "images/0004-nothing").mkdir()
    (tmp_path / "images/inputs").mkdir()
    (tmp_path / "images/inputs/000.png").touch()
    (tmp_path / "images/linked").symlink_to(tmp_path / "images/0001-a-cat")
    (tmp_path / "images/file").touch()
    return tmp_path / "images"


def test_folders_come_newest_first_with_their_prompts(images):
    found = folders(images)
    assert [(each.path.name, each.prompt, len(each.images)) for each in found] == [
        ("0002-a-dog", "a-dog <b>", 2), ("0003-a-fox", "a-fox <b>", 3), ("0001-a-cat", "a-cat <b>", 1),
    ]  # fmt: skip
    assert [each.path.name for each in folders(images, 1)] == ["0002-a-dog"]
    assert folders(images / "none") == [] and state(images / "none") == ()


def test_a_new_image_changes_the_state(images):
    before = state(images)
    assert before == state(images)
    (images / "0001-a-cat/001.png").touch()
    assert before != state(images) and folders(images)[0].path.name == "0001-a-cat"


def test_the_prompt_is_that_of_the_newest_job_and_what_lies_beside_an_image_is_its_own(images):
    folder = images / "0003-a-fox"
    (folder / "config-002.toml").write_text('[inference]\nprompt = ["one", "two"]\n')
    (folder / "config-003.toml").write_text("not toml")
    for name in ("001-trace.html", "002-illusion.gif", "sheet.png", "sheet-002.png", "sheet-of-mine.png"):
        (folder / name).touch()
    found = next(each for each in folders(images) if each.path == folder)
    assert found.prompt == "one / two" and [path.name for path in found.sheets] == ["sheet-002.png", "sheet.png"]
    assert [dict(each.beside) for each in found.images] == [
        {}, {"trace": folder / "001-trace.html"}, {"turning": folder / "002-illusion.gif"},
    ]  # fmt: skip


OUTSIDE = (
    "../secret/000.png", "..//000.png", "0001-a-cat/../000.png", "/etc/000.png", "/000.png", "./000.png", "linked/000.png", "",
    "0001-a-cat/config.toml", "0001-a-cat\\000.png", "0001-a-cat/000.png\0", "0001-a-cat/009.png", "0001-a-cat/link.png",
)  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE)
def test_only_an_image_of_the_folder_is_found_by_name(images, name):
    (images / "000.png").touch()
    (images / "0001-a-cat/link.png").symlink_to("/etc/passwd")
    assert find(images, name) is None
    assert find(images, "0001-a-cat/000.png").name == "0001-a-cat/000.png"


def test_the_rows_of_a_trace_are_those_of_the_image_and_of_its_last_recording(images):
    folder = images / "0003-a-fox"
    rows = [{"image": image, "step": step, "take": take} for take in (1, 2) for image in (0, 1) for step in (0, 1, 1)]
    (folder / "trace.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '[1]\n{"image": 1, "step"')
    expected = [{"image": 1, "step": step, "take": 2} for step in (0, 1, 1)]
    assert trace_rows(find(images, "0003-a-fox/001.png")) == expected
    assert trace_rows(find(images, "0001-a-cat/000.png")) == []


def test_learned_words_of_runs_and_files_newest_first(tmp_path):
    runs = tmp_path / "runs"
    for number, metadata in enumerate(({"trigger_words": ["<dusk>"], "base_model": "demo"}, {"trigger_words": [3, "a toy"]}, {})):
        (runs / f"run-{number}").mkdir(parents=True)
        (runs / f"run-{number}/customize.json").write_text(json.dumps(metadata) if metadata else "damaged")
    (runs / "unfinished").mkdir()
    (runs / "broken.safetensors").write_bytes(b"x")
    save_file({"<sky>": np.zeros((2, 4), np.float32)}, runs / "sky.safetensors")
    for age, name in enumerate(("run-0", "sky.safetensors", "run-1")):
        os.utime(runs / name, (1e9 - age, 1e9 - age))
    found = [(each.path, each.words, each.base) for each in learned(runs, tmp_path)]
    assert found == [
        ("runs/run-0", ("<dusk>",), "demo"), ("runs/sky.safetensors", ("<sky>",), ""), ("runs/run-1", ("a toy",), "")
    ]  # fmt: skip
    assert learned(tmp_path / "none", tmp_path) == []


def test_a_word_goes_into_a_prompt_once_and_comes_out_again():
    assert with_words("", ("<dusk>",)) == "<dusk>"
    assert with_words("a house, ", ("<dusk>", "a toy")) == "a house, <dusk>, a toy"
    assert with_words("a <dusk> house", ("<dusk>",)) == "a <dusk> house"
    assert without_words("a house, <dusk>, a toy", ("<dusk>",)) == "a house, a toy"
    assert without_words("a <dusk> house,  red", ("<dusk>",)) == "a <dusk> house,  red"
