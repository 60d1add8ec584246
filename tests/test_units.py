"""Sizes and times in words: exact texts, and every text is true to within its last digit."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from customize import units

MULTIPLE = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
SECONDS = {"s": 1, "min": 60, "h": 3600, "days": 86400}


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 bytes"), (1, "1 byte"), (999, "999 bytes"), (1000, "0.98 KiB"), (1024, "1 KiB"), (1536, "1.5 KiB"),
        (5000, "4.88 KiB"), (10_240, "10 KiB"), (147_089_743, "140 MiB"), (76_421_148_672, "71.2 GiB"), (2**20 - 1, "1 MiB"),
        (999 * 2**20, "999 MiB"),
        (1023 * 2**20, "1 GiB"), (4_265_380_512, "3.97 GiB"), (2**40, "1 TiB"), (12_345 * 2**40, "12,345 TiB"),
    ],
)  # fmt: skip
def test_sizes(number, text):
    assert units.size(number) == text


@given(st.integers(1000, 2**60))
def test_a_size_is_true_to_three_digits(number):
    value, unit = units.size(number).replace(",", "").split()
    assert float(value) * MULTIPLE[unit] == pytest.approx(number, rel=0.0051)
    assert number < 1000 * 2**40 < 2**60 or len(value.replace(".", "")) <= 4 or unit == "TiB"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "under 1 s"), (0.94, "under 1 s"), (0.96, "1 s"), (42.4, "42 s"), (59.4, "59 s"), (59.6, "1 min"),
        (90, "1 min 30 s"), (599.4, "9 min 59 s"), (599.6, "10 min"), (754, "13 min"), (3569, "59 min"), (3571, "1 h"),
        (4800, "1 h 20 min"),
        (7200, "2 h"), (47 * 3600 + 59 * 60, "47 h 59 min"), (48 * 3600, "2 days"),
        (3 * 86400 + 4 * 3600, "3 days 4 h"), (100 * 86400, "100 days"),
    ],
)  # fmt: skip
def test_durations(seconds, text):
    assert units.duration(seconds) == text
    assert units.about(seconds) == (text if text == "under 1 s" else f"about {text}")


@given(st.floats(1, 1e8))
def test_a_duration_is_true(seconds):
    parts = re.findall(r"(\d+) (days|h|min|s)", units.duration(seconds))
    back = sum(int(number) * SECONDS[unit] for number, unit in parts)
    smallest = SECONDS[parts[-1][1]] if seconds < 60 else 1 if seconds < 600 else 60 if seconds < 172_770 else 3600
    assert abs(back - seconds) <= smallest / 2 + 0.5
    assert all(int(number) < 60 for number, unit in parts if unit in ("s", "min"))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0004, "0.4 ms"), (0.012, "12 ms"), (0.31, "0.31 s"), (4.2, "4.2 s"), (9.96, "10 s"), (75, "1 min 15 s")],
)
def test_times_of_a_step(seconds, text):
    assert units.each(seconds) == text


def test_counts():
    assert [units.count(n, "image") for n in (0, 1, 2, 12_000)] == ["0 images", "1 image", "2 images", "12,000 images"]
    assert units.count(2, "copy", "copies") == "2 copies"
