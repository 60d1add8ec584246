"""Learning-rate schedules as functions of the step: a factor for the learning rate, in 0..1 except for `step_rules`.

Names and curves are those of diffusers' scripts. To add one, write a function here and decorate it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """The number of training and warm-up steps, and the options of the schedules."""

    max_train_steps: int
    warmup_steps: int = 0
    num_cycles: float = 1
    power: float = 1.0
    learning_rate: float = 1.0
    step_rules: str = "1"


SCHEDULES: dict[str, Callable[[float, Span], float]] = {}


def schedule(function: Callable[[float, Span], float]) -> Callable[[float, Span], float]:
    """Registers a function under its own name. Its argument is the progress after the warm-up, from 0 to 1."""
    SCHEDULES[function.__name__] = function
    return function


@schedule
def constant(progress: float, span: Span) -> float:
    """Constant, without warm-up."""
    return 1.0


@schedule
def constant_with_warmup(progress: float, span: Span) -> float:
    """Constant after the warm-up."""
    return 1.0


@schedule
def linear(progress: float, span: Span) -> float:
    """A straight line from 1 to 0."""
    return 1 - progress


@schedule
def cosine(progress: float, span: Span) -> float:
    """One half-wave, from 1 down to 0 (Loshchilov & Hutter 2017, "SGDR")."""
    return 0.5 * (1 + math.cos(math.pi * progress))


@schedule
def cosine_with_restarts(progress: float, span: Span) -> float:
    """`num_cycles` half-waves, each from 1 down to 0."""
    return cosine(span.num_cycles * progress % 1, span) if progress < 1 else 0.0


@schedule
def polynomial(progress: float, span: Span, end: float = 1e-7) -> float:
    """Decay to a learning rate of 1e-7 by a power of the remaining progress."""
    floor = end / span.learning_rate
    return floor + (1 - floor) * (1 - progress) ** span.power


@schedule
def piecewise_constant(progress: float, span: Span) -> float:
    """The constants of `step_rules`; `factor` calls `in_pieces` with the exact step."""
    return in_pieces(round(progress * span.max_train_steps), step_rules(span.step_rules))


StepRules = tuple[tuple[tuple[int, float], ...], float]
"""(step, factor before it) in ascending order, and the factor after the last step."""


def step_rules(text: str) -> StepRules:
    """Parses rules in diffusers' format: "1:10,0.1:20,0.01" is 1 up to step 10, 0.1 up to step 20, then 0.01.

    Raises ValueError that names the invalid piece.
    """
    *pieces, last = text.split(",")
    rules: dict[int, float] = {}
    for piece in pieces:
        value, colon, step = piece.partition(":")
        if not colon or not step.strip().isdecimal() or int(step) < 1:
            raise ValueError(f'"{piece.strip()}" is not FACTOR:STEP, such as 0.1:20')
        if int(step) in rules:
            raise ValueError(f"step {int(step)} appears twice")
        rules[int(step)] = _factor_of(value)
    return tuple(sorted(rules.items())), _factor_of(last)


def _factor_of(text: str) -> float:
    """Parses a factor from 0 to 1000."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1000:
        raise ValueError(f'"{text.strip()}" is not a factor from 0 to 1000')
    return value


def in_pieces(step: int, rules: StepRules) -> float:
    """The factor of a step."""
    pieces, last = rules
    return next((value for end, value in pieces if step < end), last)


def factor(name: str, step: int, span: Span) -> float:
    """The factor for `step`, counted from 0. `constant` and `piecewise_constant` have no warm-up, as in diffusers."""
    if name == "piecewise_constant":
        return in_pieces(step, step_rules(span.step_rules))
    if step < span.warmup_steps and name != "constant":
        return step / span.warmup_steps
    progress = min(1.0, (step - span.warmup_steps) / max(1, span.max_train_steps - span.warmup_steps))
    return SCHEDULES[name](progress, span)
