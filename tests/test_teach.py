"""From a folder of photos and a word to settings: which files are used, which word is chosen, and why."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from customize.errors import InputError
from customize.machine.hardware import Hardware
from customize.methods import DreamBoothSettings, TextualInversionSettings
from customize.settings.files import toml_file
from customize.teach import Request, bases, look, plan, run_name
from customize.training import preflight

GIB = 1 << 30
CARD = Hardware("cuda", "RTX 3060", 12 * GIB, bf16=True)


@pytest.fixture(autouse=True)
def nothing_of_this_machine(tmp_path, monkeypatch):
    """No base model of this machine is found, and runs go into an empty folder."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv(bases.VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def photos(tmp_path) -> Path:
    """Two photos, a broken one, one in a format that is not read, a text and a video."""
    folder = tmp_path / "My Cat"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name in ("a.jpg", "b.png"):
        Image.fromarray(random.integers(0, 256, (600, 700, 3), np.uint8)).save(folder / name)
    (folder / "broken.jpg").write_bytes((folder / "a.jpg").read_bytes()[:9000])
    (folder / "raw.dng").write_bytes(b"II*\0")
    (folder / "notes.md").write_text("mine")
    (folder / "film.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    return folder


def test_a_look_at_a_folder_says_what_is_left_out_and_why(photos):
    seen = look(photos)
    assert [each.name for each in seen.usable] == ["a.jpg", "b.png"]
    assert [each.size for each in seen.usable] == [(700, 600)] * 2
    assert dict(zip(seen.leave_out, (each.reason for each in seen.left_out), strict=True)) == {
        "raw.dng": "is an image in an unsupported format (.dng)",
        "broken.jpg": "is damaged and cannot be decoded (image file is truncated (34 bytes not processed))",
    } or seen.leave_out == ("raw.dng", "broken.jpg")
    assert seen.notes[0].startswith("there are only 2 photos") and "film.mp4, notes.md" in seen.notes[-1]
    assert look(photos, ["a.jpg"]).usable == seen.usable[1:]


def test_what_is_left_out_is_not_read_by_the_run(photos, tmp_path):
    made = plan(Request(str(photos), "cat", base="demo"))
    settings = DreamBoothSettings(**made.values)
    _, _, examples = preflight.check(settings)
    assert [each.name for each in examples.instances] == ["a.jpg", "b.png"]
    with pytest.raises(InputError) as raised:
        preflight.check(settings.model_copy(update={"leave_out": ()}))
    assert [Path(each.where).name for each in raised.value.problems] == ["raw.dng", "broken.jpg"]


def test_the_settings_are_written_with_their_reasons_and_read_again(photos, tmp_path):
    made = plan(Request(str(photos), "a cat", base="demo"))
    file = tmp_path / "plan.toml"
    file.write_text(made.toml())
    assert toml_file.read(str(file))[0] == made.values
    lines = file.read_text().splitlines()
    for each in made.decisions:
        place = next(number for number, line in enumerate(lines) if line.startswith(f"{each.name} = "))
        assert lines[place - 1].startswith("# ") and each.reason.endswith(lines[place - 1].removeprefix("# "))
    assert made.values["instance_prompt"] == "a sks cat" and made.values["class_prompt"] == "a cat"
    assert run_name.command_in(file) == f'customize teach "{photos}" "a cat" --base demo'
    file.write_text(file.read_text().replace("rank = 16", "rank = 17"))
    assert run_name.command_in(file) is None


def test_a_style_is_a_new_word_named_after_the_folder(photos):
    made = plan(Request(str(photos), "watercolour painting", kind="style", base="demo"))
    assert made.command == "train_textual_inversion" and made.word == "<my-cat>"
    assert TextualInversionSettings(**made.values).initializer_token == ("watercolour painting",)
    assert all("<my-cat>" in prompt for prompt in made.values["validation_prompt"][:2])
    assert not any("<my-cat>" in prompt for prompt in made.values["validation_prompt"][2:])


def test_planning_imports_no_torch(photos):
    code = (
        "import sys; from customize.teach import Request, plan, bases\n"
        f"plan(Request({str(photos)!r}, 'cat', base='demo')); bases.found(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
