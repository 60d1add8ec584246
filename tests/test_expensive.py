"""Which tests do not run by default: the tables name tests that exist, and leave a case of each to the default run."""

import re
from pathlib import Path

import expensive
import pytest


def names_in(file: str) -> set[str]:
    return set(
        re.findall(r"^def test_(\w+)", (Path(__file__).parent / f"test_{file}.py").read_text(encoding="utf-8"), re.MULTILINE)
    )


@pytest.mark.parametrize("table", [expensive.SLOW, *expensive.CASES.values()])
def test_the_names_are_those_of_tests(table):
    assert {file: set(names.split()) - names_in(file) for file, names in table.items()} == dict.fromkeys(table, set())


def test_cases_that_run_by_default():
    file, names = next(iter(expensive.CASES[2].items()))
    assert expensive.left_out(f"{file}::{names.split()[0]}", "abcde") == list("cde")
    assert expensive.left_out("resume::another_run_is_not_the_same_run", "a") == ["a"]
    assert expensive.left_out("accumulation::of_this_name", "abcdef") == list("bd")
    assert expensive.left_out("accumulation::of_this_name", "abcd") == expensive.left_out("a_file::of_this_name", "abcdef") == []
