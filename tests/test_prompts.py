"""The prompt grammar against what AUTOMATIC1111's stable-diffusion-webui makes of the same prompts.

The tables hold the answers of its modules/prompt_parser.py (version 1.10), written down from a run of it.
"""

import math
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from customize.errors import InputError
from customize.prompts import BREAK, DEEPEST, Clause, Prompt, Span, parse, plain

# fmt: off
# parse_prompt_attention(prompt)
ATTENTION = [
    ("", [("", 1.0)]),
    ("normal text", [("normal text", 1.0)]),
    (" spaces  kept ", [(" spaces  kept ", 1.0)]),
    ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
    ("((twice))", [("twice", 1.2100000000000002)]),
    ("(a:1.3)", [("a", 1.3)]),
    ("( a : 1.3 )", [(" a ", 1.3)]),
    ("(a:.5)", [("a", 0.5)]),
    ("(a:2.)", [("a", 2.0)]),
    ("(a:+1.5)", [("a", 1.5)]),
    ("(a:-1)", [("a", -1.0)]),
    ("(a:0)", [("a", 0.0)]),
    ("[word]", [("word", 0.9090909090909091)]),
    ("[[word]]", [("word", 0.8264462809917354)]),
    ("([word])", [("word", 1.0)]),
    ("[(a:1.5) b]", [("a", 1.3636363636363635), (" b", 0.9090909090909091)]),
    ("(a (b:1.5) c:0.5)", [("a ", 0.5), ("b", 0.75), (" c", 0.5)]),
    ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
    ("()", [("", 1.0)]),
    ("(:1.3)", [("", 1.0)]),
    ("a()b", [("ab", 1.0)]),
    ("[]", [("", 1.0)]),
    ("(((house:1.3)) [on] a (hill:0.5), sun, (((sky))).)", [("house", 1.5730000000000004), (" ", 1.1), ("on", 1.0), (" a ", 1.1),
        ("hill", 0.55), (", sun, ", 1.1), ("sky", 1.4641000000000006), (".", 1.1)]),
    ("\\(literal\\]", [("(literal]", 1.0)]),
    ('\\\\', [('\\', 1.0)]),
    ("(a\\):1.2)", [("a)", 1.2)]),
    ("((\\(a\\)))", [("(a)", 1.2100000000000002)]),
    ("\\(a:1.2\\)", [("(a:1.2)", 1.0)]),
    ("a\\b", [("ab", 1.0)]),
    ("a: b", [("a: b", 1.0)]),
    ("(a: b)", [("a: b", 1.1)]),
    ("(a:b:1.2)", [("a:b", 1.2)]),
    ("(a:b:c)", [("a:b:c", 1.1)]),
    ("(12:30)", [("12", 30.0)]),
    ("[time: night]", [("time: night", 0.9090909090909091)]),
    ("(a:1.2 b)", [("a:1.2 b", 1.1)]),
    ("(at 9:30 in paris)", [("at 9:30 in paris", 1.1)]),
    ("a BREAK b", [("a", 1.0), ("BREAK", -1), ("b", 1.0)]),
    ("a, BREAK b BREAK (c)", [("a,", 1.0), ("BREAK", -1), ("b", 1.0), ("BREAK", -1), ("", 1.0), ("c", 1.1)]),
    ("BREAK a", [("", 1.0), ("BREAK", -1), ("a", 1.0)]),
    ("a BREAK", [("a", 1.0), ("BREAK", -1), ("", 1.0)]),
    ("BREAKFAST", [("BREAKFAST", 1.0)]),
    ("aBREAK b", [("aBREAK b", 1.0)]),
    ("a\nb, (c\nd:1.2)", [("a\nb, ", 1.0), ("c\nd", 1.2)]),
    ("(猫:1.2)", [("猫", 1.2)]),
    ("(a)(b:1.1)c", [("ab", 1.1), ("c", 1.0)]),
    ("a | b", [("a | b", 1.0)]),
    ("(a|b)", [("a|b", 1.1)]),
]
# get_learned_conditioning_prompt_schedules([prompt], 10): up to which step, which prompt
SCHEDULES = [
    ("test", [(10, "test")]),
    ("a [b:3]", [(3, "a "), (10, "a b")]),
    ("a [b: 3]", [(3, "a "), (10, "a b")]),
    ("a [b: 3 ]", [(3, "a "), (10, "a b")]),
    ("a [[[b]]:2]", [(2, "a "), (10, "a [[b]]")]),
    ("[(a:2):3]", [(3, ""), (10, "(a:2)")]),
    ("a [b : c : 1] d", [(1, "a b  d"), (10, "a  c  d")]),
    ("a[b:[c:d:2]:1]e", [(1, "abe"), (2, "ace"), (10, "ade")]),
    ("a [b:.5] c", [(5, "a  c"), (10, "a b c")]),
    ("[a:b:0.4]", [(4, "a"), (10, "b")]),
    ("[a:b:0.29]", [(2, "a"), (10, "b")]),
    ("[a::0.6]", [(6, "a"), (10, "")]),
    ("[a::3]", [(3, "a"), (10, "")]),
    ("[:a:3]", [(3, ""), (10, "a")]),
    ("[a:1.0]", [(10, "")]),
    ("[a:1]", [(1, ""), (10, "a")]),
    ("[a:1.3]", [(10, "")]),
    ("[a:0]", [(10, "a")]),
    ("[a:b:0.0]", [(10, "b")]),
    ("[a:b:-1]", [(10, "b")]),
    ("[a:b:99]", [(10, "a")]),
    ("[a:b:0.05]", [(10, "b")]),
    ("[a:b:1e0]", [(1, "a"), (10, "b")]),
    ("[a:b:+.5]", [(5, "a"), (10, "b")]),
    ("[a:b:10]", [(10, "a")]),
    ("[a:b:9.]", [(10, "a")]),
    ("([a:b:5]:1.3)", [(5, "(a:1.3)"), (10, "(b:1.3)")]),
    ("[(a:1.3):(b:0.7):5]", [(5, "(a:1.3)"), (10, "(b:0.7)")]),
    ("[[a:b:3]:c:6]", [(3, "a"), (6, "b"), (10, "c")]),
    ("[a:[b::8]:4]", [(4, "a"), (8, "b"), (10, "")]),
    ("[a b, c: d\\: e:0.5]", [(5, "a b, c"), (10, " d\\: e")]),
    ("[a:\\[b\\]:5]", [(5, "a"), (10, "\\[b\\]")]),
    ("x [a:b:2] [c:d:4]", [(2, "x a c"), (4, "x b c"), (10, "x b d")]),
    ("[[a:b:5]]", [(5, "[a]"), (10, "[b]")]),
    ("(a:[1.1:1.5:0.5])", [(5, "(a:1.1)"), (10, "(a:1.5)")]),
    ("[a:0.5][b:0.5]", [(5, ""), (10, "ab")]),
    ("a [mountain:lake:0.25] and [an oak:a christmas tree:0.75][ in foreground::0.6][ in background:0.25] [shoddy:masterful:0.5]",
        [(2, "a mountain and an oak in foreground shoddy"), (5, "a lake and an oak in foreground in background shoddy"),
        (6, "a lake and an oak in foreground in background masterful"), (7, "a lake and an oak in background masterful"),
        (10, "a lake and a christmas tree in background masterful")]),
]
# the same of 4 steps
ALTERNATIONS = [
    ("[a|b]", ["a", "b", "a", "b"]),
    ("[a|(b:1.1)]", ["a", "(b:1.1)", "a", "(b:1.1)"]),
    ("[fe|]male", ["female", "male", "female", "male"]),
    ("[fe|||]male", ["female", "male", "male", "male"]),
    ("[|a]", ["", "a", "", "a"]),
    ("[a|b|c] x", ["a x", "b x", "c x", "a x"]),
    ("[a|[b|c]]", ["a", "c", "a", "c"]),
    ("[[a|b]:c:0.5]", ["a", "b", "c", "c"]),
    ("[a|b][c|d|e]", ["ac", "bd", "ae", "bc"]),
    ("([a|b]:1.3)", ["(a:1.3)", "(b:1.3)", "(a:1.3)", "(b:1.3)"]),
    ("[a|[b:c:2]]", ["a", "b", "a", "c"]),
    ("[a\\|b|c]", ["a\\|b", "c", "a\\|b", "c"]),
    ("[a b| c]", ["a b", " c", "a b", " c"]),
    ("[|]", ["", "", "", ""]),
]
# get_multicond_prompt_list([prompt])
CLAUSES = [
    ("a AND b", [("a", 1.0), (" b", 1.0)]),
    ("a :1.2 AND b :0.5", [("a", 1.2), (" b", 0.5)]),
    ("a:1.2 AND b AND c:-1", [("a", 1.2), (" b", 1.0), (" c", -1.0)]),
    ("a AND", [("a", 1.0), ("", 1.0)]),
    ("AND b", [("", 1.0), (" b", 1.0)]),
    ("ANDY AND HAND", [("ANDY", 1.0), (" HAND", 1.0)]),
    ("a AND b:.5", [("a", 1.0), (" b", 0.5)]),
    ("a :2. AND b: +1", [("a", 2.0), (" b", 1.0)]),
    ("(a:1.3) AND [b:c:3]:0.7", [("(a:1.3)", 1.0), (" [b:c:3]", 0.7)]),
    ("a:b AND c", [("a:b", 1.0), (" c", 1.0)]),
    ("a AND a", [("a", 1.0), (" a", 1.0)]),
    ("a\nAND b :2", [("a", 1.0), (" b", 2.0)]),
    ("and AND And", [("and", 1.0), (" And", 1.0)]),
]
# where we differ on purpose: what it makes of the prompt, and what we say: the fault, and the place of the caret
ERRORS = [
    ("(unbalanced", "the same as (unbalanced)", "( is not closed", 0),
    ("a [unbalanced", "the same as [unbalanced]", "[ is not closed", 2),
    ("a) b", "text", ") does not close a bracket", 1),
    ("a] b", "text", "] does not close a bracket", 1),
    (":)", "text", ") does not close a bracket", 1),
    ("(a [b) c]", "two ranges that overlap", ") instead of ]", 5),
    ("((a]:1.2)", "text a], x 1.32", "] instead of )", 3),
    ("(a\\)", "text a), x 1.1", "( is not closed", 0),
    ("(a AND b)", "(a) and the text b)", "( is not closed on its side of AND", 0),
    ("(a:1,3)", "text a:1,3, x 1.1", "1,3 is not a number", 3),
    ("(a:50%)", "text a:50%, x 1.1", "50% is not a number", 3),
    ("(a:1.2.3)", "a crash", "1.2.3 is not a number", 3),
    ("(a:2000)", "x 2000", "a weight beyond 1000", 3),
    ("a :1,5 AND b", "text a :1,5", "1,5 is not a number", 3),
    ("[a:b:c]", "text a:b:c, / 1.1", "the step is not a number", 5),
    ("[a:b:]", "text a:b:, / 1.1", "the step is not a number", 5),
    ("[a:b:0,4]", "text a:b:0,4, / 1.1", "the step is not a number", 5),
    ("[a:1,5]", "text a:1,5, / 1.1", "the step is not a number", 3),
    ("[a:b:c:0.4]", "text a:b:c:0.4, / 1.1", "more than two colons in one [ ]", 7),
    ("[a|b:0.4]", "text a|b:0.4, / 1.1", "a colon and a bar in one [ ]", 4),
    ("[a|b: c]", "text a|b: c, / 1.1", "a colon and a bar in one [ ]", 4),
    ("[: a|b]", "text : a|b, / 1.1", "a colon and a bar in one [ ]", 4),
    ("(" * 10_000, "x inf", "more than 50 nested brackets", 50),
    ("[" * 10_000 + "]" * 10_000, "x 0", "more than 50 nested brackets", 50),
    (")" * 10_000, "text", ") does not close a bracket", 0),
]
# what it makes of the prompt, and another prompt that says what we make of it
READ_OTHERWISE = [
    ("(a BREAK b:1.3)", "the text BREAK x -1.3", "(a:1.3) BREAK (b:1.3)"),
    ("[a BREAK b]", "the text BREAK / -1.1", "[a] BREAK [b]"),
    ("(a\\:1.3)", "a x 1.3", "(a\\:1.3 )"),
    ("(a:.)", "a crash", "(a\\:.)"),
    ("a | [:b:0]", "no schedule in a prompt with | outside of [ ]", "a | b"),
    ("[x:(a:b:c):0]", "no schedule around text with two colons", "(a:b:c)"),
    ("[(a: b: c)|d]", "no alternation around text with two colons", "(a\\: b\\: c)"),
    ("x[BREAK|a]", "the text xBREAK", "x BREAK "),
    ("a 1920:1080", "x 1080", "a 1920\\:1080"),
    ("a clock at 12:30", "x 30", "a clock at 12\\:30"),
    ("a cat:1.2", "x 1.2", "a cat\\:1.2"),
]
# fmt: on


def spans_at(prompt: str, step: int = 0, steps: int = 1) -> tuple[Span, ...]:
    (clause,) = parse(prompt).clauses
    return clause.at(step, steps)


def trimmed(spans: tuple[Span, ...]) -> list[Span]:
    """Without the blanks around spans, which make no token."""
    without = [span if span == BREAK else Span(span.text.strip(), span.weight) for span in spans]
    return [span for span in without if span.text or span == BREAK]


@pytest.mark.parametrize(("prompt", "theirs"), ATTENTION)
def test_attention(prompt, theirs):
    expected = [BREAK if pair == ("BREAK", -1) else Span(*pair) for pair in theirs if pair[0]]
    assert list(spans_at(prompt)) == expected


@pytest.mark.parametrize(("prompt", "theirs"), SCHEDULES)
def test_schedules(prompt, theirs):
    expected = [next(spans_at(text) for last, text in theirs if step < last) for step in range(10)]
    (clause,) = parse(prompt).clauses
    assert clause.schedule(10) == tuple(expected)


@pytest.mark.parametrize(("prompt", "theirs"), ALTERNATIONS)
def test_alternations(prompt, theirs):
    (clause,) = parse(prompt).clauses
    assert clause.schedule(4) == tuple(map(spans_at, theirs))


@pytest.mark.parametrize(("prompt", "theirs"), CLAUSES)
def test_clauses(prompt, theirs):
    clauses = parse(prompt).clauses
    assert [clause.weight for clause in clauses] == [weight for _, weight in theirs]
    for clause, (text, _) in zip(clauses, theirs, strict=True):
        (expected,) = parse(text).clauses
        assert [trimmed(spans) for spans in clause.schedule(10)] == [trimmed(spans) for spans in expected.schedule(10)]


@pytest.mark.parametrize(("prompt", "theirs", "fault", "place"), ERRORS, ids=range(len(ERRORS)))
def test_faults_are_shown_where_they_are(prompt, theirs, fault, place):
    with pytest.raises(InputError) as caught:
        parse(prompt, "negative_prompt")
    (problem,) = caught.value.problems
    what, shown, caret = problem.what.split("\n")
    assert (problem.where, what) == ("negative_prompt", fault)
    assert problem.remedy and shown.strip() and prompt.startswith(shown[4:])
    assert caret == " " * (4 + place) + "^"


def test_a_long_prompt_is_shown_around_the_place():
    with pytest.raises(InputError) as caught:
        parse("one\ttwo\n" * 100 + "(here:1,3)" + " and on" * 100)
    _, shown, caret = caught.value.problems[0].what.split("\n")
    assert shown[caret.index("^") :].startswith("1,3)") and len(shown) < 120 and "two one" in shown


@pytest.mark.parametrize(("prompt", "theirs", "same_as"), READ_OTHERWISE)
def test_differences_to_other_grammars(prompt, theirs, same_as):
    assert trimmed(spans_at(prompt)) == trimmed(spans_at(same_as))


def test_brackets_may_be_as_deep_as_the_limit():
    (span,) = spans_at("(" * DEEPEST + "a" + ")" * DEEPEST)
    assert math.isclose(span.weight, 1.1**DEEPEST)
    (span,) = spans_at("(" * DEEPEST + "a" + ":1000)" * DEEPEST)
    assert math.isfinite(span.weight)


def test_numbers_of_steps_may_be_absurd():
    for when in ("9e999", "-9e999", "9" * 400, f"{'9' * 400}.5", "-.5"):
        assert [span.text for span in spans_at(f"[a:b:{when}]")] == ["b" if when.startswith("-") else "a"]


@pytest.mark.parametrize("text", ["", "(a:1.3) [b|c] AND \\( BREAK d:2", "a) :("])
def test_plain_is_without_grammar(text):
    assert plain(text) == Prompt((Clause((Span(text),) if text else ()),))
    assert plain(text).clauses[0].schedule(2) == ((Span(text),) if text else (),) * 2


PIECES = [
    "(",
    ")",
    "[",
    "]",
    ":",
    "|",
    "\\",
    "1.3",
    "0.4",
    "5",
    ",",
    "-",
    " ",
    "\n",
    "a",
    "cat",
    "é",
    "AND",
    " AND ",
    "BREAK",
    " BREAK ",
]
marked = st.lists(st.sampled_from(PIECES), max_size=20).map("".join)


@pytest.mark.parametrize("number", [600, pytest.param(10_000, marks=pytest.mark.slow)], ids=["few", "many"])
def test_whatever_is_written_is_read_or_reported(number):
    settings(max_examples=number, deadline=None, database=None)(given(marked)(read_or_reported))()


def read_or_reported(text):
    try:
        prompt = parse(text)
    except InputError as error:
        (problem,) = error.problems
        assert problem.remedy and problem.what.count("\n") == 2
        return
    for clause in prompt.clauses:
        for spans in clause.schedule(3):
            assert all(math.isfinite(span.weight) and (span.text or span == BREAK) for span in spans)
            neighbours = zip(spans, spans[1:], strict=False)
            assert all(one.weight != other.weight or BREAK in (one, other) for one, other in neighbours)


@settings(max_examples=300, deadline=None, database=None)
@given(st.text(st.characters(exclude_characters="()[]{}:|\\_")).filter(lambda text: "AND" not in text and "BREAK" not in text))
def test_text_without_markup_stays(text):
    assert parse(text) == parse(text, "else") and spans_at(text) == plain(text).clauses[0].at(0, 1)


@pytest.mark.parametrize(
    "text", ["<lora:x:0.5>, (a)", "a < LyCo: x>", "(embedding:x:1.2)", "a {red|blue} car", "a }", "__animal__", "a\\\\{b"]
)
def test_unresolved_tags_and_choices_are_refused(text):
    with pytest.raises(InputError, match="are not supported here"):
        parse(text)
    for text in (r"a \{b\} c", "snake_case __", "a <lora> b", "embedding: x", "_a__ b"):
        assert "".join(span.text for span in spans_at(text)) == text.replace("\\", "")


def test_nothing_heavy_is_imported():
    code = "import customize.prompts, sys; print(sorted({'torch', 'numpy', 'pydantic', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
