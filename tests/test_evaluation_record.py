"""The file with everything that was measured of a run."""

import json

import pytest

from customize.errors import InputError
from customize.evaluation import record
from customize.evaluation.record import Candidate, Evaluation, Pair, ProbePrompt, Verdict
from customize.storage.run_log import numbers_of

PROMPTS = (
    ProbePrompt("concept", "a sks toy", "a toy"),
    ProbePrompt("class", "a toy", "a toy"),
    ProbePrompt("other", "a fox", "a fox"),
    ProbePrompt("bare", "a sks toy", "a toy"),
)
FOUND = Evaluation(
    "object", "sks", "toy", "own features", 6, PROMPTS, (Pair(0, 7), Pair(0, 8), Pair(1, 7), Pair(2, 7), Pair(3, 7)),
    (Candidate(0, values={"likeness": (0.0, 0.25)}), Candidate(50, 0.5, {"drift": (0.1,)}, {"training": (1, 0.9, 0.8, 0.7)})),
    chosen=50, verdict=Verdict("learned", ("copies",), ("because",), ("do this",)),
)  # fmt: skip


def test_comes_back_as_it_was_written(tmp_path):
    (tmp_path / record.FOLDER).mkdir()
    (tmp_path / record.FOLDER / record.NAME).write_text(FOUND.to_json(), encoding="utf-8")
    assert record.read(tmp_path) == FOUND


def test_pairs_of_a_measure_are_those_of_its_prompts():
    assert FOUND.pairs_of("likeness") == (Pair(0, 7), Pair(0, 8))
    assert FOUND.pairs_of("drift") == (Pair(2, 7),)
    assert {FOUND.prompts[pair.prompt].kind for name in record.MEASURES for pair in FOUND.pairs_of(name)} == {
        measure.of for measure in record.MEASURES.values()
    }


def test_a_candidate_replaces_an_earlier_one_of_the_same_step_and_scale():
    again = FOUND.with_candidate(Candidate(50, 0.5)).with_candidate(Candidate(25))
    assert [(each.step, each.scale) for each in again.candidates] == [(0, 1.0), (25, 1.0), (50, 0.5)]
    assert again.candidate(50, 0.5) == Candidate(50, 0.5) and again.candidate(50) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"candidates": 3}', FOUND.to_json().replace('"step"', '"stop"')])
def test_a_damaged_file_is_refused(tmp_path, text):
    (tmp_path / record.FOLDER).mkdir()
    (tmp_path / record.FOLDER / record.NAME).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="customize score"):
        record.read(tmp_path)


def test_a_missing_file_is_told_from_a_damaged_one(tmp_path):
    with pytest.raises(FileNotFoundError):
        record.read(tmp_path)


def test_the_file_says_which_version_it_is():
    assert json.loads(FOUND.to_json())["version"] == record.VERSION


def test_numbers_of_a_line_of_the_log_by_name():
    """What trackers show: no texts, and of the noise bands of a loss the mean."""
    line = {"step": 7, "loss": 0.5, "probe": {"held out": (0.5, 1.0)}, "evaluation": {"likeness": 0.25}, "verdict": "learned: 3"}
    assert numbers_of(line) == {"loss": 0.5, "probe/held out": 0.75, "evaluation/likeness": 0.25}
