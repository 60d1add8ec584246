"""The comparison with other trainers in the documentation: each "yes" names tests that exist."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs/comparison.md"
NAMED = re.compile(r"`(\w+\.py)::(\w+)`")


def rows() -> list[list[str]]:
    """The cells of each row of each table; the headers are left out."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ") and "shown by" not in line]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_yes_is_shown_by_tests_that_exist():
    assert len(rows()) > 30
    for feature, *_, ours, shown in rows():
        named = NAMED.findall(shown)
        assert bool(named) == (not ours.startswith("no")), feature
        assert ours != "no", f"{feature}: a no has its reason"
        for file, test in named:
            tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
            assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{feature}: {file}::{test}"
