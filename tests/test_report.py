"""How problems are shown, and when a prompt calls what was learned."""

import pytest

from customize.cli.problem_report import MANY, headline, kinds, lines
from customize.errors import InputError, Problem
from customize.families.trigger_words import calls_learned
from customize.prompts import parse


def long_caption(index):
    return Problem(f"'caption {index}' ({index}.png)", f"is too long: {78 + index} tokens, of which 77 are read", "shorten it")


@pytest.mark.parametrize("count, shown", [(1, 1), (MANY, MANY), (MANY + 1, 1), (300, 1)])
def test_many_problems_of_a_kind_are_joined(count, shown):
    problems = [long_caption(index) for index in range(count)] + [Problem("--rank", "is 0", "give 1")]
    assert [len(kind) for kind in kinds(problems)] == ([count] if shown == 1 else [1] * shown) + [1]
    assert headline("infer.py", problems).startswith(f"infer.py: {shown + 1} problems in the input")
    reported = list(lines(problems))
    assert reported[0] == "  'caption 0' (0.png): is too long: 78 tokens, of which 77 are read"
    if count == 300:
        assert (
            len(reported) == 5 and reported[2] == "      -> shorten it" and reported[3:] == ["  --rank: is 0", "      -> give 1"]
        )
        names = ", ".join(f"'caption {index}' ({index}.png)" for index in range(1, 11))
        assert reported[1] == f"      and 299 more with the same problem: {names} and 289 more"


def test_different_faults_are_separate_and_equal_ones_are_reported_once():
    problems = [Problem(f"{index}.png", what, "copy it again") for index in range(4) for what in ("is empty", "is cut")]
    assert [len(kind) for kind in kinds(problems)] == [1] * 8
    assert len(kinds([*problems, *problems])) == 8


def test_the_caret_is_under_its_position_and_texts_stay_on_their_line():
    with pytest.raises(InputError) as caught:
        parse("a (red car")
    assert list(lines(caught.value.problems)) == [
        "  prompt: ( is not closed", "      a (red car", "        ^", "      -> add ), or write \\( if it is text",
    ]  # fmt: skip
    with pytest.raises(InputError) as caught:
        parse("红色(汽车")
    _, shown, caret, _ = lines(caught.value.problems)
    assert shown == "      红色(汽车" and caret == "      " + " " * 4 + "^"
    (first, second) = lines([Problem("a\nb", "is\n    a\n    forged line", "c\x1b[31m")])
    assert first == "  a\\nb: is\\n    a\\n    forged line" and second == "      -> c\\x1b[31m"


@pytest.mark.parametrize(
    "prompts, triggers, called",
    [
        (["the sks toy"], ["a sks toy"], True),
        (["SKS, on the beach"], ["a photo of sks dog"], True),
        (["a dog"], ["a photo of sks dog"], False),
        (["a <CAT>!"], ["<cat>"], True),
        (["a cat"], ["<cat>"], False),
        (["a cat", "ugly <bad>"], ["<bad>"], True),
        (["mask"], ["sks"], False),
        ([], ["a sks toy"], False),
    ],
)
def test_a_prompt_has_the_trigger_if_it_has_the_rare_word(prompts, triggers, called):
    assert calls_learned(prompts, triggers) == called
