"""Suggestions for misspelt names and for numbers in another notation."""

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from customize.errors import Problem
from customize.settings.field import Setting, written


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known word with the most similar spelling, if any."""
    return next(iter(get_close_matches(word[:100], known, n=1, cutoff=cutoff)), None)


def unknown(name: str, known: Mapping[str, str]) -> Problem:
    """The problem of an unknown name, with suggestions: the only name that contains all of its words, or a similar spelling, or
    several such names.

    known: every recognised name -> the setting that it stands for; empty for a setting itself.
    """
    words = set(name.casefold().split("_")) - {""}
    near = nearest(name.casefold(), known, 0.76)
    longer = [each for each in known if not known[each] and words and words < set(each.split("_"))]
    found = [known[near] or near] if near and len(longer) != 1 else longer[:3]
    return Problem(name, NO_SETTING, f"did you mean {' or '.join(found)}?" if found else "--help lists all settings")


NO_SETTING = "is not a setting"
UNITS = re.compile(r"\s*(px|pixels?|steps?|images?|epochs?|%|k)$", re.IGNORECASE)


def number_meant(line: Setting, text: str) -> str | None:
    """A number in another notation (1,000  0,5  1e3  512px  50%  512x512) as the setting takes it, if it is valid."""
    plain = unicodedata.normalize("NFKC", text).strip().strip(",;'\"").strip()
    unit = UNITS.search(plain)
    factor = {"%": 0.01, "k": 1000}.get(unit[1].lower(), 1) if unit else 1
    plain = plain[: unit.start()] if unit else plain
    if size := re.fullmatch(r"(\d+)\s*[x*,\u00d7]\s*(\d+)", plain):
        plain = size[1] if size[1] == size[2] else plain
    if re.fullmatch(r"[-+]?\d{1,3}([, '_.]\d{3})+", plain) and (line.type is int or "," not in plain or plain.count(",") > 1):
        plain = re.sub(r"[, '_.]", "", plain)
    try:
        value = float(plain.replace(",", ".").replace(" ", "")) * factor
    except ValueError:
        return None
    if not math.isfinite(value):
        return None
    if (positive := re.fullmatch(r"(\d+(?:\.\d+)?)e(\d+)", plain, re.IGNORECASE)) and line.type is float and line.fault(value):
        plain = f"{positive[1]}e-{positive[2]}"
        return None if line.fault(float(plain)) else plain
    if line.type is int and line.multiple_of and value % line.multiple_of:
        value = round(value / line.multiple_of) * line.multiple_of
    value = int(value) if line.type is int and value == int(value) else value
    if (line.type is int) != isinstance(value, int) or line.fault(value):
        return None
    return written(value)
