"""`customize teach` and `customize use`: wrong words are one report and write nothing, a plan is trained, and goes on."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from customize import __main__
from customize.cli.front import questions
from customize.settings.files import toml_file
from customize.teach import bases
from customize.teach.run_name import command_in

SHORT = ("--max_train_steps", "2", "--validation_prompt", "none", "--report_to", "none")


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch) -> Path:
    """An empty current folder with photos; no base model of this machine is found, and nobody can be asked."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv(bases.VARIABLE, raising=False)
    monkeypatch.setattr(questions, "can_ask", lambda: False)
    work = tmp_path / "work"
    (work / "photos").mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in ("a.png", "b.jpg"):
        Image.fromarray(random.integers(0, 256, (40, 48, 3), np.uint8)).save(work / "photos" / name)
    monkeypatch.chdir(work)
    return work


def files() -> set[str]:
    return {str(path) for path in Path().rglob("*")}


def prepare(work: Path) -> None:
    """Folders in which something is wrong."""
    for name in ("empty", "broken", "videos", "album/cats", "captions"):
        (work / name).mkdir(parents=True)
    (work / "broken/a.png").write_bytes((work / "photos/a.png").read_bytes()[:900])
    (work / "broken/b.jpg").touch()
    (work / "videos/film.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    shutil.copy("photos/a.png", "album/cats")
    shutil.copy("photos/a.png", "captions")
    (work / "captions/a.txt").touch()
    shutil.copy("photos/a.png", "one.png")
    (work / "photos.zip").write_bytes(b"PK\3\4")


DEMO = "--base=demo"
WRONG = {
    "photos": "WHAT is missing",
    "nowhere cat": "FOLDER nowhere: does not exist",
    "photoss cat": "did you mean photos?",
    "empty cat": "FOLDER empty: contains no images",
    f"broken cat {DEMO}": "broken/b.jpg: is empty (0 bytes)",
    f"videos cat {DEMO}": "FOLDER videos: contains no images",
    f"album cat {DEMO}": "did you mean album/cats? (it contains 1 image)",
    f"one.png cat {DEMO}": "did you mean its folder",
    f"photos.zip cat {DEMO}": "unpack it",
    f"captions cat {DEMO}": "captions/a.txt: contains no caption",
    f"photos my old cat {DEMO}": 'did you mean customize teach photos "my old cat"?',
    f"photos/a.png photos/b.jpg cat {DEMO}": "give their folder: customize teach photos cat",
    f"photos cat -y {DEMO}": "-y is no flag: they have two dashes",
    f"~nobodyhere/x cat {DEMO}": "FOLDER ~nobodyhere/x: does not exist",
    f"a\x01b cat {DEMO}": "FOLDER a\\x01b: contains a control character",
    f"photos the {DEMO}": '"the" is only an article',
    f"photos cat\u202e {DEMO}": "contains an invisible character",
    f"photos photo\xa0of\xa0a\xa0cat {DEMO}": "is a prompt: name only what they show, a cat",
    f"photos sks\xa0cat {DEMO}": "give what a dictionary calls it, and that word as --as: cat --as sks",
    f"photos cat {DEMO} --as photo": '"photo" is a word that demo knows',
    f"photos 123 {DEMO}": '"123" has no letter',
    f"photos cat/dog {DEMO}": 'WHAT: "cat/dog" contains /',
    f"photos {'cat' * 30} {DEMO}": "has 90 characters, more than 60",
    f"photos cat {DEMO} --style --person": "--person: cannot be combined with --style",
    f"photos cat {DEMO} --quick --best": "--best: cannot be combined with --quick",
    f"photos cat {DEMO} --as cat": '"cat" is WHAT itself',
    f"photos cat {DEMO} --as a/b": '--as: "a/b" looks like a path',
    f"photos cat {DEMO} --as": "argument --as: expected one argument",
    "photos dog --base=TINY --as house": '"house" is a word that',
    "photos dog --base=TINY --as qxzk": '"qxzk" is several tokens of',
    f"photos ink {DEMO} --style --as ohwx": 'write --as "<ohwx>"',
    "photos cat": "no base model is on this machine",
    "photos cat --base=/no/model": "--base: /no/model cannot be used",
    "photos cat --base=digits": "--base: digits cannot be used",
    "photos cat --base=SDXL": "-> no folder SDXL: did you mean stabilityai/stable-diffusion-xl-base-1.0?",
    "photos cat --base=DEMO": "did you mean demo?",
    "photos cat --base=https://huggingface.co/owner/model/tree/main": "a name on the hub is OWNER/NAME: owner/model",
    "photos cat --base=": "--base: is empty",
    "photos cat --base=x\ny": "--base: x\\ny contains a control character",
    "photos cat --base=one.png": "is a PNG image, not a supported model",
    "photos cat --base=owner/model": "--yes: is needed: owner/model would be downloaded",
    "photos cat --bass demo": "--bass: is not a setting\n      -> did you mean --base?",
    f"cat photos {DEMO}": "did you mean customize teach photos cat?",
    f"photos cat {DEMO} --stepps 5": "--stepps: is not a setting",
    f"photos cat {DEMO} --max_train_steps -3": "-3 is not a whole number from 1",
    f"photos cat {DEMO} --output_dir photos": "is the same folder as instance_data_dir",
    f"photos cat {DEMO} --output_dir one.png": "one.png looks like a file name",
    f"photos cat {DEMO} --leave_out c.png": "--leave_out: c.png is not in photos",
    f"photos cat {DEMO} --leave_out a.png b.jpg": "--leave_out: leaves no image to learn from",
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_words_are_one_report_and_nothing_is_written(words, workspace, tiny_epsilon, capsys):
    prepare(workspace)
    before = files()
    assert __main__.main(["teach", *words.replace("TINY", str(tiny_epsilon)).split(" ")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("customize teach: ") and "nothing was written" in error.splitlines()[0]
    assert WRONG[words] in error and "\n      -> " in error and "Traceback" not in error
    assert files() == before


def test_a_configured_base_model_that_cannot_be_used_is_not_passed_over(monkeypatch, capsys):
    monkeypatch.setenv(bases.VARIABLE, "/no/model")
    assert __main__.main(["teach", "photos", "cat"]) == 2
    assert f"{bases.VARIABLE}: /no/model cannot be used" in capsys.readouterr().err


def test_two_words_train_what_the_written_settings_say_and_go_on(workspace, tiny_epsilon, monkeypatch, capsys):
    monkeypatch.setenv(bases.VARIABLE, str(tiny_epsilon))
    (workspace / "photos/broken.jpg").write_bytes(b"\xff\xd8\xff")
    command = ["teach", "photos", "owl", *SHORT]
    assert __main__.main(command) == 2  # a broken file is only left out by --yes
    assert "1 file would be left out" in capsys.readouterr().err and not Path("runs").exists()
    assert __main__.main([*command, "--yes"]) == 0
    shown = capsys.readouterr().out
    assert "left out  broken.jpg: is not an image" in shown and '2 photos of an owl, which prompts will call "sks"' in shown
    assert 'customize use runs/photos "an owl on the beach"' in shown and "ComfyUI/models/loras" in shown
    values, _ = toml_file.read("runs/photos.toml")
    assert values["max_train_steps"] == 2 and values["leave_out"] == ["broken.jpg"]
    assert __main__.main(["train_dreambooth", "runs/photos.toml", "--output_dir", "runs/other"]) == 0
    here, there = (load_file(f"runs/{name}/pytorch_lora_weights.safetensors") for name in ("photos", "other"))
    assert here.keys() == there.keys() and all(np.array_equal(here[name], there[name]) for name in here)
    capsys.readouterr()
    assert __main__.main([*command, "--yes"]) == 0
    shown = capsys.readouterr().out
    assert "runs/photos.toml is of an earlier call of this command" in shown and "is finished: nothing to do" in shown
    (workspace / "photos/a.png").unlink()
    assert __main__.main([*command, "--yes"]) == 2
    shown = capsys.readouterr()
    assert "differ from those of the run to resume: a.png" in shown.err
    words = "--output_dir runs/photos-2 --max_train_steps 2 --validation_prompt none --report_to none"
    assert f"another run, of the photos as they are now: customize teach photos owl {words}" in shown.out


def test_another_request_and_an_edited_file_get_names_of_their_own(workspace, tiny_epsilon, monkeypatch, capsys):
    from customize.cli.front import teach_command

    trained = []
    monkeypatch.setattr(teach_command, "train", lambda file, request: trained.append(str(file)) or 0)
    for what in ("dog", "cat", "dog"):
        assert __main__.main(["teach", "photos", what, f"--base={tiny_epsilon}"]) == 0
    assert trained == ["runs/photos.toml", "runs/photos-2.toml", "runs/photos.toml"]
    edited = Path("runs/photos.toml").read_text() + "# mine\n"
    Path("runs/photos.toml").write_text(edited)
    assert __main__.main(["teach", "photos", "dog", f"--base={tiny_epsilon}"]) == 0
    assert trained[3] == "runs/photos-3.toml" and Path("runs/photos.toml").read_text() == edited
    assert "customize train_dreambooth runs/photos.toml goes on with that one" in capsys.readouterr().out
    assert command_in(Path("runs/photos-3.toml")) == f"customize teach photos dog --base {tiny_epsilon}"
    assert __main__.main(["teach", "photos", "dog", f"--base={tiny_epsilon}", "--output_dir", "runs/photos"]) == 2


def test_settings_that_somebody_else_prepared_are_not_trained(workspace, tiny_epsilon, monkeypatch, state_home, tmp_path):
    from customize.cli.front import teach_command

    trained = []
    monkeypatch.setattr(teach_command, "train", lambda file, request: trained.append(str(file)) or 0)
    for place in (tmp_path / "of_another_user", state_home, state_home):
        monkeypatch.setenv("XDG_STATE_HOME", str(place))
        assert __main__.main(["teach", "photos", "dog", f"--base={tiny_epsilon}"]) == 0
    assert trained == ["runs/photos.toml", "runs/photos-2.toml", "runs/photos-2.toml"]
    file = Path("runs/photos-2.toml")
    file.write_text(file.read_text().replace("teach photos dog", "teach photos cat", 1))
    assert command_in(file) is None, "the command is signed, too"


def test_who_is_asked_and_says_no_has_nothing_written(workspace, monkeypatch, capsys):
    from customize.cli.front import teach_command

    answers = iter(["3", "n"])
    monkeypatch.setattr(questions, "can_ask", lambda: True)
    monkeypatch.setattr("builtins.input", lambda text: print(text) or next(answers))
    monkeypatch.setattr(teach_command, "measured", lambda made, settings, *_: (made, settings))
    before = files()
    assert __main__.main(["teach", "photos", "cat"]) == 2
    shown = capsys.readouterr().out
    assert "3  demo, a toy: a toy of 64 x 64 pixels" in shown and "start? [Y/n]" in shown and "nothing was done" in shown
    assert files() == before


def test_a_dry_run_measures_and_writes_nothing(workspace, tiny_epsilon, capsys):
    before = files()
    assert __main__.main(["teach", "photos", "dog", f"--base={tiny_epsilon}", "--dry_run", "--explain", *SHORT]) == 0
    shown = capsys.readouterr().out
    assert "for all steps, measured by two of them" in shown and "because   rank = 16: the default" in shown
    assert "because   max_train_steps = 2: as you say" in shown and files() == before


@pytest.mark.parametrize(
    "flags, shown, gone",
    [
        ("--evaluation none", "LoRA rank 16, fp32, batch 8\n120 steps;", {"stop"}),
        ("--adapter loha --rank 4", "a toy, loha rank 4, fp32", set()),
        ("--adapter oft", "a toy, oft, fp32", {"rank"}),
        ("--adapter none --prior_preservation none", "all weights", {"rank", "lora_targets", "prior_loss_weight"}),
        ("--with_prior_preservation --class_data_dir c", "LoRA rank 16", set()),
        ("--num_train_epochs 5", "at most 5 epochs, fewer", {"max_train_steps"}),
        ("--instance_prompt zwx", 'prompts will call "zwx"', set()),
        ("--style --num_vectors 2", "a new word of 2 vectors", set()),
    ],
)
def test_what_the_user_adds_takes_precedence(flags, shown, gone, workspace, monkeypatch, capsys):
    from customize.cli.front import teach_command

    made = []
    monkeypatch.setattr(teach_command, "measured", lambda plan, settings, *_: made.append(plan) or (plan, settings))
    command = ["teach", "photos", "cat"]
    assert __main__.main([*command, "--base=demo", "--dry_run"]) == 0
    capsys.readouterr()
    assert __main__.main([*command, "--base=demo", "--dry_run", *flags.split()]) == 0
    assert shown in capsys.readouterr().out
    plain, own = (plan.values.keys() for plan in made)
    assert gone <= plain and not gone & own
    model = teach_command.MODELS[made[1].command]
    assert model(**made[1].values).to_toml() and made[1].toml()


def test_use_puts_the_word_in_and_passes_settings_on(workspace, tiny_epsilon, monkeypatch, capsys):
    from customize.cli.front import use_command
    from customize.methods import DreamBoothSettings, TextualInversionSettings

    Path("runs/rex").mkdir(parents=True)
    values = {"instance_data_dir": "photos", "instance_prompt": "a photo of sks dog", "class_prompt": "a photo of dog"}
    Path("runs/rex/config.toml").write_text(DreamBoothSettings(**values).to_toml())
    called = []
    monkeypatch.setattr(use_command, "run", called.append)
    assert __main__.main(["use", "rex", "a dog on the beach", "in the snow", "--seed", "7"]) == 0
    settings = called[0]
    assert settings.prompt == ("a sks dog on the beach", "a photo of sks dog in the snow") and settings.seed == 7
    assert settings.weights == ("runs/rex",)
    monkeypatch.chdir("runs/rex")
    assert __main__.main(["use", ".", "a dog"]) == 0 and called[-1].weights == (".",)
    monkeypatch.chdir("../..")
    assert capsys.readouterr().out.splitlines()[:1] == ['prompt    "a sks dog on the beach"']
    Path("runs/two").mkdir()
    values = {"placeholder_token": ("<a>", "<b>"), "initializer_token": ("dog", "cat"), "train_data_dir": ("photos", "others")}
    Path("runs/two/config.toml").write_text(TextualInversionSettings(**values).to_toml())
    assert __main__.main(["use", "two", "a dog"]) == 0 and called[-1].prompt == ("a dog",)
    assert "note: two does not name one word that calls all" in capsys.readouterr().err
    wrong = {"nothing": "nothing does not exist", "x" * 300: "is longer than names can be", "": "RUN:  does not exist"}
    cases = [([name, "x"], message) for name, message in wrong.items()]
    for words, message in (*cases, (["rex"], "PROMPT: is missing"), (["--seed"], "RUN: is")):
        assert __main__.main(["use", *words]) == 2 and message in capsys.readouterr().err
