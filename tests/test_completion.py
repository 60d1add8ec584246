"""`customize completion`: what bash itself completes with the script, and that the scripts have every command and setting."""

import subprocess

import pytest

from customize import __main__
from customize.cli.front import completion
from customize.methods import DreamBoothSettings
from customize.settings.field import table
from customize.settings.inference import InferenceSettings


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "customize.bash"
    path.write_text(completion.bash({name: about for name, (_, about) in __main__.COMMANDS.items()}, completion.flags()))
    return path


def completed(script, *words: str) -> list[str]:
    """What bash completes the last of the words to."""
    code = (
        f"source {script}; COMP_WORDS=({' '.join(repr(word) for word in words)}); COMP_CWORD={len(words) - 1}; _customize;"
        ' printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "--norc", "-euc", code], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout.split()


def test_bash_completes_commands_settings_and_values(script):
    assert completed(script, "customize", "tea") == ["teach"]
    assert completed(script, "customize", "") == [*__main__.COMMANDS]
    assert completed(script, "customize", "train-dreambooth", "--instance_p") == ["--instance_prompt"]
    assert completed(script, "customize", "infer", "--") == [*(f"--{name}" for name in table(InferenceSettings)), "--help"]
    assert completed(script, "customize", "train_dreambooth", "x.toml", "--mixed_precision", "b") == ["bf16"]
    assert completed(script, "customize", "train_dreambooth", "--adapter", "") == [*table(DreamBoothSettings)["adapter"].choices]
    assert completed(script, "customize", "teach", "photos", "cat", "--be") == ["--best"]
    assert completed(script, "customize", "doctor", "--j") == ["--json"]


def test_where_nothing_is_known_bash_completes_files(script):
    assert completed(script, "customize", "teach", "pho") == [] and "-o default" in script.read_text()


def test_the_script_of_fish_has_every_setting_with_its_description():
    commands = {name: about for name, (_, about) in __main__.COMMANDS.items()}
    lines = completion.fish(commands, completion.flags()).splitlines()
    assert len([line for line in lines if "__fish_use_subcommand" in line]) == len(commands)
    of_training = [line for line in lines if "from train_dreambooth'" in line]
    assert len(of_training) == len(table(DreamBoothSettings)) + 1
    [line] = [line for line in of_training if " -l seed " in line]
    assert line.endswith("-d 'random seed'")
    assert completion.quoted("it's \\ here") == r"'it\'s \\ here'"


def test_the_command_prints_it_and_knows_no_other_shell(capsys):
    assert __main__.main(["completion", "zsh"]) == 0
    assert capsys.readouterr().out.startswith("autoload -U +X compinit && compinit\n")
    assert __main__.main(["completion", "csh"]) == 2
    assert '"csh" is no shell that is known' in capsys.readouterr().err
    assert __main__.main(["completion"]) == 2 and "bash_completion" in capsys.readouterr().out
