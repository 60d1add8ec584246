"""Undoes what word processors, web pages and other shells do to a command line, if only one meaning is possible.

A note reports each change. `words` corrects the names of flags, `value` their values.
"""

import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from customize.cli.flags.aliases_table import SHORT
from customize.settings.field import Setting
from customize.settings.files import shipped_configs
from customize.settings.files.toml_faults import QUOTES
from customize.settings.texts import PATHS

DASHES = "-\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d"
INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
"""Soft hyphen, zero-width space, direction marks, byte order mark. Joiners stay: scripts and emoji need them."""
BLANKS = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
TYPOGRAPHIC = re.compile("[\u201c\u201d\u201e\u00ab\u00bb\uff02\u300c\u300d]")
CONTINUATIONS = ("\\", "^", "`")
"""Line continuations of Unix and Windows shells."""
FLAG = re.compile(f"[{DASHES}]+(?=[^\\W\\d])")
NAME = re.compile(r"[\w-]+")

IsKnown = Callable[[str], bool]
Awaits = Callable[[str], bool]


def words(argv: Sequence[str], is_ours: IsKnown, is_known: IsKnown, awaits: Awaits) -> tuple[list[str], list[str]]:
    """The words of a command line with plain flags, and notes.

    is_ours: whether a name is a setting; is_known: whether it is one or another program's name of one; awaits: whether a
    setting with that name takes a value.
    """
    found: list[str] = []
    notes: list[str] = []
    for word in _joined(_without_remains(argv, notes), notes):
        before = found[-1] if found else ""
        waiting = before.startswith("--") and "=" not in before and awaits(_name(before[2:]))
        if waiting and re.fullmatch(r"=\s*", word):
            notes.append(f"{before} = VALUE is read as {before} VALUE")
        elif waiting and word.startswith("=") and not before[2:].startswith("="):
            notes.append(f"{before} {word} is read as {before}{word}")
            found[-1] = before + word
        elif before.startswith("--") and before.endswith("=") and not _is_flag(word) and awaits(_name(before[2:-1])):
            notes.append(f"{before} {word} is read as {before}{word}")
            found[-1] = before + word
        else:
            found += _flag(word, waiting, is_ours, is_known, notes)
    return found, list(dict.fromkeys(notes))


def _without_remains(argv: Sequence[str], notes: list[str]) -> list[str]:
    """The words without leftover line continuations and carriage returns."""
    found = []
    for place, word in enumerate(argv):
        stripped = word.rstrip("\r\n")
        if stripped != word:
            notes.append("carriage returns were removed")
        following = argv[place + 1] if place + 1 < len(argv) else "--"
        after_flag = bool(found) and found[-1].startswith("--") and "=" not in found[-1]
        remains = stripped.strip() in CONTINUATIONS or (not stripped.strip() and (stripped != word or bool(word)))
        if remains and (_is_flag(following) or following.strip() in CONTINUATIONS) and (not after_flag or stripped.strip()):
            if stripped.strip():
                notes.append(f"a line continuation {stripped.strip()} was removed")
            continue
        found.append(stripped)
    return found


def _joined(argv: Sequence[str], notes: list[str]) -> list[str]:
    """The words, joined between quotes that the shell did not recognise as quotes."""
    found: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        start = word.partition("=")[2] if _is_flag(word) and "=" in word else word
        closing = QUOTES.get(start[:1], "")
        if start[:1] and closing and not (len(start) > 1 and start[-1] in closing):
            upto = next((i for i, each in enumerate(rest) if _is_flag(each) or each[-1:] in tuple(closing)), len(rest))
            if upto < len(rest) and not _is_flag(rest[upto]):
                word = " ".join([word, *rest[: upto + 1]])
                del rest[: upto + 1]
                notes.append(f"the words between {start[0]} and {word[-1]} are read as one text")
        found.append(word)
    return found


def _is_flag(word: str) -> bool:
    return word.startswith("--") or (bool(FLAG.match(word)) and word[0] != "-")


def _flag(word: str, waiting: bool, is_ours: IsKnown, is_known: IsKnown, notes: list[str]) -> list[str]:
    """The word, or the plain flag (and its attached value) that it stands for."""
    clean = INVISIBLE.sub("", word)
    if clean[:1].isspace() and FLAG.match(clean.strip()) and is_known(_name(clean.strip().lstrip(DASHES))):
        clean = clean.lstrip()  # left by a backslash followed by a blank
    dashes = FLAG.match(clean)
    if not dashes:
        name, mark, rest = re.fullmatch(r"/?([\w-]*)([:=]?)(.*)", word, re.DOTALL).groups() if word[:1] == "/" else ("", "", "")
        if not waiting and is_ours(_name(name)) and (mark or not rest) and not os.path.lexists(word):
            notes.append(f"{word[0]}{name} is read as --{name}")
            return [f"--{name}{'=' * bool(mark)}{rest}"]
        return [word]
    body = clean[dashes.end() :]
    head = re.match(rf"[{DASHES}\w]+", unicodedata.normalize("NFKC", body)) if not body.isascii() else NAME.match(body)
    name = re.sub(f"[{DASHES}]", "-", head[0]) if head else ""
    rest = (body if body.isascii() else unicodedata.normalize("NFKC", body[: len(name)]) + body[len(name) :])[len(name) :]
    if dashes[0] == "--" and clean == word and name == body:
        return [_in_our_case(word, name, is_known, notes)]
    single = dashes[0] == "-"
    if single and not waiting and len(name) == 1 and rest[:1] in ("", "=") and is_known(SHORT.get(name, "")):
        notes.append(f"-{name} is read as --{SHORT[name]}")
        return [f"--{SHORT[name]}{rest}"]
    if single and (waiting or not is_known(_name(name)) or (rest and rest[0] not in "=:\u00a0")):
        return [word]
    if (
        not single
        and dashes[0] != "--"
        and any(blank.isspace() for blank in body.partition("=")[0])
        and not is_known(_name(name))
    ):
        return [word]  # a text that starts with a dash
    mark = rest[:1]
    if mark and BLANKS.match(mark) and is_known(_name(name)):
        made = [f"--{name}={rest[1:]}"]
    elif mark in (":", "\uff1a", "\uff1d") and is_known(_name(name)):
        made = [f"--{name}={rest[1:].lstrip()}"]
    elif mark in ("", "="):
        made = [f"--{name}{rest}"]
    else:
        made = [word]
    made[0] = _in_our_case(made[0], name, is_known, notes if made[0] == word else [])
    if made[0] != word:
        notes.append(f"{word} is read as {made[0]}")
    return made


def _in_our_case(word: str, name: str, is_known: IsKnown, notes: list[str]) -> str:
    """The flag in lower case if only that is known."""
    if is_known(_name(name)) or not is_known(_name(name.lower())):
        return word
    lower = word.replace(name, name.lower(), 1)
    notes.append(f"--{name} is read as --{name.lower()}")
    return lower


def _name(text: str) -> str:
    return text.partition("=")[0].replace("-", "_")


def value(name: str, line: Setting, given: Any) -> tuple[Any, list[str]]:
    """A value as it was meant, and notes."""
    if isinstance(given, list | tuple):
        parts = [value(name, line, each) for each in given]
        made = [each for part, _ in parts for each in (part if isinstance(part, list) else [part])]
        return type(given)(made), [note for _, notes in parts for note in notes]
    if not isinstance(given, str) or line.secret:
        return given, []
    if line.type is not str or line.choices:
        plain = unicodedata.normalize("NFKC", INVISIBLE.sub("", _unquoted(given)[0])).strip().lstrip("=")
        if line.many and "," in plain and all(part.strip() for part in plain.split(",")):
            return [part.strip() for part in plain.split(",")], []
        lower = re.sub(r"[\s-]", "_", plain.casefold())
        return (lower if line.choices and plain not in line.choices and lower in line.choices else plain or given), []
    if line.text in PATHS and os.path.lexists(os.path.expanduser(given)):
        return given, []
    text, notes = given, []
    if (clean := INVISIBLE.sub("", text)) != text:
        text, _ = clean, notes.append(f"{name}: invisible characters were removed")
    text, quotes = _unquoted(text)
    if quotes:
        notes.append(f"{name}: the quotes {quotes} around the value were removed")
    if line.text == "placeholder" and (clean := unicodedata.normalize("NFKC", text)) != text:
        text, _ = clean, notes.append(f"{name}: read as {clean}, in normal-width characters")
    if line.text in PATHS:
        text = _path(name, line, text, notes)
    elif (clean := BLANKS.sub(" ", text)) != text:
        text, _ = clean, notes.append(f"{name}: special blanks are read as plain ones")
    if line.text not in PATHS and (left := TYPOGRAPHIC.findall(text)):
        notes.append(f"{name}: the quotes {' '.join(dict.fromkeys(left))} are kept as part of the text")
    return text, notes


def _unquoted(text: str) -> tuple[str, str]:
    """The text without the pair of quotes around it, and the pair."""
    inner = text.strip()
    if len(inner) > 2 and inner[-1] in QUOTES.get(inner[0], "") and inner[0] not in inner[1:-1]:
        return inner[1:-1], f"{inner[0]} {inner[-1]}"
    return text, ""


def _path(name: str, line: Setting, text: str, notes: list[str]) -> str:
    """A path or model name without copied surroundings: blanks, file://, the hub's address."""
    clean = text.strip()
    if clean != text and clean:
        notes.append(f"{name}: surrounding blanks were removed")
    if re.match(r"file://", clean, re.IGNORECASE):
        clean = unquote(urlsplit(clean).path)
        clean = clean[1:] if re.match(r"/[A-Za-z]:/", clean) else clean
        notes.append(f"{name}: read as {clean}")
    if line.text == "weights" and (tag := re.fullmatch(r"<(?:lora|lyco):([^:<>]+)(:[\d.]+)?>", clean)):
        clean = tag[1] + (tag[2] or "")
        notes.append(f"{name}: read as {clean}")
    clean = shipped_configs.located(clean)
    if line.text == "model" and (
        hub := re.fullmatch(r"(?:https?://)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)(?:/tree/main)?/?", clean)
    ):
        clean = hub[1]
        notes.append(f"{name}: read as {clean}, its name on the hub")
    return clean or text
