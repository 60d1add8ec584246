"""A hook of MkDocs, which makes a site of the documents: `mkdocs build` (mkdocs.yml).

The pages beside docs/ (README.md, ...) become pages of the site, and so does every file of the project that a page links to, so
that all links lead somewhere without a network. Formulas become MathML, which browsers draw without a script.
"""

import os.path
import posixpath
import re
import unicodedata
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
ABOVE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
"""Pages beside docs/ -> their names in the site."""
LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(?=[)#])")
NAMED = re.compile(r"(?<=\[)(?:docs/)?([\w/]+\.md|lessons)(?=\]\(([^)\s#:]+))")
"""The name of a page as the text of a link to it."""
FORMULA = re.compile(r'(<(span|div) class="arithmatex")>\\[(\[](.*?)\\[)\]](</\2>)', re.DOTALL)
LETTER = re.compile(r'<mi mathvariant="([\w-]+)">(\w)</mi>')
SEARCH = 'data-md-component="search" role="dialog"'
SOURCE = "---\nsearch: {{exclude: true}}\nhide: [toc]\n---\n\n# {}\n\n{}\n"


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not in docs/."""
    pages = [file for file in files if file.src_uri.endswith(".md")]
    texts = {f"docs/{file.src_uri}": file.content_string for file in pages}
    texts |= {name: (ROOT / name).read_text(encoding="utf-8") for name in ABOVE}
    linked = {path for name, text in texts.items() for path in LINK.findall(text) for path in outside(name, path)}
    linked |= {each.relative_to(ROOT).as_posix() for path in linked for each in shown(ROOT / path)}
    for name, page in ABOVE.items():
        files.append(File.generated(config, page, content=texts[name]))
    for path in sorted(linked):
        files.append(File.generated(config, source_page(path), content=source(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links of a page, which are those of the repository, as they are in the site: by the titles of pages, not their files."""
    uri = page.file.src_uri
    if uri.startswith("source/"):
        return markdown
    name = next((name for name, other in ABOVE.items() if other == uri), f"docs/{uri}")
    titled = NAMED.sub(lambda found: title(posixpath.join(posixpath.dirname(name), found[2])) or found[0], markdown)
    return LINK.sub(lambda found: in_site(name, found[0], uri), titled)


def title(path: str) -> str:
    """The heading of a page of the project; empty for what is no page."""
    page = ROOT / path
    return page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ") if page.is_file() else ""


def on_page_content(html: str, **_: Any) -> str:
    """Formulas as MathML. Wide ones scroll, which a keyboard can do, too."""

    def shown(found: re.Match[str]) -> str:
        is_block = found[2] == "div"
        return f"{found[1]}{' tabindex=0' * is_block}>{formula(unescape(found[3]), is_block)}{found[4]}"

    return FORMULA.sub(shown, html)


def on_post_page(html: str, **_: Any) -> str:
    """A name for the dialog of the search, which the theme lacks."""
    return html.replace(SEARCH, f'{SEARCH} aria-label="Search"')


def formula(tex: str, block: bool) -> str:
    """TeX as MathML, as browsers read it. Raises ValueError for what the converter does not know."""
    mathml = convert(tex.strip(), display="block" if block else "inline")
    if "\\" in mathml:
        raise ValueError(f"not understood: {tex}")
    return LETTER.sub(letter, mathml)


def letter(found: re.Match[str]) -> str:
    """A letter of another alphabet by its own character: MathML Core has no attribute for it."""
    return f"<mi>{unicodedata.lookup(f'MATHEMATICAL {found[1]} CAPITAL {found[2]}')}</mi>"


def outside(name: str, link: str) -> Iterator[str]:
    """The file or folder beside docs/ that a link of a page leads to, relative to the project; nothing for other links."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(name), link))
    if path.partition("/")[0] not in ("docs", "..") and path not in ABOVE and (ROOT / path).exists():
        yield path


def shown(path: Path) -> Iterator[Path]:
    """The files of a folder that is linked."""
    return (each for each in sorted(path.iterdir()) if each.suffix in (".toml", ".yaml")) if path.is_dir() else iter(())


def source_page(path: str) -> str:
    return f"source/{path}/index.md" if (ROOT / path).is_dir() else f"source/{path}.md"


def source(path: str) -> str:
    """A page that shows a file, or lists a folder."""
    if (ROOT / path).is_dir():
        return SOURCE.format(path, "\n".join(f"- [{each.name}]({each.name}.md)" for each in shown(ROOT / path)))
    text = (ROOT / path).read_text(encoding="utf-8").rstrip()
    return SOURCE.format(path, f"````{os.path.splitext(path)[1].removeprefix('.') or 'text'}\n{text}\n````")


def in_site(name: str, link: str, uri: str) -> str:
    """A link of the page `name`, whose address in the site is `uri`."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(name), link))
    if path in ABOVE:
        target = ABOVE[path]
    elif path.startswith("docs/") and (ROOT / path).exists():
        target = path.removeprefix("docs/")
    elif list(outside(name, link)):
        target = source_page(path)
    else:
        return link
    return posixpath.relpath(target, posixpath.dirname(uri) or ".")
