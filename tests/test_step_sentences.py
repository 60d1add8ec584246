"""The sentence of each step of a trace: its numbers are those that were recorded."""

import math

from customize.inference.explain.step_sentences import sentences

ROW = {"alpha": 0.6, "sigma": 0.8, "clean_norm": 50.0, "noise_norm": 20.0, "guidance_norm": 5.0}


def test_a_sentence_states_the_measured_numbers():
    first, second, third = sentences(
        [{**ROW, "clean_change": None}, {**ROW, "clean_change": 15.0}, {**ROW, "clean_change": 2.0}], 7.5
    )
    assert first == (
        "Of what the network is given, 64 % is noise. Here it makes its first guess of the image. "
        "The prompt shifts the predicted noise by 25 % of its size, and guidance takes this 7.5 times."
    )
    assert "Its guess of the image changes by 30 % of its size, the most of all steps." in second
    assert "Its guess of the image changes by 4 % of its size. The prompt" in third


def test_a_flow_and_a_schedule_without_unit_variance_count_their_variance():
    assert sentences([{"alpha": 1.0, "sigma": 3.0}])[0].startswith("Of what the network is given, 90 % is noise.")


def test_what_was_not_recorded_is_not_mentioned():
    assert sentences([{}, {}]) == ["Here it makes its first guess of the image.", ""]
    hostile = {"alpha": "<b>", "sigma": math.nan, "clean_norm": 0, "clean_change": 1.0, "noise_norm": True, "guidance_norm": []}
    assert sentences([{**ROW}, hostile], "<script>")[1] == ""
    assert "guidance takes" not in sentences([ROW])[0]
    assert "less than 1 % of its size" in sentences([ROW, {**ROW, "clean_change": 0.1}])[1]
