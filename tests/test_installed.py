"""The contents of a wheel (commands, configurations, examples), and the output of `customize`."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from customize import __main__, __version__, next_command
from customize.cli import configs, main
from customize.methods import DreamBoothSettings
from customize.settings.inference import InferenceSettings

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The contents of a wheel of this copy, in a folder of their own."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("customize", "configs"):
        shutil.copytree(ROOT / name, folder / "sources" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "sources")
    code = f"import setuptools.build_meta as b; b.build_wheel({str(folder)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder / "sources")
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(installed, cwd, *argv):
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run([sys.executable, "-m", "customize", *argv], capture_output=True, text=True, cwd=cwd, env=environment)


def test_a_wheel_has_the_command_the_configurations_and_the_examples(installed, tmp_path):
    entry = (next(installed.glob("*.dist-info")) / "entry_points.txt").read_text()
    assert "customize = customize.__main__:main" in entry
    ours = {str(path.relative_to(ROOT / "configs")) for path in (ROOT / "configs").rglob("*.toml")}
    theirs = {
        str(path.relative_to(installed / "customize" / "configs")) for path in installed.rglob("customize/configs/**/*.toml")
    }
    assert ours == theirs and len(ours) > 30
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "customize").rglob("*.py")}
    assert modules == {str(path.relative_to(installed)) for path in installed.rglob("*.py")}
    for folder in ("demo/model", "demo/examples", "families/configs"):
        here = {
            path.name for path in (ROOT / "customize" / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts
        }
        assert here == {path.name for path in (installed / "customize" / folder).rglob("*") if path.is_file()}
    done = run(installed, tmp_path, "train-dreambooth", "demo_dreambooth_lora", "--rank", "0")
    assert done.returncode == 2 and done.stderr.splitlines() == [
        "customize train_dreambooth: 1 problem in the input; nothing was written",
        '  --rank: 0 is not a whole number from 1 to 4096',
        "      -> give a valid value: rank of the adapter (default: 8 (adapter loha); 16 (adapter lokr, lora))",
    ]  # fmt: skip
    assert not any(tmp_path.iterdir())


def test_every_package_is_listed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "customize").rglob("__init__.py")}
    assert set(listed) == found | {"customize.configs"}


def test_help_lists_all_commands(capsys):
    assert __main__.main(["--help"]) == 0
    output = capsys.readouterr().out
    assert all(f"\n  {name} " in output for name in __main__.COMMANDS) and ".py" not in output
    assert set(__main__.WORDS.values()) <= set(__main__.COMMANDS)


@pytest.mark.parametrize("word", ["--version", "-V", "version"])
def test_version(word, capsys):
    assert __main__.main([word]) == 0
    first, *others = capsys.readouterr().out.splitlines()
    assert first == f"customize {__version__}" and f"torch {version('torch')}" in others and len(others) > 5


def test_the_scripts_print_the_version(capsys):
    assert main.main(InferenceSettings, print, ["--version"]) == 0
    assert capsys.readouterr().out == f"customize {__version__}\n"


@pytest.mark.parametrize(
    "word, meant", [("train", "train_dreambooth"), ("generate", "infer"), ("chek", "check"), ("config", "configs"), ("zzz", None)]
)
def test_an_unknown_command_suggests_the_nearest(word, meant, capsys):
    assert __main__.main([word]) == 2
    error = capsys.readouterr().err.splitlines()[0]
    assert error == f'unknown command "{word}"' + (f": did you mean {meant}?" if meant else "")


@pytest.mark.parametrize("name", ["train_dreambooth", "train-textual-inversion", "infer", "infer.py"])
def test_each_job_has_its_help(name, capsys):
    assert __main__.main([name, "--help"]) == 0
    assert "--pretrained_model_name_or_path" in capsys.readouterr().out


def test_configurations_are_listed_and_copied_and_nothing_is_replaced(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert configs.main([]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == sorted(path.stem for path in (ROOT / "configs").glob("*.toml"))
    assert configs.main(["demo_dreambooth"]) == 0
    copied = tmp_path / "demo_dreambooth.toml"
    assert copied.read_bytes() == (ROOT / "configs/demo_dreambooth.toml").read_bytes()
    copied.write_text("mine")
    assert configs.main(["demo_dreambooth"]) == 2 and "already exists" in capsys.readouterr().err
    assert copied.read_text() == "mine"
    assert configs.main(["demo_dreambooth", "other.toml"]) == 0 and (tmp_path / "other.toml").exists()
    assert configs.main(["demo_dreamboth"]) == 2 and "did you mean demo_dreambooth?" in capsys.readouterr().err
    assert configs.main(["../pyproject"]) == 2 and configs.main(["a", "b", "c"]) == 2


@pytest.mark.parametrize("word", ["demo_dreambooth_lora", "configs/demo_dreambooth_lora.toml", "demo_dreambooth_lora.toml"])
def test_a_configuration_of_the_program_is_found_by_name_from_anywhere(word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings, notes = main.read(DreamBoothSettings, [word])
    assert settings.instance_prompt == "a sks toy" and settings.adapter == "lora"
    assert Path(settings.instance_data_dir or "").samefile(ROOT / "customize/demo/examples/subject")
    assert any("is the included configuration" in note for note in notes)


def test_the_next_command_is_the_one_that_was_called(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/venv/bin/customize", "train_dreambooth"])
    assert next_command.command_line("infer.py", prompt="a cat") == 'customize infer --prompt "a cat"'
    assert next_command.called("infer.py") == "customize infer"
    monkeypatch.setattr(sys, "argv", ["C:/x/customize.exe"])
    assert next_command.called("train_dreambooth.py") == "customize train_dreambooth"
    monkeypatch.setattr(sys, "argv", ["train_dreambooth.py"])
    assert next_command.called("infer.py") == "infer.py" and next_command.program("infer.py") == ["python", "infer.py"]
