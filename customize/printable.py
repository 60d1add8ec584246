"""Makes untrusted texts (file names, words of a tokenizer, metadata, messages of libraries) safe to show.

Characters that move the cursor, colour, hide or reorder text are escaped; a text cannot affect what surrounds it.
"""

import html as _html
import re
import unicodedata
from collections.abc import Sequence

LONGEST = 4000
"""Maximum number of characters; a longer text is cut, with the number of missing characters."""
INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0")
"""Invisible characters that `str.isprintable` accepts."""
MOST_MARKS = 3
"""Maximum number of combining marks on one letter; more, which would grow into other lines, are escaped."""
PLACEHOLDER = re.compile(r"<[\w-]+>")
MARKUP = re.compile(r"[\\`*\[\]<>&~|$]|(?<![^\W_])_|_(?![^\W_])|^[#+-]")


def printable(text: object, most: int = LONGEST) -> str:
    """`text` on one line, with control and format characters, line breaks, hidden characters and undecodable bytes escaped."""
    text = str(text)
    left_out = len(text) - most
    text = text[:most] if left_out > 0 else text
    if not (text.isascii() and text.isprintable()):
        text = "".join(_escaped(text))
    return f"{text}... ({left_out:,} more characters)" if left_out > 0 else text


def first_few(names: Sequence[str], most: int = 10) -> str:
    """The first `most` names, printable, and the number of the others: `a, b and 3 more`."""
    listed = ", ".join(printable(name) for name in names[:most])
    return listed if len(names) <= most else f"{listed} and {len(names) - most} more"


def html(text: object, most: int = LONGEST) -> str:
    """`text` for an HTML element or attribute."""
    return _html.escape(printable(text, most))


def html_lines(text: str) -> str:
    """Several lines for HTML's <pre>: each is made printable, line breaks are kept."""
    return "\n".join(html(line).replace("`", "&#96;") for line in text.split("\n"))


def markdown(text: object, most: int = LONGEST) -> str:
    """`text` as plain text in a Markdown paragraph, without emphasis, links, code or HTML."""
    return MARKUP.sub(lambda found: f"&#{ord(found[0])};" if found[0] in "<>&`" else f"\\{found[0]}", printable(text, most))


def code(text: object, most: int = LONGEST) -> str:
    """`text` as inline code of Markdown."""
    shown = printable(text, most)
    plain = "`" not in shown and (not set("<&") & set(shown) or PLACEHOLDER.fullmatch(shown))
    return f"`{shown}`" if plain and shown.strip() == shown != "" else f"<code>{_html.escape(shown).replace('`', '&#96;')}</code>"


def code_block(text: str, language: str = "") -> str:
    """Several lines as a Markdown code block, with a fence longer than any in the text."""
    lines = [printable(line) for line in text.split("\n")]
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 0)
    return "\n".join([f"{fence}{language}", *lines, fence])


def _escaped(text: str):
    marks, before = 0, ""
    for character in text:
        category = unicodedata.category(character)
        marks = marks + 1 if category in ("Mn", "Me") else 0
        selector = "\ufe00" <= character <= "\ufe0f"  # selects the form of the preceding symbol: allowed after an emoji
        hidden = (
            character in INVISIBLE
            or "\U000e0100" <= character <= "\U000e01ef"
            or (selector and unicodedata.category(before or "a") != "So")
        )
        if character.isprintable() and not hidden and marks <= MOST_MARKS:
            yield character
        else:
            yield character.encode("unicode_escape").decode("ascii")
        before = character
