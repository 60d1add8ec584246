"""File names as different systems write them: the same name in another Unicode form, or in upper and lower case."""

import os
import unicodedata
from collections.abc import Iterable


def composed(name: str) -> str:
    """The name in Unicode's form NFC; macOS writes NFD."""
    return unicodedata.normalize("NFC", name)


FORMS = (lambda name: name, composed, lambda name: composed(composed(name).casefold()))
"""From strict to tolerant: names are the same when one of these makes the same of them."""


class Names:
    """A set of names that is looked up exactly first, then in another Unicode form, then in upper or lower case."""

    def __init__(self, names: Iterable[str]):
        self.tables: list[dict[str, list[str]]] = [{}, {}, {}]
        for name in names:
            for form, table in zip(FORMS, self.tables, strict=True):
                table.setdefault(form(name), []).append(name)

    def __contains__(self, name: str) -> bool:
        return name in self.tables[0]

    def find(self, name: str) -> list[str]:
        """The names that are meant: one, none, or several where upper and lower case would have to decide."""
        for level in range(len(FORMS)):
            if found := self.at(level, name):
                return found
        return []

    def at(self, level: int, name: str) -> list[str]:
        """The names that are the same as this one in the form number `level`."""
        return self.tables[level].get(FORMS[level](name), [])


def stem(name: str) -> str:
    """The name without its extension."""
    return os.path.splitext(name)[0]
