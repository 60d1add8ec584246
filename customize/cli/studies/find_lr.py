"""`customize find-lr CONFIG.toml [--setting value ...]`: a learning rate for a run, by a range test."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from signal import SIGINT
from time import perf_counter
from typing import Any

from customize import events, units
from customize.cli.main import outcome
from customize.cli.studies import any_method
from customize.errors import Interrupted
from customize.evaluation.studies import range_plot, range_test
from customize.next_command import command_line
from customize.settings.files import run_folders
from customize.storage import numbered_folders, ownership, run_folder
from customize.storage.atomic import write_text
from customize.storage.resources import resources

USAGE = """usage: customize find-lr CONFIG.toml [--setting value ...]

Trains for a short while with learning rates that rise from a thirtieth of the one that is set, until the loss on fixed samples
rises or becomes flat (Smith 2017). Prints the rate that follows, a tenth of that at which the loss rises, or that at which it
falls most steeply if it does not rise, and the command that trains with it. All settings are those of
train_textual_inversion.py or train_dreambooth.py; several learning rates rise together. The result of the training is
discarded; the curve is written into a new folder, runs/find-lr-0001, as find_lr.svg and find_lr.json.
Exit status: 0 done, also where no rate can be suggested; otherwise as for training.
"""
STEM = "find-lr"
DISCARDED: dict[str, Any] = {
    "output_dir": None, "overwrite_output_dir": False, "resume_from_checkpoint": None, "dry_run": False, "push_to_hub": False,
    "validation_prompt": (), "report_to": ("none",)
}  # fmt: skip
"""Settings of output that the test has no use for."""


def main(argv: Sequence[str]) -> int:
    """Run the test; return the exit status."""
    if not argv or {"--help", "-h"} & set(argv):
        print(USAGE, end="")
        return 0 if argv else 2
    return outcome("customize find-lr", lambda: run(argv))


def run(argv: Sequence[str]) -> int:
    """Check everything, measure, write the files and print the suggestion."""
    from customize.training import preflight

    settings, notes = any_method.read(argv, lambda settings: preflight.check(discarding(settings)))
    for note in notes:
        events.note(note)
    settings, began = discarding(settings), perf_counter()
    run_folder.check_place("runs", run_folders.PARENT)
    _, source, examples = preflight.check(settings)
    examples = preflight.with_lengths_for_the_hub(settings, source, examples)
    from customize.training.studies.rate_finder import measure

    curve = measure(settings, numbered_folders.next_folder(run_folders.PARENT, STEM), source, examples)
    with resources("close other programs", "make room"):
        folder = write(settings, curve)
    events.summarize("finished", rows(settings, argv, curve, folder, perf_counter() - began))
    if curve.ended == "interrupted":
        raise Interrupted(SIGINT, f"stopped; {folder} has what was measured")
    return 0


def discarding(settings: Any) -> Any:
    """The settings of a run whose result is discarded."""
    return settings.model_copy(update=DISCARDED)


def rates_of(settings: Any, factor: float = 1.0) -> dict[str, Any]:
    """The learning rates that are set, by setting, times a factor, with two digits."""
    rates = {"learning_rate": (settings.learning_rate,), **settings.other_learning_rates}
    own = dict(settings)
    given = {name: values for name, values in rates.items() if own[name] is not None}
    return {name: [float(f"{factor * value:.1e}") for value in values] for name, values in given.items()}


def write(settings: Any, curve: range_test.Curve) -> Path:
    """Writes the curve into a new folder, and returns it."""
    found = range_test.suggestion(curve)
    chosen = rates_of(settings, found.factor) if found.factor else None
    folder = numbered_folders.new_folder(run_folders.PARENT, STEM)
    with ownership.recording(folder):
        if len(curve.points) > 1:
            picture = range_plot.svg(curve, settings.learning_rate, chosen and chosen["learning_rate"][0])
            write_text(folder / "find_lr.svg", picture)
        values = {"rates": rates_of(settings), "suggested": chosen, "why": found.reason, **asdict(curve)}
        write_text(folder / "find_lr.json", json.dumps(values, indent=1) + "\n")
    return folder


def rows(settings: Any, argv: Sequence[str], curve: range_test.Curve, folder: Path, seconds: float):
    """The last lines: what was measured, the suggestion and why, the curve, the command to go on with."""
    if curve.points:
        ends = [f"{settings.learning_rate * point.factor:.1e}" for point in (curve.points[0], curve.points[-1])]
        yield "measured", f"{units.count(len(curve.points), 'rate')} from {ends[0]} to {ends[1]}, {units.duration(seconds)}"
    found = range_test.suggestion(curve)
    if found.factor:
        chosen = rates_of(settings, found.factor)
        yield "suggested", ", ".join(f"{name} {' '.join(map(str, values))}" for name, values in chosen.items())
        yield "", found.reason
    else:
        yield "suggested", f"none: {found.reason}"
    yield "curve", " and ".join(str(path) for path in sorted(folder.glob("find_lr.*"), reverse=True))
    if found.factor:
        config, _, flags = any_method.parsed(type(settings), argv)
        yield "next", command_line(settings.command, *filter(None, [config]), **{**flags, **chosen})
