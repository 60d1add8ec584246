r"""The prompt grammar of AUTOMATIC1111's stable-diffusion-webui: text -> clauses -> spans of text with weights.

    prompt      = clause ("AND" clause)*              the sampler mixes the predictions for the clauses
    clause      = items [":" number]                  its weight in the mixture, 1 by default; plain text without AND
    items       = (text | "BREAK" | emphasis | schedule | alternation)*
    emphasis    = "(" items ")"                       weight x 1.1
                | "(" items ":" number ")"            weight x number
                | "[" items "]"                       weight / 1.1
    schedule    = "[" [items ":"] items ":" when "]"  the first items (or nothing) until then, then the second
    alternation = "[" items ("|" items)+ "]"          in turn, another one at each step
    text        = any characters; \( \) \[ \] \: \| \{ \} \\ are literal, any other backslash is removed

A `when` with a decimal point is a fraction of all steps, without one a number of steps. BREAK starts a new chunk of tokens
(see `customize.families.prompt_encoding`). A colon or bar without a grammatical function is text: a colon before anything
but a number, a bar outside of [ ]. To catch mistakes, [ ] with two colons must be a schedule, and an invalid number
("1,3") is an error. The number after a colon in ( ) may be a schedule or alternation of numbers: (cat:[1:1.4:0.5]).
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from customize.errors import InputError, Problem

DEEPEST = 50  # nested brackets
HEAVIEST = 1000.0  # finite to the power of DEEPEST
TOKEN = re.compile(r"\s*\bBREAK\b\s*|\\[\\()\[\]:|{}]|\w+|\s+|[^\w\s]")
CALLS = re.compile(
    r"<\s*(?:lora|lyco|hypernet)\s*:|\bembedding:(?=\S)|(?<!\\)(?:\\\\)*[{}]|__(?=\S)[^\s_](?:[^_\n]|_(?!_))*__", re.IGNORECASE
)
"""Weights and wildcards in a prompt, which `inference.called` resolves before parsing."""
NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)")
WHEN = re.compile(NUMBER.pattern + r"([eE][-+]?[0-9]+)?")
LIKE_A_NUMBER = re.compile(r"[-+]*[0-9.,]*[0-9]%?")


@dataclass(frozen=True)
class Span:
    """A non-empty piece of text, and the weight that multiplies the hidden states of its tokens."""

    text: str
    weight: float = 1.0


BREAK = Span("", 0.0)
"""Not text: marks the start of a new chunk."""


@dataclass(frozen=True)
class Emphasis:
    """`items` with the weight written in `tail` after its colon; if that is not a number, both with `weight`."""

    items: "Items"
    tail: "Items"
    weight: float


@dataclass(frozen=True)
class Scheduled:
    """`before` for the first `when` steps (`is_part`: a fraction of all steps, rounded down), then `after`."""

    before: "Items"
    after: "Items"
    when: float
    is_part: bool


@dataclass(frozen=True)
class Alternating:
    """The options in turn, one per step."""

    options: tuple["Items", ...]


Items = tuple[Span | Emphasis | Scheduled | Alternating, ...]


@dataclass(frozen=True)
class Clause:
    """One of the parts joined by AND, and its weight."""

    items: Items
    weight: float = 1.0

    def at(self, step: int, steps: int) -> tuple[Span, ...]:
        """Its spans at step 0, 1, ... of `steps`; neighbours differ in weight, or one is `BREAK`."""
        groups = groupby(spans_at(self.items, step, steps), key=lambda span: (span.weight, span == BREAK))
        spans = []
        for (weight, is_break), group in groups:
            spans += group if is_break else [Span("".join(span.text for span in group), weight)]
        return tuple(spans)

    def schedule(self, steps: int) -> tuple[tuple[Span, ...], ...]:
        """Its spans at each step; equal ones need encoding only once."""
        return tuple(self.at(step, steps) for step in range(steps))


@dataclass(frozen=True)
class Prompt:
    """The clauses joined by AND, at least one."""

    clauses: tuple[Clause, ...]


def parse(text: str, where: str = "prompt") -> Prompt:
    """Parse a prompt. where: its name in error messages.

    Raises InputError that shows the position of: a bracket that is not closed (within its clause) or not opened, more than
    `DEEPEST` nested brackets, a schedule without its number, a colon and a bar in one [ ], an invalid number, a weight
    beyond `HEAVIEST`, or syntax for weights or wildcards (`inference.called` resolves these before).
    """
    if call := CALLS.search(text):
        remedy = "leave it out (only prompts of infer.py support it), or write \\{ and \\} for braces as text"
        raise Reader(text, where, [], True).error(
            call.start(), "weights and wildcards in a prompt are not supported here", remedy
        )
    clauses: list[list[re.Match]] = [[]]
    for token in TOKEN.finditer(text):
        if token[0] == "AND":
            clauses.append([])
        else:
            clauses[-1].append(token)
    return Prompt(tuple(Reader(text, where, tokens, alone=len(clauses) == 1).clause() for tokens in clauses))


def plain(text: str) -> Prompt:
    """The text as a prompt, without any grammar."""
    return Prompt((Clause((Span(text),) if text else ()),))


def spans_at(items: Items, step: int, steps: int) -> Iterator[Span]:
    """The items' spans at step 0, 1, ... of `steps`, not yet joined."""
    for item in items:
        match item:
            case Span():
                yield item
            case Alternating(options):
                yield from spans_at(options[step % len(options)], step, steps)
            case Scheduled(before, after, when, is_part):
                until = int(min(max(when * steps if is_part else when, 0), steps))
                yield from spans_at(before if step < until else after, step, steps)
            case Emphasis(inside, tail, weight):
                spelled = weight_in(list(spans_at(tail[1:], step, steps)))
                inside, weight = (inside + tail, weight) if spelled is None else (inside, spelled)
                for span in spans_at(inside, step, steps):
                    yield Span(span.text, span.weight * weight)  # a BREAK stays a BREAK


def weight_in(items: Sequence) -> float | None:
    """The number that the items consist of, otherwise None."""
    text = text_of(items)
    return float(text) if text is not None and NUMBER.fullmatch(text) and abs(float(text)) <= HEAVIEST else None


def text_of(items: Sequence) -> str | None:
    """The text of the items, stripped; None if they are not plain text."""
    if all(isinstance(item, Span) and item.weight == 1 for item in items):
        return "".join(item.text for item in items).strip()
    return None


class Reader:
    """Recursive-descent parser for the tokens of one clause. alone: the prompt has no other clause."""

    def __init__(self, text: str, where: str, tokens: list[re.Match], alone: bool):
        self.text, self.where, self.tokens, self.alone = text, where, iter(tokens), alone

    def clause(self) -> Clause:
        fields, marks = self.fields(None, 0)
        if not marks or self.alone:  # A1111 reads "a clock at 12:30" as "a clock at 12" with weight 30
            return Clause(joined(fields))
        self.check_weight(fields[-1], marks[-1])
        weight = weight_in(fields[-1])
        return Clause(joined(fields)) if weight is None else Clause(joined(fields[:-1]), weight)

    def fields(self, opened: re.Match | None, depth: int) -> tuple[list[Items], list[re.Match]]:
        """Everything up to the end of the bracket (or clause), split at its own colons and bars, and these marks."""
        closing, cuts = {"(": (")", (":",)), "[": ("]", (":", "|"))}[opened[0]] if opened else ("", (":",))
        fields, marks = [[]], []
        for token in self.tokens:
            match token[0]:
                case mark if mark == closing:
                    return [tuple(field) for field in fields], marks
                case mark if mark in cuts:
                    marks.append(token)
                    fields.append([])
                case "(" | "[":
                    fields[-1].append(self.bracket(token, depth + 1))
                case ")" | "]" as mark:
                    what = f"{mark} instead of {closing}" if closing else f"{mark} does not close a bracket"
                    raise self.error(token.start(), what, f"write \\{mark} if it is text")
                case text if text.strip() == "BREAK":
                    fields[-1].append(BREAK)
                case text if text != "\\":
                    fields[-1].append(Span(text.removeprefix("\\")))
        if opened:
            what = f"{opened[0]} is not closed" + ("" if self.alone else " on its side of AND")
            raise self.error(opened.start(), what, f"add {closing}, or write \\{opened[0]} if it is text")
        return [tuple(field) for field in fields], marks

    def bracket(self, opened: re.Match, depth: int) -> Emphasis | Scheduled | Alternating:
        if depth > DEEPEST:
            raise self.error(opened.start(), f"more than {DEEPEST} nested brackets", "use a number: (word:1.3)")
        fields, marks = self.fields(opened, depth)
        if opened[0] == "[" and marks:
            return self.choice(fields, marks)
        if not marks:
            return Emphasis(fields[0], (), 1.1 if opened[0] == "(" else 1 / 1.1)
        self.check_weight(fields[-1], marks[-1])
        return Emphasis(joined(fields[:-1]), (Span(":"), *fields[-1]), 1.1)

    def choice(self, fields: list[Items], marks: list[re.Match]) -> Emphasis | Scheduled | Alternating:
        """The item for square brackets with colons or bars."""
        if all(mark[0] == "|" for mark in marks):
            return Alternating(tuple(fields))
        other = next((mark for mark in marks if mark[0] != marks[0][0]), None)
        if other:
            remedy = "put one of the two into its own brackets, or write \\: or \\| if it is text"
            raise self.error(other.start(), "a colon and a bar in one [ ]", remedy)
        when = text_of(fields[-1])
        if when is not None and WHEN.fullmatch(when) and len(fields) <= 3:
            before, after = fields[:-1] if len(fields) == 3 else ((), fields[0])
            return Scheduled(before, after, float(when), "." in when)
        if len(fields) == 2 and not (when and LIKE_A_NUMBER.fullmatch(when)):
            return Emphasis(joined(fields), (), 1 / 1.1)
        what = "the step is not a number" if len(fields) <= 3 else "more than two colons in one [ ]"
        remedy = "write [from:to:0.4] (a fraction of the steps) or [from:to:8] (a step), and \\: if a colon is text"
        raise self.error(marks[min(len(marks), 3) - 1].end(), what, remedy)

    def check_weight(self, field: Items, mark: re.Match) -> None:
        """Raise InputError if the field after the mark looks like a number but is not a valid weight."""
        text = text_of(field)
        if text and LIKE_A_NUMBER.fullmatch(text) and weight_in(field) is None:
            what = f"a weight beyond {HEAVIEST:g}" if NUMBER.fullmatch(text) else f"{text} is not a number"
            raise self.error(mark.end(), what, "write a number such as 1.3, and \\: if a colon is text")

    def error(self, place: int, what: str, remedy: str) -> InputError:
        """An error that shows the position: the surrounding text on one line, and a caret below it."""
        place = min(place, len(self.text) - 1)
        start = max(place - 60, 0)
        shown = "".join(letter if letter.isprintable() else " " for letter in self.text[start : place + 40])
        return InputError(Problem(self.where, f"{what}\n    {shown}\n    {' ' * columns(shown[: place - start])}^", remedy))


def columns(text: str) -> int:
    """The number of terminal columns of a text: two for wide characters, none for combining marks."""
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def joined(fields: Sequence[Items]) -> Items:
    """The fields, joined by colons as text."""
    return tuple(item for field in fields for item in (Span(":"), *field))[1:]
