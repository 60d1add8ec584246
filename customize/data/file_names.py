"""Comparison of file names across systems: in another Unicode form, or in upper and lower case."""

import os
import unicodedata
from collections.abc import Iterable


def composed(name: str) -> str:
    """The name in Unicode form NFC; macOS writes NFD."""
    return unicodedata.normalize("NFC", name)


FORMS = (lambda name: name, composed, lambda name: composed(composed(name).casefold()))
"""From strict to tolerant: names match if one of these gives the same result for both."""


class Names:
    """A set of names with lookup: exact first, then in another Unicode form, then ignoring case."""

    def __init__(self, names: Iterable[str]):
        self.tables: list[dict[str, list[str]]] = [{}, {}, {}]
        for name in names:
            for form, table in zip(FORMS, self.tables, strict=True):
                table.setdefault(form(name), []).append(name)

    def __contains__(self, name: str) -> bool:
        return name in self.tables[0]

    def find(self, name: str) -> list[str]:
        """The matching names: one, none, or several that differ only in case."""
        for level in range(len(FORMS)):
            if found := self.at(level, name):
                return found
        return []

    def at(self, level: int, name: str) -> list[str]:
        """The names that match this one in the form number `level`."""
        return self.tables[level].get(FORMS[level](name), [])


def stem(name: str) -> str:
    """The name without its extension."""
    return os.path.splitext(name)[0]
