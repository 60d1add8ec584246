"""Every shipped configuration is valid for the command in its first line, and each setting stands under its own table."""

import shlex
import tomllib
from pathlib import Path

import pytest

from customize.cli.flags.settings_by_command import MODELS
from customize.cli.main import read
from customize.settings.field import table

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.toml"))
COMMANDS = {model.command: model for model in MODELS}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_config(path, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    text = path.read_text()
    program, script, *arguments = shlex.split(text.splitlines()[0].removeprefix("# "))
    assert program in ("python", "customize") and arguments[0] == f"configs/{path.name}"
    assert program == "customize" or (ROOT / script).is_file()
    model = COMMANDS[script if program == "python" else f"customize {script}"]
    settings, _ = read(model, arguments)
    lines = table(model)
    for section, values in tomllib.loads(text).items():
        assert {lines[name].section for name in values} <= {section}
    if path.name.startswith("sd15"):
        assert "Not measured" in text
    (tmp_path / "again.toml").write_text(settings.to_toml())
    assert read(model, [str(tmp_path / "again.toml")])[0] == settings
