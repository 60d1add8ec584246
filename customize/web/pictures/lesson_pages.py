"""The lessons of docs/lessons as text for a page: their pictures inside, formulas for KaTeX, and no links into the repository."""

import base64
import re
from dataclasses import dataclass
from pathlib import Path

from customize.storage.untrusted_files import read_bytes, read_text

FOLDER = Path(__file__).parents[3] / "docs" / "lessons"
"""Where they are in a checkout; the installed package has no documents."""
WHERE = (
    "The lessons come with the project's repository, in docs/lessons, and this installation has no documents. Open them there, "
    "or start `customize web` from a checkout."
)
MOST_TEXT, MOST_PICTURE = 1 << 20, 4 << 20
COMMENT = re.compile(r"<!--.*?-->\n?", re.DOTALL)
PICTURE = re.compile(r"!\[([^\]]*)\]\((pictures/[\w.-]+)\)")
INSIDE = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?://)[^)]*\)")
HEADING = re.compile(r"^(#{1,5})(?= )", re.MULTILINE)
LAST = re.compile(r"\n\[Back: .*\Z|\n\[All lessons\].*\Z", re.DOTALL)
FORMULA = re.compile(r"```math\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Lesson:
    """A lesson: its file's name without suffix, and its title."""

    name: str
    title: str


def lessons(folder: Path = FOLDER) -> list[Lesson]:
    """All lessons in their order; none where the documents are not installed."""
    found = []
    for path in sorted(folder.glob("[0-9][0-9]_*.md")):
        first = read_text(path, MOST_TEXT).lstrip().partition("\n")[0]
        found.append(Lesson(path.stem, first.removeprefix("#").strip()))
    return found


def markdown_of(name: str, folder: Path = FOLDER) -> str:
    """The text of a lesson; where the lessons are, if there is none of this name."""
    if name not in {each.name for each in lessons(folder)}:
        return WHERE
    text = COMMENT.sub("", read_text(folder / f"{name}.md", MOST_TEXT))
    text = INSIDE.sub(r"\1", LAST.sub("\n", text))
    text = FORMULA.sub(lambda found: f"$$\n{found[1]}$$", HEADING.sub(r"\1#", text))
    return PICTURE.sub(lambda found: _picture(folder, found[1], found[2]), text)


def _picture(folder: Path, label: str, name: str) -> str:
    """A picture as an element with its content inside."""
    kind = "jpeg" if name.endswith("jpg") else "png"
    data = base64.b64encode(read_bytes(folder / name, MOST_PICTURE)).decode()
    return f"![{label}](data:image/{kind};base64,{data})"
