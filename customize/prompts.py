r"""The prompt grammar of AUTOMATIC1111's stable-diffusion-webui: text -> clauses -> spans of text with weights.

    prompt      = clause ("AND" clause)*              the sampler mixes what the network says to each
    clause      = items [":" number]                  its weight in the mixture, 1 by default; text where there is no AND
    items       = (text | "BREAK" | emphasis | schedule | alternation)*
    emphasis    = "(" items ")"                       weight x 1.1
                | "(" items ":" number ")"            weight x number
                | "[" items "]"                       weight / 1.1
    schedule    = "[" [items ":"] items ":" when "]"  the first items (or nothing) until then, the second from then on
    alternation = "[" items ("|" items)+ "]"          one after the other, another at each step
    text        = any characters; \( \) \[ \] \: \| \{ \} \\ stand for themselves, any other backslash is left out

A `when` with a dot is a part of all steps, without one a number of steps. BREAK starts a new chunk of tokens (see
`customize.families.prompt_encoding`). A colon or bar is text where the grammar has no use for it: a colon before anything but a
number, a bar outside of [ ]. So that slips are not drawn as words, [ ] with two colons must be a schedule, and what
looks like a number but is none ("1,3") is an error. The number after a colon in ( ) may be a schedule or alternation
of numbers: (cat:[1:1.4:0.5]).
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from customize.errors import InputError, Problem

DEEPEST = 50  # brackets within brackets
HEAVIEST = 1000.0  # to the power of DEEPEST it is still finite
TOKEN = re.compile(r"\s*\bBREAK\b\s*|\\[\\()\[\]:|{}]|\w+|\s+|[^\w\s]")
CALLS = re.compile(
    r"<\s*(?:lora|lyco|hypernet)\s*:|\bembedding:(?=\S)|(?<!\\)(?:\\\\)*[{}]|__(?=\S)[^\s_](?:[^_\n]|_(?!_))*__", re.IGNORECASE
)
"""What `inference.called` makes plain before, where it can."""
NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)")
WHEN = re.compile(NUMBER.pattern + r"([eE][-+]?[0-9]+)?")
LIKE_A_NUMBER = re.compile(r"[-+]*[0-9.,]*[0-9]%?")


@dataclass(frozen=True)
class Span:
    """A piece of text, never empty, and what the hidden states of its tokens are multiplied by."""

    text: str
    weight: float = 1.0


BREAK = Span("", 0.0)
"""Not text: a new chunk starts here."""


@dataclass(frozen=True)
class Emphasis:
    """`items` times the number that `tail` spells after its colon; where it spells none, both times `weight`."""

    items: "Items"
    tail: "Items"
    weight: float


@dataclass(frozen=True)
class Scheduled:
    """`before` for the first `when` steps (`is_part`: that part of all steps, rounded down), then `after`."""

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
    """One of the parts that AND joins, and its weight."""

    items: Items
    weight: float = 1.0

    def at(self, step: int, steps: int) -> tuple[Span, ...]:
        """What it says at step 0, 1, ... of `steps`; neighbours differ in weight, or one is `BREAK`."""
        groups = groupby(spans_at(self.items, step, steps), key=lambda span: (span.weight, span == BREAK))
        spans = []
        for (weight, is_break), group in groups:
            spans += group if is_break else [Span("".join(span.text for span in group), weight)]
        return tuple(spans)

    def schedule(self, steps: int) -> tuple[tuple[Span, ...], ...]:
        """What it says at each step; equal ones need encoding only once."""
        return tuple(self.at(step, steps) for step in range(steps))


@dataclass(frozen=True)
class Prompt:
    """What AND joins, at least one clause."""

    clauses: tuple[Clause, ...]


def parse(text: str, where: str = "prompt") -> Prompt:
    """Reads a prompt; `where`: what an error calls it.

    Raises InputError that shows the place: a bracket that is not closed (within its clause) or not opened, more than
    `DEEPEST` brackets within each other, a schedule without its number, a colon and a bar in one [ ], what looks like a
    number and is none, a weight beyond `HEAVIEST`, what calls weights or chooses words (`inference.called` reads that before).
    """
    if call := CALLS.search(text):
        remedy = "in prompts of infer.py it is; elsewhere leave it out, or write \\{ and \\} where brackets are text"
        raise Reader(text, where, [], True).error(call.start(), "what calls weights or chooses words is not obeyed here", remedy)
    clauses: list[list[re.Match]] = [[]]
    for token in TOKEN.finditer(text):
        if token[0] == "AND":
            clauses.append([])
        else:
            clauses[-1].append(token)
    return Prompt(tuple(Reader(text, where, tokens, alone=len(clauses) == 1).clause() for tokens in clauses))


def plain(text: str) -> Prompt:
    """The text as it stands, without any grammar."""
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
                    yield Span(span.text, span.weight * weight)  # a BREAK stays one


def weight_in(items: Sequence) -> float | None:
    """The number that is all that the items say."""
    text = text_of(items)
    return float(text) if text is not None and NUMBER.fullmatch(text) and abs(float(text)) <= HEAVIEST else None


def text_of(items: Sequence) -> str | None:
    """What the items say, without blanks around; None when they are more than plain text."""
    if all(isinstance(item, Span) and item.weight == 1 for item in items):
        return "".join(item.text for item in items).strip()
    return None


class Reader:
    """Recursive descent through the tokens of one clause; `alone`: the prompt has no other."""

    def __init__(self, text: str, where: str, tokens: list[re.Match], alone: bool):
        self.text, self.where, self.tokens, self.alone = text, where, iter(tokens), alone

    def clause(self) -> Clause:
        fields, marks = self.fields(None, 0)
        if not marks or self.alone:  # A1111 takes "a clock at 12:30" for "a clock at 12", thirty times
            return Clause(joined(fields))
        self.check_weight(fields[-1], marks[-1])
        weight = weight_in(fields[-1])
        return Clause(joined(fields)) if weight is None else Clause(joined(fields[:-1]), weight)

    def fields(self, opened: re.Match | None, depth: int) -> tuple[list[Items], list[re.Match]]:
        """All up to the end of the bracket (or clause), cut at its own colons and bars, and these marks."""
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
                    what = f"{mark} where {closing} is missing" if closing else f"{mark} closes no bracket"
                    raise self.error(token.start(), what, f"write \\{mark} where it is text")
                case text if text.strip() == "BREAK":
                    fields[-1].append(BREAK)
                case text if text != "\\":
                    fields[-1].append(Span(text.removeprefix("\\")))
        if opened:
            what = f"{opened[0]} is not closed" + ("" if self.alone else " on its side of AND")
            raise self.error(opened.start(), what, f"add {closing}, or write \\{opened[0]} where it is text")
        return [tuple(field) for field in fields], marks

    def bracket(self, opened: re.Match, depth: int) -> Emphasis | Scheduled | Alternating:
        if depth > DEEPEST:
            raise self.error(opened.start(), f"more than {DEEPEST} brackets within each other", "take a number: (word:1.3)")
        fields, marks = self.fields(opened, depth)
        if opened[0] == "[" and marks:
            return self.choice(fields, marks)
        if not marks:
            return Emphasis(fields[0], (), 1.1 if opened[0] == "(" else 1 / 1.1)
        self.check_weight(fields[-1], marks[-1])
        return Emphasis(joined(fields[:-1]), (Span(":"), *fields[-1]), 1.1)

    def choice(self, fields: list[Items], marks: list[re.Match]) -> Emphasis | Scheduled | Alternating:
        """What square brackets with colons or bars are."""
        if all(mark[0] == "|" for mark in marks):
            return Alternating(tuple(fields))
        other = next((mark for mark in marks if mark[0] != marks[0][0]), None)
        if other:
            remedy = "give one of the two brackets of its own, or write \\: or \\| where it is text"
            raise self.error(other.start(), "a colon and a bar in one [ ]", remedy)
        when = text_of(fields[-1])
        if when is not None and WHEN.fullmatch(when) and len(fields) <= 3:
            before, after = fields[:-1] if len(fields) == 3 else ((), fields[0])
            return Scheduled(before, after, float(when), "." in when)
        if len(fields) == 2 and not (when and LIKE_A_NUMBER.fullmatch(when)):
            return Emphasis(joined(fields), (), 1 / 1.1)
        what = "no number of a step" if len(fields) <= 3 else "more than two colons in one [ ]"
        remedy = "write [from:to:0.4] (a part of the steps) or [from:to:8] (a step), and \\: where a colon is text"
        raise self.error(marks[min(len(marks), 3) - 1].end(), what, remedy)

    def check_weight(self, field: Items, mark: re.Match) -> None:
        """Raises InputError when the field after the mark looks like a number, but is no weight."""
        text = text_of(field)
        if text and LIKE_A_NUMBER.fullmatch(text) and weight_in(field) is None:
            what = f"a weight beyond {HEAVIEST:g}" if NUMBER.fullmatch(text) else f"{text} is no number"
            raise self.error(mark.end(), what, "write a number such as 1.3, and \\: where a colon is text")

    def error(self, place: int, what: str, remedy: str) -> InputError:
        """Shows the place: the text around it on a line, and a caret under it."""
        place = min(place, len(self.text) - 1)
        start = max(place - 60, 0)
        shown = "".join(letter if letter.isprintable() else " " for letter in self.text[start : place + 40])
        return InputError(Problem(self.where, f"{what}\n    {shown}\n    {' ' * columns(shown[: place - start])}^", remedy))


def columns(text: str) -> int:
    """How many columns of a terminal a text takes: wide letters two, accents of their own none."""
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def joined(fields: Sequence[Items]) -> Items:
    """The fields with the colons between them as text."""
    return tuple(item for field in fields for item in (Span(":"), *field))[1:]
