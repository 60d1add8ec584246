"""The form of the page that generates images: its settings, problems, TOML and command, and the way back from an image."""

import shlex
import tomllib
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from customize.cli.main import read
from customize.inference.metadata.read_png import read_generation_info
from customize.inference.metadata.write_png import texts
from customize.inference.run.grid import grid
from customize.settings.inference import InferenceSettings
from customize.web.pictures.generation_form import MORE, SCALES, WORDS, fill, form_of, given

FORM = {
    "prompt": "a <dusk> house", "negative_prompt": "", "num_inference_steps": 12.0, "guidance_scale": 5, "seed": 7.0,
    "scheduler": "DPM++ 2M Karras", "width": None, "height": 128.0, "num_images": 2, "sweep": ["guidance_scale=1,5", ""],
    WORDS: ["runs/dusk", "runs/b.safetensors"], SCALES: {"runs/dusk": 0.8}, MORE: "clip_skip = 1\n[inference]\neta = 'none'",
}  # fmt: skip


def test_empty_fields_are_not_given_and_numbers_of_a_browser_fit():
    filled = fill(FORM)
    assert not filled.problems
    assert dict(filled.values) == {
        "prompt": "a <dusk> house", "num_inference_steps": 12, "guidance_scale": 5, "seed": 7, "scheduler": "DPM++ 2M Karras",
        "height": 128, "num_images": 2, "sweep": ("guidance_scale=1,5",), "clip_skip": 1, "eta": "none",
        "weights": ("runs/dusk:0.8", "runs/b.safetensors"),
    }  # fmt: skip
    assert isinstance(filled.values["height"], int)


def test_toml_and_command_are_the_same_settings():
    filled = fill(FORM)
    document = tomllib.loads(filled.toml)
    flat = {name: value for table in document.values() for name, value in table.items()}
    assert InferenceSettings(**flat) == filled.settings
    words = shlex.split(filled.command)
    assert words[:2] == ["customize", "infer"]
    assert read(InferenceSettings, words[2:])[0] == filled.settings


def test_a_seed_that_is_not_given_is_random():
    assert given({"prompt": "x"})[0]["seed"] == -1


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("num_inference_steps", 0, "is not a whole number from 1 to 10000"),
        ("num_inference_steps", 2.5, "is not a whole number"),
        ("guidance_scale", 101, "is not a number from 0 to 100"),
        ("scheduler", "Eulr", "unknown scheduler"),
        ("width", 100, "a multiple of 8"),
        ("strength", 0.5, "has no effect without a value for image"),
        ("prompt", "", "is missing"),
        ("prompt", "a (cat", "is not closed"),
        ("negative_prompt", "a cat)", "does not close a bracket"),
        ("sweep", ["steps=1,2"], "steps"),
        (WORDS, ["a.ckpt"], "is a pickle"),
        (MORE, "clip_skip = 99", "clip_skip"),
        (MORE, "clip_skip: 1", "is not TOML"),
        (MORE, "prompt = 'a'", "has a field of its own"),
        (MORE, "output_dir = '/etc'", "is not taken by this page"),
        (MORE, "nonsense = 1", "nonsense"),
    ],
)
def test_a_problem_is_shown_at_its_field_in_the_words_of_the_rules(field, value, what):
    filled = fill({"prompt": "a cat", field: value})
    assert list(filled.problems) == [field]
    [problem] = filled.problems[field]
    assert what in f"{problem.where} {problem.what}" and problem.remedy


def test_problems_of_several_fields_come_together():
    filled = fill({"prompt": "", "num_inference_steps": 0, MORE: "eta = 3"})
    assert set(filled.problems) == {"prompt", "num_inference_steps", MORE} and len(filled.all_problems) == 3


def png(path: Path, **texts: str) -> Path:
    info = PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    Image.new("RGB", (64, 48)).save(path, pnginfo=info)
    return path


def test_the_settings_of_an_a1111_image_fill_the_form_and_the_rest_is_noted(tmp_path):
    text = (
        "a cat <lora:toy:0.7>\nNegative prompt: dog\nSteps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, "
        "Seed: 42, Size: 64x48, Clip skip: 2, Face restoration: CodeFormer, Version: v1.10.1"
    )
    form, notes = form_of(read_generation_info(png(tmp_path / "a.png", parameters=text)))
    expected = {
        "prompt": "a cat", "negative_prompt": "dog", "num_inference_steps": 20, "guidance_scale": 6.5, "seed": 42, "width": 64,
        "height": 48, "scheduler": "DPM++ 2M Karras",
    }  # fmt: skip
    assert {name: form.get(name) for name in expected} == expected
    assert tomllib.loads(form[MORE]) == {"clip_skip": 1}
    assert form[WORDS] == [] and any("toy" in note for note in notes) and any("Face restoration" in note for note in notes)
    assert not fill(form).problems


def test_the_form_of_our_own_image_gives_its_settings_again(tmp_path):
    settings = InferenceSettings(
        prompt=["a <dusk> cat"], seed=5, guidance_scale=3.0, clip_skip=1, width=64, height=48, scheduler="Euler a",
        weights=["runs/dusk:0.5", "b:0@0,1@0.5"],
    )  # fmt: skip
    facts = {"base_model": "demo", "weights": [], "versions": {"customize": "1"}}
    own = texts(facts, grid(settings).requests[0], "DDIMScheduler", (64, 48), (0, 1))
    info = read_generation_info(png(tmp_path / "a.png", **own))
    form, _ = form_of(info, ["runs/dusk", "b", "runs/c"])
    assert form[WORDS] == ["runs/dusk", "b"] and form["scheduler"] == "Euler a" and fill(form).settings == settings
    form, notes = form_of(info, ["runs/dusk"])
    assert form[WORDS] == ["runs/dusk"] and notes[-1] == "weights b: not in runs/"
