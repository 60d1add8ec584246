"""`customize score RUN [RUN@STEP ...]`, `customize score FILE --photos DIR --prompt TEXT`: what weights have learned."""

from collections.abc import Sequence
from typing import Any

from customize.cli.flags.diffusers_flags import BOOLEANS
from customize.cli.main import main as with_settings
from customize.settings.field import table
from customize.settings.scoring import ScoreSettings

MODEL: Any = ScoreSettings


def main(argv: Sequence[str]) -> int:
    """Measure; return the exit status."""
    return with_settings(MODEL, run, with_flags(argv), check)


def run(settings: ScoreSettings) -> None:
    """See `score.after_the_fact.run`."""
    from customize.evaluation.score.after_the_fact import run

    run(settings)


def check(settings: ScoreSettings) -> None:
    """See `score.plan.plan`."""
    from customize.evaluation.score.plan import plan

    plan(settings)


def with_flags(argv: Sequence[str]) -> list[str]:
    """The words with --weights before those that belong to no flag, and numbers of --scales apart: `0.5,1` is two."""
    lines = table(ScoreSettings)
    weights: list[str] = []
    rest: list[str] = []
    name = ""
    for word in argv:
        if word.startswith("-"):
            name = word.lstrip("-").replace("-", "_")
            rest.append(word)
        elif name == "scales":
            rest += filter(None, word.split(","))
        elif (not name or (name in lines and lines[name].type is bool)) and word not in BOOLEANS and word != "help":
            weights.append(word)
        else:
            rest.append(word)
    return [*(["--weights", *weights] if weights else []), *rest]
