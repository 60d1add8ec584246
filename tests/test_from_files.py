"""Settings are pure values; what files hold comes into them by one function, before they are checked."""

import sys

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from customize.cli.flags.settings_by_command import MODELS
from customize.cli.flags.settings_from_files import complete, read_settings
from customize.cli.main import read
from customize.errors import InputError
from customize.inference.run import command
from customize.methods import DreamBoothSettings, TextualInversionSettings
from customize.settings.field import table
from customize.settings.inference import InferenceSettings

TEXTS = {
    "line": "word", "any": "word", "prompt": "a word", "path": "nowhere/file.png", "placeholder": "<word>",
    "weights": "nowhere/file.safetensors:0.5", "model": "nowhere/model", "modules": "attention",
    "ranks": "mid_block=4", "factors": "mid_block=0.5",
}  # fmt: skip
A_TABLE = {"instance_data_dir": "nowhere", "instance_prompt": "a photo of sks dog"}


def a_value(line):
    """A valid value of any setting, other than none."""
    if line.choices:
        return [line.choices[-1]] if line.many else line.choices[-1]
    number = line.ge if line.ge is not None else (line.gt or 0) + 0.5
    value = {bool: True, int: number, float: number, str: TEXTS[line.text], dict: A_TABLE}[line.type]
    return [value] if line.many else value


@pytest.fixture(scope="module")
def opened():
    """The files that were opened since the list was emptied. An audit hook stays for good, so there is one."""
    paths = []
    sys.addaudithook(lambda event, arguments: paths.append(arguments[0]) if event == "open" else None)
    return paths


@pytest.mark.parametrize("model", MODELS)
def test_no_setting_opens_a_file(model, opened):
    values = {name: a_value(line) for name, line in table(model).items()}
    required = {name: value for name, value in values.items() if table(model)[name].required}
    model.examine(values)  # modules are imported and validators built
    for each in values, *({**required, "prompt": "a cat", name: value} for name, value in values.items()):
        given = {name: value for name, value in each.items() if name in values}
        opened.clear()
        settings, _ = model.examine(given)
        assert opened == [], given
    with open(__file__):
        assert opened == [__file__]
    assert settings is not None


@pytest.fixture
def tagged_image(tmp_path):
    info = PngInfo()
    info.add_text("parameters", "a dog\nSteps: 3, Sampler: Euler, CFG scale: 5, Seed: 7, Size: 16x24")
    Image.new("RGB", (16, 24)).save(tmp_path / "told.png", pnginfo=info)
    return tmp_path / "told.png"


def test_flags_win_over_the_image(tagged_image):
    settings = read_settings(InferenceSettings, like=str(tagged_image), seed=5)
    assert (settings.prompt, settings.seed, settings.num_inference_steps, settings.height) == (("a dog",), 5, 3, 24)
    flags, _ = read(InferenceSettings, ["--like", str(tagged_image), "--seed", "5"])
    assert flags == settings
    pure = InferenceSettings(like=str(tagged_image), prompt="a cat")
    assert (pure.like, pure.num_inference_steps, pure.seed) == (str(tagged_image), 30, 0)


def test_prompts_of_a_file_come_after_those_given_and_win_over_the_image(tagged_image, tmp_path):
    (tmp_path / "prompts.txt").write_text("a cow\n# none\na hen\n")
    values = {"prompt": "a cat", "prompt_file": str(tmp_path / "prompts.txt"), "like": str(tagged_image)}
    settings = read_settings(InferenceSettings, **values)
    assert settings.prompt == ("a cat", "a cow", "a hen") and settings.prompt_file is None and settings.seed == 7
    assert values["prompt"] == "a cat" and read_settings(InferenceSettings, **{**values, "prompt": "none"}).prompt[0] == "a cow"


def test_the_home_folder_is_known(tagged_image, monkeypatch):
    monkeypatch.setenv("HOME", str(tagged_image.parent))
    assert read_settings(InferenceSettings, like="~/told.png").prompt == ("a dog",)


def test_problems_of_files_and_values_are_in_one_report(tmp_path):
    lost = {"like": str(tmp_path / "lost.png"), "num_inference_steps": 0}
    with pytest.raises(InputError) as caught:
        read_settings(InferenceSettings, **lost)
    assert [problem.where for problem in caught.value.problems] == ["like", "num_inference_steps"]
    with pytest.raises(InputError) as caught:
        read(InferenceSettings, [f"--{name}={value}" for name, value in lost.items()])
    assert [problem.where for problem in caught.value.problems] == ["--like", "--num_inference_steps"]
    for model in (DreamBoothSettings, TextualInversionSettings):
        values, [problem] = complete(model, {"init_weights": str(tmp_path / "lost.safetensors")})
        assert problem.where == "init_weights" and values.keys() == {"init_weights"}
        assert complete(model, {"init_weights": "None"}) == ({"init_weights": "None"}, [])


def test_unread_prompts_are_not_ignored_silently(tmp_path):
    (tmp_path / "prompts.txt").write_text("a cow\n")
    settings = InferenceSettings(prompt="a cat", prompt_file=str(tmp_path / "prompts.txt"), output_dir=str(tmp_path / "out"))
    with pytest.raises(InputError, match="has not been read"):
        command.check(settings)


def test_an_image_makes_no_other_file_be_read(tagged_image, tmp_path):
    """A stranger's image that names a file of prompts: it is not opened, and its name is not kept."""
    (tmp_path / "secret.txt").write_text("a secret\n")
    info = PngInfo()
    info.add_itxt(
        "customize",
        f'{{"settings": {{"prompt": ["a dog"], "prompt_file": "{tmp_path / "secret.txt"}"}}, "base_model": "demo",'
        ' "weights": [], "versions": {}}',
    )
    Image.new("RGB", (16, 24)).save(tagged_image, pnginfo=info)
    settings = read_settings(InferenceSettings, like=str(tagged_image))
    assert settings.prompt == ("a dog",) and settings.prompt_file is None
