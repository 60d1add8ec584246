"""The command line: how arguments are read, one report for all problems, exit statuses, no torch before its time."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies

from customize.cli import main
from customize.cli.flags.settings_by_command import MODELS
from customize.errors import InputError, Interrupted, NumericsError, Problem, ResourceError
from customize.methods import DreamBoothSettings, TextualInversionSettings
from customize.settings.field import table
from customize.settings.inference import InferenceSettings

ROOT = Path(__file__).parent.parent
DOG = ["--instance_data_dir=dogs", "--instance_prompt", "a photo of sks dog"]


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)


def read(model, *argv):
    return main.read(model, argv)[0]


def refused(model, *argv, check=None):
    with pytest.raises(InputError) as caught:
        main.read(model, argv, check)
    return [problem.where for problem in caught.value.problems]


@pytest.mark.parametrize("argv", [["--max_train_steps=5"], ["--max-train-steps", "5"], ["--max-train_steps=5"]])
def test_names_and_values(argv):
    assert read(DreamBoothSettings, *DOG, *argv).max_train_steps == 5


def test_flags_of_true_and_false():
    def value(*argv):
        return read(DreamBoothSettings, *DOG, *argv).train_text_encoder

    assert value("--train_text_encoder") and value("--train-text-encoder=true") and value("--train_text_encoder", "TRUE")
    assert not value("--no-train_text_encoder") and not value("--train_text_encoder", "false") and not value()
    assert read(InferenceSettings, "--prompt=x", "--no-use-karras-sigmas").use_karras_sigmas is False


def test_lists():
    made = read(InferenceSettings, "--prompt", "a", "b c", "--weights=x:0.5", "--prompt", "d", "--weights", "y")
    assert made.prompt == ("a", "b c", "d") and made.weights == ("x:0.5", "y")


def test_values_that_look_like_flags():
    assert read(InferenceSettings, "--prompt=--x", "--negative_prompt=").prompt == ("--x",)
    assert read(InferenceSettings, "--prompt", "-x", "--seed", "7").prompt == ("-x",)
    assert read(InferenceSettings, "--prompt", "x", "--seed", "-1").prompt == ("x",)
    assert refused(DreamBoothSettings, *DOG, "--seed", "-1") == ["--seed"]


def test_none_unsets(tmp_path):
    config = tmp_path / "run.toml"
    config.write_text("snr_gamma = 5\nmax_grad_norm = 1\n")
    assert read(DreamBoothSettings, str(config), *DOG).snr_gamma == 5
    made = read(DreamBoothSettings, str(config), *DOG, "--snr_gamma", "none", "--max_grad_norm=None")
    assert made.snr_gamma is None and made.max_grad_norm is None


def test_a_flag_wins_over_the_file(tmp_path):
    config = tmp_path / "run.toml"
    config.write_text(
        '[train]\nseed = 3\nrank = 4\n[x]\nadapter = "lora"\nprior_preservation = "teacher"\nclass_prompt = "a dog"'
    )
    made = read(DreamBoothSettings, str(config), "--seed", "4", *DOG)
    assert (made.seed, made.rank, made.prior_preservation) == (4, 4, "teacher")
    made = read(DreamBoothSettings, *DOG, "--with_prior_preservation", str(config), "--class_data_dir", "class")
    assert made.prior_preservation == "images"


def test_resolved_settings_start_the_same_run(tmp_path):
    made = read(DreamBoothSettings, *DOG, "--adapter=lora", "--num_train_epochs", "3", "--offset_noise")
    config = tmp_path / "config.toml"
    config.write_text(made.to_toml(), encoding="utf-8")
    assert read(DreamBoothSettings, str(config)) == made


def test_all_problems_are_in_one_report(tmp_path):
    config = tmp_path / "run.toml"
    config.write_text("learning_rate = -1\nrezolution = 512\n\nno_such = 1\n")
    argv = [str(config), "extra", "--resolution", "65", "--max_train_step=5", "--foo", "bar", "--seed", "1", "--seed=2"]
    found = refused(TextualInversionSettings, *argv, "--rank", "--no_safe_serialization")
    assert sorted(found) == sorted([
        "--seed", "extra", "--no_safe_serialization", "--resolution", f"{config}:1: learning_rate", "placeholder_token",
        "initializer_token", f"{config}:2: rezolution", f"{config}:4: no_such", "--max_train_step", "--foo", "--rank",
        "train_data_dir",
    ])  # fmt: skip


def test_faulty_file_and_faulty_flags_are_reported_together(tmp_path):
    config = tmp_path / "run.toml"
    config.write_text("seed = 1\nname = \n")
    assert refused(DreamBoothSettings, str(config), *DOG, "--rank=0", "--adapter=lora") == [f"{config}:2", "--rank"]
    assert refused(DreamBoothSettings, "missing.toml", *DOG) == ["missing.toml"]


@pytest.mark.parametrize(
    "argv, where",
    [
        (["--seed"], "--seed"),
        (["--seed", "1", "2"], "2"),
        (["-x"], "-x"),
        (["--"], "--"),
        (["--=5"], "--"),
        (["--prompt", "more", "run.toml"], "--prompt"),
        (["--seed=1", "--seed=1"], "--seed"),
        (["--trace=perhaps"], "--trace"),
    ],
)
def test_invalid_arguments_are_reported(argv, where):
    assert refused(InferenceSettings, "--prompt", "x", "--height", "64", *argv) == [where]


def test_files_of_the_settings_are_checked_in_the_same_report():
    def check(settings):
        assert settings.learning_rate == 2e-6 and settings.instance_data_dir == "dogs"
        raise InputError([Problem("dogs/1.png", "is cut off", "copy it again"), Problem("rank", "x", "y")])

    assert refused(DreamBoothSettings, *DOG, "--learning_rate=-1", "--rank", "4", check=check) == [
        "--learning_rate", "--rank", "dogs/1.png"
    ]  # fmt: skip
    assert refused(DreamBoothSettings, *DOG, "--rank", "4", check=lambda settings: 1 / 0) == ["--rank"]
    assert read(DreamBoothSettings, *DOG)


@pytest.mark.parametrize(
    "raised, status",
    [
        (None, 0),
        (InputError(Problem("dogs", "are cats", "take dogs")), 2),
        (ResourceError("the disk is full\n    -> free some"), 3),
        (NumericsError("the loss is NaN"), 4),
        (Interrupted(signal.SIGINT, "saved"), 130),
        (Interrupted(signal.SIGTERM, "saved"), 143),
        (Interrupted(signal.Signals(1), "saved"), 129),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("ours"), 1),
    ],
)
def test_exit_status(raised, status, capsys):
    def run(settings):
        assert settings.prompt == ("x",)
        if raised is not None:
            raise raised

    assert main.main(InferenceSettings, run, ["--prompt", "x"]) == status
    error = capsys.readouterr().err
    assert ("Traceback" in error) == (status == 1)
    assert all(part in error for part in str(raised or "").splitlines()[:1])
    assert (status == 3) == ("\n    -> free some\n" in error)


def test_report_is_harmless_to_a_terminal(capsys):
    argv = ["--prompt", "x\x1b]0;title\x07", "--he\x1b[31mllo", "\udcff", "--hub_token=secret", "--hub_token=secret"]
    assert main.main(InferenceSettings, print, argv) == 2
    out, error = capsys.readouterr()
    assert out == "" and "\x1b" not in error and "\x07" not in error and "\udcff" not in error
    assert "\\x1b]0;title\\x07" in error and "secret" not in error


def test_notes_are_printed(capsys):
    argv = [*DOG, "--set_grads_to_none", "--lr_warmup_steps=5", "--hub_model_id", "x"]
    assert main.main(DreamBoothSettings, lambda settings: None, argv) == 0
    notes = capsys.readouterr().err.splitlines()
    assert [note.split()[1] for note in notes] == ["set_grads_to_none", "lr_warmup_steps", "hub_model_id"]


@pytest.mark.parametrize("model", MODELS)
def test_help_has_every_setting_with_default_and_range(model, capsys):
    assert main.main(model, print, ["--help"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    for line in table(model).values():
        assert f"--{line.name}" in words
        assert line.description in words and line.default_text in words
        assert not line.choices or "{" + ",".join(line.choices) + "}" in words
        assert line.type not in (int, float) or line.range in words


@pytest.mark.parametrize(
    "script, data",
    [
        (
            "train_textual_inversion.py",
            ["--train_data_dir=nowhere", "--placeholder_token=<x>", "--initializer_token=x"],
        ),
        ("train_dreambooth.py", ["--instance_data_dir", "nowhere"]),
        ("infer.py", ["--image=nowhere.png", "--prompt", "x"]),
    ],
)
def test_scripts_are_thin_and_do_not_import_torch(script, data, tmp_path):
    assert len((ROOT / script).read_text().splitlines()) < 40
    code = (
        "import sys, runpy, atexit; sys.argv = sys.argv[1:];"
        "atexit.register(lambda: print('torch' in sys.modules, 'diffusers' in sys.modules));"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    for argv, status in ((["--help"], 0), (["--no_such=1", "--seed=-1", *data], 2)):
        command = [sys.executable, "-c", code, str(ROOT / script), *argv]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})
        assert done.returncode == status, done.stderr
        assert done.stdout.endswith("False False\n")
        assert "Traceback" not in done.stderr and (status == 0 or "--no_such" in done.stderr)
    assert not data or "nowhere" in done.stderr
    assert not any(tmp_path.iterdir())


def test_run_is_imported_only_when_called(tmp_path, monkeypatch):
    (tmp_path / "late_module.py").write_text("def run(settings):\n    settings.seen\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(settings):
        import late_module  # type: ignore[import-not-found]

        late_module.run(settings)

    assert main.main(InferenceSettings, run, ["--seed=-1"]) == 2
    assert "late_module" not in sys.modules
    assert main.main(InferenceSettings, run, ["--prompt=x"]) == 1
    assert sys.modules.pop("late_module")


WORDS = strategies.sampled_from(["--seed", "--prompt=", "--trace", "--no-trace", "--weights", "--x", "=", "5", "-1", "none"])


@settings(max_examples=150, deadline=None)
@given(strategies.lists(WORDS | strategies.text(max_size=9).filter(lambda word: "toml" not in word), max_size=6))
def test_whatever_is_typed_is_read_or_reported(argv):
    for model in (InferenceSettings, DreamBoothSettings):
        try:
            assert main.read(model, argv)[0]
        except InputError as error:
            assert all(problem.what and problem.remedy for problem in error.problems)


NEEDED = {
    "TextualInversionSettings": ["--placeholder_token=<x>", "--initializer_token=toy", "--train_data_dir=x"],
    "DreamBoothSettings": DOG,
    "FromScratchSettings": [],
    "InferenceSettings": ["--prompt=x"],
}
EVERY = [(model, line) for model in MODELS for line in table(model).values()]


def every(predicate):
    """(model, setting) of all models' settings that pass."""
    found = [(model, line) for model, line in EVERY if predicate(line)]
    return pytest.mark.parametrize("model, line", found, ids=[f"{model.__name__}-{line.name}" for model, line in found])


def said_of(model, line, *argv) -> list[Problem]:
    """What is wrong with this one setting, on a command line; that it may need others is another matter."""
    needed = [word for word in NEEDED[model.__name__] if not word.startswith(f"--{line.name}=")]
    try:
        main.read(model, [*needed, *argv])
    except InputError as error:
        ours = [problem for problem in error.problems if problem.where == f"--{line.name}"]
        return [problem for problem in ours if "has no effect without" not in problem.what]
    return []


@every(lambda line: line.type in (int, float))
def test_numbers_as_they_are_typed(model, line):
    """Case 38: inside works, outside is refused, whatever the table says that inside is."""
    step = line.multiple_of or (1 if line.type is int else 1e-9)
    low = line.ge if line.gt is None else line.gt
    high = line.le if line.lt is None else line.lt
    assert low is not None and high is not None, "a number without bounds"
    for value in (-1, 0, low - step, low, high, high + step):
        fits = not line.multiple_of or value % line.multiple_of == 0
        inside = fits and low <= value <= high and value not in (line.gt, line.lt)
        problems = said_of(model, line, f"--{line.name}={value!r}")
        assert any(" is not a " in problem.what for problem in problems) != inside, (value, problems)
    for text in ("nan", "inf", "-inf", "x", ""):
        (problem,) = said_of(model, line, f"--{line.name}={text}")
        assert " is not a " in problem.what and problem.remedy


@every(lambda line: line.choices)
def test_a_misspelt_choice_leads_to_the_nearest(model, line):
    """Case 39."""
    for choice in line.choices:
        wrong = choice[:-2] + choice[-2:][::-1] + "s" if len(choice) > 4 else f"{choice}s"
        (problem,) = [each for each in said_of(model, line, f"--{line.name}={wrong}") if "is not one of" in each.what]
        assert problem.remedy == f"did you mean {choice}?" and all(each in problem.what for each in line.choices)
    (problem,) = [each for each in said_of(model, line, f"--{line.name}=xyzzy") if "is not one of" in each.what]
    assert "did you mean" not in problem.remedy


@every(lambda line: True)
def test_a_misspelt_setting_leads_to_the_nearest_and_two_values_are_one_too_many(model, line):
    """Case 39: one letter lost; given twice, whatever the value."""
    with pytest.raises(InputError) as caught:
        main.read(model, [*NEEDED[model.__name__], f"--{line.name[:-1]}=1"])
    found = {problem.where: problem for problem in caught.value.problems}
    if line.name[:-1] not in table(model):
        assert found[f"--{line.name[:-1]}"].remedy.startswith("did you mean ")
    if not line.many:
        problems = said_of(model, line, f"--{line.name}=1", f"--{line.name}=1")
        assert "is given twice" in [problem.what for problem in problems]
