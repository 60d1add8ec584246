"""The command `customize score`: checks everything, measures, and says what came of it. torch is imported after all checks."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from customize import device as machine
from customize import events, units
from customize.errors import InputError, Interrupted
from customize.evaluation import record, report, verdict_words
from customize.evaluation.choice import as_good, choose, scores, within_limits
from customize.evaluation.record import BASE, Candidate, Evaluation
from customize.evaluation.score.plan import Plan, plan
from customize.evaluation.statistics import compare
from customize.evaluation.verdict import verdict_of
from customize.inference.run.base_summary import Rows
from customize.inference.run.command import raised_signals
from customize.next_command import options
from customize.printable import first_few, printable
from customize.settings.files import run_folders
from customize.settings.scoring import ScoreSettings
from customize.storage import numbered_folders, run_folder
from customize.storage.atomic import write_text
from customize.storage.resources import resources
from customize.storage.run_folder import REPORT

STEM = "score"
SHOWN = ("likeness", "obedience", "drift", "copying")
"""Measures in the line of each step."""
FOR_MEMORY, FOR_DISK = "use --mixed_precision bf16, or close other programs", "free some space, and repeat the command"


def run(settings: ScoreSettings) -> Evaluation:
    """Measures what the settings ask for, and writes record, pictures and report.

    Raises InputError before anything is written; ResourceError, NumericsError and Interrupted with what was measured kept.
    """
    found = plan(settings)
    if found.missing:
        with raised_signals(), resources(FOR_MEMORY, FOR_DISK):
            if problems := machine.fp16_problem(found.precision, machine.best_device().type):
                raise InputError(problems)
            folder = found.folder or numbered_folders.new_folder(run_folders.PARENT, STEM)
            events.summarize("started", before(found, folder))
            with run_folder.claimed(folder):
                evaluation = measured(found, folder)
    else:
        folder, evaluation = found.folder or Path(found.subject.name), found.evaluation
        events.info("everything is measured already; --again measures it again")
    for candidate in evaluation.candidates:
        if candidate.values:
            events.info(line(evaluation, candidate))
    events.summarize("finished", after(found, evaluation, folder))
    return evaluation


def measured(found: Plan, folder: Path) -> Evaluation:
    """Measures, and writes the files."""
    from customize.evaluation.score.measuring import measure

    try:
        evaluation = measure(found, folder)
    except Interrupted as error:
        where = "" if found.folder else f" --output_dir {folder}"
        raise Interrupted(error.signal, f"stopped; the same command{where} goes on, with what {folder} has already") from error
    if evaluation.chosen is None:
        evaluation = replace(evaluation, chosen=choose(evaluation))
    if evaluation.verdict is None or has_pictures(evaluation, evaluation.chosen):
        evaluation = replace(evaluation, verdict=verdict_of(evaluation))
    write_text(folder / record.FOLDER / record.NAME, evaluation.to_json())
    report.write(folder)
    return evaluation


def has_pictures(evaluation: Evaluation, step: int | None) -> bool:
    """Whether pictures of a step were measured."""
    found = evaluation.candidate(step) if step is not None else None
    return found is not None and bool(found.values)


def before(found: Plan, folder: Path) -> Rows:
    """The rows before the first picture: what is measured, against what, and where it goes."""
    steps = list(dict.fromkeys(target.step for target, _ in found.missing))
    what = found.subject.name
    if found.subject.run:
        what += f", step{'s' * (len(steps) > 1)} {first_few([f'{step:,}' for step in steps], 8)}"
    scales = sorted({scale for _, scale in found.missing})
    yield "weights", printable(what + (f", at scales {', '.join(f'{each:g}' for each in scales)}" if len(scales) > 1 else ""))
    base = units.count(len(found.evaluation.pairs), "picture")
    yield "pictures", f"{base} of each and of the base model, of {found.options['num_inference_steps']} denoising steps"
    concept = found.evaluation.prompts[0]
    yield "prompts", printable(f'such as "{concept.text}", against "{concept.plain}"')
    yield "photos", printable(f"{len(found.photos):,}; {found.evaluation.scorer}")
    yield "folder", printable(f"{folder}{f' ({found.why})' if found.why else ''}")


def line(evaluation: Evaluation, candidate: Candidate) -> str:
    """The numbers of weights, with their intervals."""
    numbers = verdict_words.numbers(evaluation, candidate)
    name = "base model" if candidate.step == BASE else f"step {candidate.step:,}"
    name += f" at {candidate.scale:g}" if candidate.scale != 1 else ""
    return f"{name}: " + (", ".join(f"{each} {numbers[each]}" for each in SHOWN if each in numbers) or "not measurable")


def after(found: Plan, evaluation: Evaluation, folder: Path) -> Rows:
    """The last rows: the verdict as at the end of a run, whether another step or scale is better, and the files."""
    name = found.subject.name
    yield from verdict_words.rows(evaluation, Path(name))
    if found.subject.run and (step := better_step(evaluation)):
        yield "better", printable(f"the weights of step {step:,}: infer.py {options(weights=f'{name}@{step}')}")
    for step, scales in best_scales(evaluation):
        at = f"{name}@{step}" if found.subject.run and step != evaluation.chosen else name
        ties = f"; not distinguishable: {', '.join(f'{each:g}' for each in scales[1:])}" if scales[1:] else ""
        yield "scale", printable(f"{scales[0]:g} is best{ties}: infer.py {options(weights=f'{at}:{scales[0]:g}')}")
    yield "files", printable(f"{folder / REPORT} and {record.place_of(folder)}")


def better_step(evaluation: Evaluation) -> int | None:
    """A step that is better than the chosen one: by its score, or because only it is within limits."""
    best, chosen = choose(evaluation), evaluation.chosen
    if best is None or chosen is None or best == chosen or not has_pictures(evaluation, chosen):
        return None
    one, other = evaluation.candidate(best), evaluation.candidate(chosen)
    if one is None or other is None or "likeness" not in other.values:
        return None
    if within_limits(one) and not within_limits(other):
        return best
    groups = [pair.prompt for pair in evaluation.pairs_of("likeness")]
    return best if compare(scores(one).tolist(), scores(other).tolist(), groups, "high") == "better" else None


def best_scales(evaluation: Evaluation) -> Iterator[tuple[int, list[float]]]:
    """For each step that was measured at several scales: the best scale, and those that are within a standard error of it."""
    for step in sorted({each.step for each in evaluation.candidates if each.scale != 1}):
        found = [each for each in evaluation.candidates if each.step == step and "likeness" in each.values]
        found = [each for each in found if within_limits(each)] or found
        if found:
            best = max(found, key=lambda each: np.mean(scores(each)))
            yield step, [best.scale, *(each.scale for each in found if each is not best and as_good(evaluation, each, best))]
