"""The documents: every link leads somewhere, and (slow) the site is what the pages say, without a request to elsewhere."""

import posixpath
import re
import tomllib
from collections import Counter
from functools import cache, partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
import yaml
from web_browser import Visit

import customize
from docs.make_site import ABOVE, ROOT, formula, in_site, on_page_markdown

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
FENCE = re.compile(r"^( *)(```+)[^\n]*\n.*?^\1\2$", re.MULTILINE | re.DOTALL)


def text_of(page: Path) -> str:
    """A page without its blocks of code."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


@cache
def anchors(page: Path) -> set[str]:
    """The places in a page that a link may name, by the rule of GitHub and of mkdocs.yml."""
    text = text_of(page)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    words = [re.sub(r"[^\w\- ]", "", re.sub(r"\]\(.*?\)", "", each)).lower().replace(" ", "-") for each in headings]
    return {*words, *re.findall(r'<a id="([^"]+)"></a>', text)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page):
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text_of(page))):
        path, _, place = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if place:
            assert place in anchors(target), link


def names(nav: list) -> list[str]:
    """The pages of a navigation, in order."""
    return [name for part in nav for name in ([part] if isinstance(part, str) else names(*part.values()))]


def test_the_site_s_navigation_has_every_page_once():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    found = names(yaml.safe_load(text[text.index("\nnav:") :])["nav"])
    pages = [page.relative_to(ROOT).as_posix() for page in PAGES]
    expected = sorted(ABOVE.get(name, name.removeprefix("docs/")) for name in pages)
    assert sorted(found) == expected, "add the page to nav in mkdocs.yml"


@pytest.mark.parametrize(
    ("name", "link", "uri", "there"),
    [
        ("README.md", "docs/files.md", "index.md", "files.md"),
        ("README.md", "docs/report.png", "index.md", "report.png"),
        ("README.md", "configs", "index.md", "source/configs/index.md"),
        ("docs/lessons/README.md", "../../README.md", "lessons/README.md", "../index.md"),
        ("docs/lessons/02_denoising.md", "../../infer.py", "lessons/02_denoising.md", "../source/infer.py.md"),
        ("docs/digits.md", "gallery.md", "digits.md", "gallery.md"),
        ("docs/digits.md", "nowhere.md", "digits.md", "nowhere.md"),
    ],
)
def test_links_of_the_repository_as_links_of_the_site(name, link, uri, there):
    assert in_site(name, link, uri) == there


def test_a_link_that_names_a_file_names_the_page_in_the_site():
    page = SimpleNamespace(file=SimpleNamespace(src_uri="digits.md"))
    text = "[files.md](files.md#layouts), [the files](files.md), [lesson](lessons/01_forward_process.md), [none.md](none.md)"
    assert on_page_markdown(text, page) == text.replace("[files.md]", "[Files of other programs]")


def test_formulas_are_mathml_or_an_error():
    assert ">\N{MATHEMATICAL DOUBLE-STRUCK CAPITAL E}<" in formula(r"\mathbb E", block=False)
    assert 'display="block"' in formula(r"\frac 1 N", block=True)
    with pytest.raises(ValueError, match="not understood"):
        formula(r"\nonsense x", block=False)


class Parts(HTMLParser):
    """Counts the parts of a page, and collects what it fetches."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.fetched: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.counts[tag] += 1
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source") or (tag == "link" and given.get("rel") == "stylesheet"):
            self.fetched += [given.get("src") or given.get("href") or ""]


def parts(html: str) -> Parts:
    found = Parts()
    found.feed(html)
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documents as a site; a link that leads nowhere is an error."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
    return folder


@pytest.mark.slow
def test_the_site_shows_each_page_as_github_does_and_fetches_nothing(site):
    """Lists, tables, headings and pictures are as many as CommonMark, which GitHub reads, finds in the page."""
    from markdown_it import MarkdownIt

    markdown = MarkdownIt("commonmark", {"html": True}).enable("table")
    for page in PAGES:
        name = page.relative_to(ROOT).as_posix()
        place = site / posixpath.splitext(ABOVE.get(name, name.removeprefix("docs/")))[0]
        place = place.parent if place.name in ("index", "README") else place
        html = (place / "index.html").read_text(encoding="utf-8")
        article = re.search(r"<article.*?</article>", html, re.DOTALL)
        expected = parts(markdown.render(page.read_text(encoding="utf-8"))).counts
        shown = parts(article[0]).counts if article else Counter()
        for tag in ("h1", "h2", "h3", "ul", "ol", "li", "table", "th", "td", "img", "blockquote"):
            assert shown[tag] == expected[tag], f"{name}: {tag}"
        assert not [each for each in parts(html).fetched if re.match(r"(https?:)?//", each)], name


class Quiet(SimpleHTTPRequestHandler):
    """Serves files without a line for each."""

    def log_message(self, *_):
        pass


@pytest.mark.browser
@pytest.mark.parametrize(
    ("width", "scheme", "pages"),
    [
        (390, "dark", ("", "recipes/", "lessons/11_textual_inversion/", "settings/")),
        (1280, "light", ("", "install/", "troubleshooting/")),
    ],
)
def test_the_site_in_a_browser(site, browser, width, scheme, pages):
    """Nothing scrolls sideways, axe finds nothing serious, no request leaves the machine, and the search finds a setting."""
    handler = partial(Quiet, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        place = SimpleNamespace(address=f"http://127.0.0.1:{server.server_port}/", key="")
        for name in pages:
            visit = Visit(place, browser, name, {"viewport": {"width": width, "height": 844}, "color_scheme": scheme})
            assert visit.scrolls_sideways() == 0 and visit.findings() == [], name
            if name == "" and width > 1000:
                visit.page.click(".md-search__input")
                visit.page.wait_for_selector(".md-search-result__meta:text('Type to start')", timeout=90_000)
                visit.page.type(".md-search__input", "rank_pattern")
                visit.page.wait_for_selector(".md-search-result__item")
            visit.close()
        server.shutdown()


def test_files_beside_the_documents_tell_the_same_version_and_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["version"] == customize.__version__ and citation["license"] == project["license"]
    assert citation["cff-version"] == "1.2.0" and citation["authors"] and citation["title"] == project["name"]
    sections = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sections[0] == "Unreleased" and customize.__version__ in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["bug", "wish"])
def test_an_issue_form_is_one_that_github_shows(name):
    """https://docs.github.com/en/communities/using-templates-to-encourage-useful-issues-and-pull-requests/syntax-for-issue-forms"""
    form = yaml.safe_load((ROOT / f".github/ISSUE_TEMPLATE/{name}.yml").read_text(encoding="utf-8"))
    assert form.keys() <= {"name", "description", "title", "labels", "body"} and form["name"] and form["description"]
    fields = [part for part in form["body"] if part["type"] != "markdown"]
    assert fields and len({part["id"] for part in fields}) == len(fields)
    for part in form["body"]:
        assert part["type"] in ("markdown", "input", "textarea", "dropdown", "checkboxes")
        assert part["attributes"]["value" if part["type"] == "markdown" else "label"]
