"""The lessons: quotes, notebooks and links are up to date, commands are sound, and (slow) every notebook runs as it stands."""

import base64
import io
import json
import re
import shlex
import shutil
from textwrap import indent

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image

from customize.cli.main import read
from customize.methods import DreamBoothSettings, TextualInversionSettings
from customize.methods.from_scratch_settings import FromScratchSettings
from customize.settings.field import table
from customize.settings.inference import InferenceSettings
from customize.settings.scoring import ScoreSettings
from docs import make_lessons
from docs.make_lessons import LESSONS, PAGES, PICTURE, ROOT, commands, empty_folder, filled, names, notebook, outdated, quote, run

INDEX = LESSONS / "README.md"
SETTINGS = {
    "infer.py": InferenceSettings,
    "score": ScoreSettings,
    "train-digits": FromScratchSettings,
    "train_dreambooth.py": DreamBoothSettings,
    "train_textual_inversion.py": TextualInversionSettings,
}
COMMAND = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
by_name = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def commands_of(text: str) -> list[list[str]]:
    """The commands of a page, in words."""
    lines = "".join(COMMAND.findall(text)).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines]


def test_nothing_is_out_of_date():
    assert not outdated(), "run docs/make_lessons.py"


def test_pages_are_numbered_and_listed_in_order():
    listed = re.findall(r"^\| (\d+)\. \[.*?\]\((\S+)\)", INDEX.read_text(encoding="utf-8"), re.MULTILINE)
    assert [(int(number), name) for number, name in listed] == [(int(page.name[:2]), page.name) for page in PAGES]
    assert len({page.name[:2] for page in PAGES}) == len(PAGES)
    for page in PAGES:
        assert page.read_text(encoding="utf-8").startswith(f"# {int(page.name[:2])}. ")


@by_name
def test_every_quote_stands_in_its_file(page):
    found = re.findall(r"<!-- code: (\S+?):\S+ -->\n.*?```python\n(.*?)```\n<!-- end -->", page.read_text("utf-8"), re.DOTALL)
    assert found
    for file, code in found:
        source = (ROOT / file).read_text(encoding="utf-8")
        assert any(f"\n{indent(code, ' ' * spaces)}" in source for spaces in (0, 4)), code


@by_name
def test_commands_and_cells_are_sound(page):
    text = page.read_text(encoding="utf-8")
    assert commands_of(text)
    for words in commands_of(text):
        name, *arguments = words[3:] if words[1:3] == ["-m", "customize"] else words[1:]
        assert words[0] == "python" and read(SETTINGS[name], arguments)
    cells = json.loads(page.with_suffix(".ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    shell = [line for source in code if source.startswith("!") for line in source.replace("\\\n", " ").splitlines()]
    assert [shlex.split(line.removeprefix("!")) for line in shell] == commands_of(text)
    for source in code:
        assert source.startswith("!") or compile(source, page.name, "exec")


@by_name
def test_flags_that_the_text_names_exist(page):
    known = {name for settings in SETTINGS.values() for name in table(settings)}
    for flag in re.findall(r"(?<!\S)`?--([a-z]\w+)", page.read_text(encoding="utf-8")):
        assert flag in known, flag


def test_links_lead_somewhere_and_pictures_are_small():
    shown = set()
    for page in (*PAGES, INDEX):
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r"\]\(((?!https?:)[^)#]+)", text):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
        shown |= {LESSONS / each for _, each in PICTURE.findall(text)}
    pictures = set((LESSONS / "pictures").iterdir())
    assert pictures == shown and sum(each.stat().st_size for each in pictures) < 2_000_000


def test_a_change_of_the_source_is_noticed(tmp_path, monkeypatch):
    for name in ("customize/diffusion/predictions.py", "customize/diffusion/process.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.setattr(make_lessons, "ROOT", tmp_path)
    page = PAGES[0]
    assert filled(page) == page.read_text(encoding="utf-8")
    source = tmp_path / "customize/diffusion/predictions.py"
    source.write_text(source.read_text("utf-8").replace("def add_noise(clean", "def add_noise(image"), encoding="utf-8")
    assert filled(page) != page.read_text(encoding="utf-8") and "def add_noise(image" in notebook(page)
    with pytest.raises(LookupError, match="has no nothing"):
        quote("customize/diffusion/predictions.py:nothing")


def test_quotes_of_methods_constants_and_decorated_functions():
    assert quote("customize/diffusion/process.py:DiscreteSchedule.alpha_sigma").startswith("def alpha_sigma(self, ")
    assert quote("customize/diffusion/process.py:DiscreteSchedule").startswith("@dataclass(frozen=True)\nclass ")
    assert quote("customize/inference/explain/lessons.py:LEVELS") == "LEVELS = (250, 500, 750)"
    assert names(make_lessons.ast.parse("a: int = 1").body[0]) == {"a"}


def test_commands_over_several_lines_become_one_line_of_a_notebook():
    assert commands("one \\\n  two\nthree\n") == "!one \\\n  two\n!three\n"


def test_a_command_that_fails_ends_the_notebook(tmp_path):
    """Jupyter itself would go on."""
    source = nbformat.writes(new_notebook(cells=[new_code_cell("!true\n!exit 5")]))
    with pytest.raises(CellExecutionError, match="non-zero exit status 5"):
        run(source, tmp_path)


@pytest.mark.slow
@by_name
def test_a_notebook_runs_in_an_empty_folder(page):
    """As in Colab: the first cell fetches the project, and every picture that a later cell shows is an image."""
    with empty_folder() as folder:
        found = run(page.with_suffix(".ipynb").read_text(encoding="utf-8"), folder)
    shown = [shown_by(cell) for cell in found.cells if "IPython.display" in cell.source]
    for _, picture in PICTURE.findall(page.read_text(encoding="utf-8")):
        with Image.open(io.BytesIO(shown.pop(0))) as image, Image.open(LESSONS / picture) as kept:
            image.load()
            assert image.format == kept.format and image.width >= kept.width
    assert not shown


def shown_by(cell: nbformat.NotebookNode) -> bytes:
    """The image file that a cell shows."""
    (data,) = (each.data for each in cell.outputs if "data" in each)
    return base64.b64decode(next(data[kind] for kind in ("image/png", "image/gif") if kind in data))
