"""Keeps docs/lessons true: quotes code from its source, and writes each page also as a notebook.

    python docs/make_lessons.py             fills in quotes and links, and writes the notebooks
    python docs/make_lessons.py --check     names what is out of date and changes nothing; status 1 if anything is
    python docs/make_lessons.py --run 1 4   runs the notebooks of these pages (without numbers: of all) and keeps their pictures

What a page may hold, besides Markdown:

    <!-- code: FILE:NAME --> ... <!-- end -->         a function, class or constant of FILE, quoted; NAME may be Class.method
    ```bash, ```python                                run as they stand: cells of the notebook
    <!-- picture: FILE -->, then ![...](pictures/X)   a file that the commands above write, and the copy of it that is shown
    <!-- links -->                                    the rest of the page: its neighbours and its notebook
"""

import argparse
import ast
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
LESSONS = ROOT / "docs/lessons"
PAGES = sorted(LESSONS.glob("[0-9][0-9]_*.md"))
PROJECT = (".gitignore", "LICENSE", "README.md", "configs", "customize", "docs", "infer.py", "pyproject.toml")
PROJECT += ("train_dreambooth.py", "train_textual_inversion.py")
WIDEST = 1000
LINKS = "<!-- links -->\n"
QUOTE = re.compile(r"^<!-- code: (\S+) -->\n(?:.*?\n)??<!-- end -->$", re.MULTILINE | re.DOTALL)
PICTURE = re.compile(r"^<!-- picture: (\S+) -->\n!\[[^\]]*\]\((\S+)\)$", re.MULTILINE)
PART = re.compile(rf"{QUOTE.pattern}|{PICTURE.pattern}|^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SETUP = """\
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = "REPOSITORY"  # the address of this project, for machines that do not have it (Colab)

if Path("../../infer.py").exists():
    os.chdir("../..")
elif not Path("infer.py").exists():
    subprocess.run(["git", "clone", "-q", REPOSITORY, "customize"], check=True)
    os.chdir("customize")
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "-e", "."], check=True)
"""


def quote(place: str) -> str:
    """The source of "FILE:NAME", without the indentation of a method. Raises LookupError if there is none."""
    file, _, name = place.partition(":")
    text = (ROOT / file).read_text(encoding="utf-8")
    node: Any = ast.parse(text)
    for part in name.split("."):
        node = next((each for each in node.body if part in names(each)), None)
        if node is None:
            raise LookupError(f"{file} has no {name}")
    first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))])
    return dedent("\n".join(text.splitlines()[first - 1 : node.end_lineno]))


def names(node: ast.stmt) -> set[str]:
    """What a statement defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {each.id for each in targets if isinstance(each, ast.Name)}


def quoted(found: re.Match[str]) -> str:
    """A quote with its marks."""
    file = found[1].partition(":")[0]
    return f"<!-- code: {found[1]} -->\n[`{file}`](../../{file})\n\n```python\n{quote(found[1])}\n```\n<!-- end -->"


def links(page: Path) -> str:
    """The last lines of a page: the pages before and after it, the index, and its notebook."""
    place = PAGES.index(page)
    before, after = PAGES[place - 1 : place], PAGES[place + 1 : place + 2]
    found = [f"[Back: {title(each)}]({each.name})" for each in before]
    found += ["[All lessons](README.md)", f"[This page as a notebook]({page.stem}.ipynb)"]
    found += [f"[Next: {title(each)}]({each.name})" for each in after]
    return f"{LINKS}\n---\n\n{' · '.join(found)}\n"


def title(page: Path) -> str:
    """The heading of a page, without its number."""
    return page.read_text(encoding="utf-8").partition("\n")[0].partition(". ")[2]


def filled(page: Path) -> str:
    """The text of a page with its quotes and links as they should be."""
    return QUOTE.sub(quoted, page.read_text(encoding="utf-8").partition(LINKS)[0]) + links(page)


def notebook(page: Path) -> str:
    """A page as a notebook: commands and free-standing Python are cells to run, all else is text."""
    text, place, found = filled(page).partition(LINKS)[0], 0, [("code", SETUP)]
    for part in PART.finditer(text):
        _, made, shown, language, code = part.groups()
        if not (made or language):  # a quote stays in the text
            continue
        found += [("markdown", text[place : part.start()])]
        show = f'from IPython.display import Image\n\nImage("{made}")'
        found += [("code", show if made else commands(code) if language == "bash" else code)]
        place = part.end()
    found += [("markdown", text[place:])]
    cells = [(kind, (as_cell(source) if kind == "markdown" else source).strip("\n")) for kind, source in found if source.strip()]
    cells.insert(0, cells.pop(1))  # the heading first
    content = {
        "cells": [cell(number, kind, source) for number, (kind, source) in enumerate(cells)],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def cell(number: int, kind: str, source: str) -> dict[str, Any]:
    """A cell in the format of Jupyter, version 4.5."""
    own = {"execution_count": None, "outputs": []} if kind == "code" else {}
    return {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": source.splitlines(keepends=True), **own}


def as_cell(text: str) -> str:
    """Markdown of a page as that of a notebook: formulas in dollars, and other lessons as notebooks."""
    text = re.sub(r"^```math\n(.*?)\n```$", r"$$\n\1\n$$", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"\]\((\d\d_\w+)\.md", r"](\1.ipynb", text)


def commands(code: str) -> str:
    """Shell commands as lines of a notebook; a line that ends with a backslash goes on in the next one."""
    return re.sub(r"(?<!\\\n)^(?=\S)", "!", code, flags=re.MULTILINE)


def run(source: str, folder: Path) -> Any:
    """Executes a notebook in a Jupyter kernel that starts in this folder (`empty_folder`), and returns it with its outputs.

    Raises CellExecutionError if a cell raises or a command fails.
    """
    from nbclient import NotebookClient
    from nbformat import reads

    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"PIP_DRY_RUN": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0"}  # installs nothing; pip reads 0 as yes
    content = reads(source, as_version=4)
    fails = ["--InteractiveShell.system_raise_on_error=True"]
    client = NotebookClient(content, timeout=None, extra_arguments=fails, resources={"metadata": {"path": str(folder)}})
    return client.execute(env=environment)


@contextlib.contextmanager
def empty_folder() -> Iterator[Path]:
    """A temporary folder with nothing but the project as a Git repository, which notebooks know as REPOSITORY."""
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "REPOSITORY"
        repository.mkdir()
        for name in PROJECT:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, repository / name)
        for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a", "commit", "-qm", "all"]):
            subprocess.run(["git", *words], cwd=repository, check=True)
        yield Path(folder)


def keep(page: Path, folder: Path) -> None:
    """Keeps the pictures that a page shows, small: PNG of 256 colours, GIF as it is. folder: where the commands ran."""
    for made, shown in PICTURE.findall(page.read_text(encoding="utf-8")):
        target = LESSONS / shown
        target.parent.mkdir(exist_ok=True)
        if target.suffix == ".gif":
            shutil.copyfile(folder / made, target)
            continue
        image = Image.open(folder / made).convert("RGB")
        if image.width > WIDEST:
            image = image.resize((WIDEST, round(image.height * WIDEST / image.width)), Image.Resampling.LANCZOS)
        image.quantize(256).save(target, optimize=True)


def outdated() -> dict[Path, str]:
    """The files that are not as they should be, with their right content."""
    right = {page: filled(page) for page in PAGES} | {page.with_suffix(".ipynb"): notebook(page) for page in PAGES}
    return {path: text for path, text in right.items() if not path.exists() or path.read_text(encoding="utf-8") != text}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--run", nargs="*", type=int, metavar="NUMBER")
    given = parser.parse_args()
    if given.run is not None:
        for page in [page for page in PAGES if not given.run or int(page.name[:2]) in given.run]:
            with empty_folder() as folder:
                begin = os.times()
                run(notebook(page), folder)
                keep(page, folder / "customize")
                elapsed, busy = os.times().elapsed - begin.elapsed, sum(os.times()[:4]) - sum(begin[:4])
                print(f"{page.name}: {elapsed:.0f} s, {busy:.0f} s of them on a processor", flush=True)
        return 0
    try:
        found = outdated()
    except (LookupError, OSError) as missing:
        print(missing)
        return 1
    for path, text in found.items():
        print(path.relative_to(ROOT))
        if not given.check:
            path.write_text(text, encoding="utf-8")
    return int(given.check and bool(found))


if __name__ == "__main__":
    sys.exit(main())
