"""Every command line in the documents is one that its program reads, and (slow) those marked `<!-- run -->` run on demo."""

import contextlib
import io
import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import nbformat
import pytest
from PIL import Image

from customize.__main__ import COMMANDS
from customize.cli.main import read
from customize.errors import InputError
from customize.methods import DreamBoothSettings, FromScratchSettings, TextualInversionSettings
from customize.settings.inference import InferenceSettings
from customize.settings.scoring import ScoreSettings
from docs.make_lessons import empty_folder, run
from docs.make_site import ROOT

TRAINING = ("train_dreambooth", "train_textual_inversion")
FURTHER = {"use": ("infer",), **dict.fromkeys(("check", "compare", "find_lr", "teach"), TRAINING)}
"""Commands that take the settings of others, too."""
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob(".github/**/*.md")])
FENCE = re.compile(r"^( *)```(\S*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
RUN = re.compile(r"^<!-- run -->\n```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OTHERS = set("accelerate apt cd docker export git hf mkdocs npm nvidia-smi py pyrefly python3 rm ruff source ssh tar wsl".split())
OTHERS.add(".venv\\Scripts\\activate")
"""Programs of others, whose arguments are theirs."""
SETTINGS = {
    "train_dreambooth": DreamBoothSettings,
    "train_textual_inversion": TextualInversionSettings,
    "train_digits": FromScratchSettings,
    "infer": InferenceSettings,
    "score": ScoreSettings,
}


def commands(text: str) -> list[list[str]]:
    """The command lines of the blocks in bash, in words."""
    blocks = [(block, language == "bash") for _, language, block in FENCE.findall(text) if language in ("bash", "powershell")]
    lines = [(line, is_bash) for block, is_bash in blocks for line in block.replace("\\\n", " ").splitlines()]
    parts = [(part, is_bash) for line, is_bash in lines for part in line.split(" && ")]
    return [words for part, is_bash in parts if (words := shlex.split(part, comments=True, posix=is_bash))]


@cache
def help_of(command: str) -> str:
    """What `customize COMMAND --help` prints."""
    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
        COMMANDS[command][0](["--help"])
    return shown.getvalue()


def flags(words: list[str]) -> list[str]:
    return [word.partition("=")[0] for word in words if re.match(r"--\w", word)]


def check(words: list[str]) -> None:
    """Fails if a program does not read its command line."""
    program, *rest = words
    if program == "python" and rest[:2] == ["-m", "customize"]:
        program, rest = "customize", rest[2:]
    if program == "python" and (script := rest[0].removesuffix(".py")) in SETTINGS:
        program, rest = "customize", [script, *rest[1:]]
    if program == "customize":
        return check_ours(*rest)
    if program in ("python", "pytest"):
        files = [word.partition("::")[0] for word in rest if re.match(r"(tests|docs|benchmarks)/", word)]
        assert all((ROOT / file).exists() for file in files), words
        source = "".join((ROOT / file).read_text(encoding="utf-8") for file in files if program == "python")
        assert not files or program == "pytest" or all(flag in source for flag in flags(rest)), words
    elif program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
        assert {name for word in rest for name in re.findall(r"\[([\w,]+)\]", word)} <= extras.keys(), words
    else:
        assert program in OTHERS or re.match(r"\w+=", program), words


def check_ours(name: str = "--help", *rest: str) -> None:
    """A command of ours: its settings are read; the flags of other commands are in its help."""
    if name in ("--help", "--version"):
        return
    command = name.replace("-", "_")
    assert command in COMMANDS, name
    if command in SETTINGS and not any(word == "--like" or "$" in word for word in rest):  # files and variables of a user
        named = command == "score" and rest[:1] and not rest[0].startswith("--")
        assert read(SETTINGS[command], ["--weights", *rest] if named else rest)
    else:
        known = help_of(command) + "".join(map(help_of, FURTHER.get(command, ())))
        assert all(re.search(rf"{flag}\b", known) for flag in flags([*rest])), (name, rest)
    for word in rest:
        assert not re.match(r"(configs|customize)/", word) or (ROOT / word).exists(), word


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder: with the scripts and configurations, and with folders of images that pages name."""
    for name in ("configs", "customize", "infer.py", "train_dreambooth.py", "train_textual_inversion.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("my_dataset/10_sks dog/1.png", "regularisation/1_dog/1.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_line_is_read(page, folder):
    for words in commands(page.read_text(encoding="utf-8")):
        check(words)


def test_a_wrong_command_line_is_noticed(folder):
    """In each of the ways in which one is checked."""
    wrong = [
        "python infer.py --prompt a --strenght 1",
        "customize mask photos --class dog",
        "customize maks photos",
        "pip install .[wib]",
    ]
    wrong += ["pytest tests/test_nothing.py", "python benchmarks/methods.py --nothing", "curl x"]
    found = commands("\n".join(["```bash", *wrong, "```"]))
    assert len(found) == len(wrong)
    for words in found:
        with pytest.raises((AssertionError, InputError)):
            check(words)


NOTEBOOK = ROOT / "docs/colab.ipynb"
MARKED = [page for page in PAGES if RUN.search(page.read_text(encoding="utf-8"))]


def test_the_notebook_is_valid_and_its_cells_are_sound(folder):
    nbformat.validate(nbformat.read(NOTEBOOK, 4))
    sources = [cell.source for cell in nbformat.read(NOTEBOOK, 4).cells if cell.cell_type == "code"]
    shell = [source for source in sources if source.startswith("!")]
    assert len(shell) == 5
    for source in sources:
        assert source in shell or compile(source, "colab.ipynb", "exec")
    lines = re.sub(r"^!", "", "\n".join(shell), flags=re.MULTILINE)
    for words in commands(f"```bash\n{lines}\n```\n"):
        check(words)


@pytest.mark.slow
def test_the_notebook_s_first_job_runs():
    """In an empty folder, as in Colab: the first cell fetches the project, and pictures are shown."""
    content = nbformat.read(NOTEBOOK, 4)
    (end,) = (number for number, cell in enumerate(content.cells) if cell.source.startswith("## Your own photos"))
    content.cells = content.cells[:end]
    with empty_folder() as folder:
        done = run(nbformat.writes(content), folder)
    shown = [output for cell in done.cells for output in cell.get("outputs", ()) if "image/png" in output.get("data", {})]
    assert len(shown) == 2


@pytest.mark.slow
@pytest.mark.parametrize("page", MARKED, ids=lambda page: page.stem)
def test_marked_commands_run(page, folder):
    """One block after another, as they stand."""
    ours = f'set -e; customize() {{ "{sys.executable}" -m customize "$@"; }}; python() {{ "{sys.executable}" "$@"; }}\n'
    for block in RUN.findall(page.read_text(encoding="utf-8")):
        done = subprocess.run(["bash", "-c", ours + block], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, f"{block}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
