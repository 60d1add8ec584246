"""`customize compare CONFIG.toml --methods ... --learning_rates ... --seeds N`: the same photos taught in several ways."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from customize import events, units
from customize.cli.main import outcome
from customize.cli.studies import any_method
from customize.errors import InputError, Interrupted, Problem
from customize.evaluation import record
from customize.evaluation.studies.comparison import Result, conclusion, markdown
from customize.evaluation.studies.comparison_grid import grid
from customize.next_command import command_line, quoted
from customize.settings.field import table
from customize.settings.files import run_folders
from customize.settings.suggestions import nearest
from customize.settings.texts import text_fault
from customize.storage import numbered_folders, run_folder
from customize.storage.atomic import write_image, write_text
from customize.storage.json_files import read_object
from customize.storage.resources import resources
from customize.storage.run_log import read_log
from customize.training.studies.comparison_plan import Comparison, PlannedRun, method_names, method_of

USAGE = f"""usage: customize compare CONFIG.toml [--methods METHOD ...] [--learning_rates RATE ...] [--seeds N]
                         [--print_commands] [--output_dir FOLDER] [--setting value ...]

Teaches the images of CONFIG.toml in several ways, one after another: each METHOD at each RATE with N seeds. Prints a table and
which way is best for these images, and writes both into a folder, with a grid of pictures.

  --methods         {", ".join(method_names())}; default: that of CONFIG.toml
  --learning_rates  for all methods, as in 1e-4,3e-4, or for one, as in lora:1e-4,3e-4; default: those of the methods
  --seeds           runs of each method and rate with different seeds; default: 1
  --print_commands  train nothing: print the command of each run, for a scheduler of your own, and at last this one
  --output_dir      the folder of all runs; default: a new one, runs/compare-0001. Finished runs in it are kept and stopped ones
                    resumed, so the same command goes on where it was interrupted

All settings are those of train_textual_inversion.py or train_dreambooth.py. Exit status: as for training.
"""
STEM, TABLE, GRID, RECORD = "compare", "comparison.md", "comparison.png", "comparison.json"
MOST = {"methods": 100, "learning_rates": 100, "seeds": 1, "print_commands": 0, "output_dir": 1}
"""The flags of this command, and how many values they take."""
MOST_SEEDS = 100


def main(argv: Sequence[str]) -> int:
    """Run the comparison; return the exit status."""
    if not argv or {"--help", "-h"} & set(argv):
        print(USAGE, end="")
        return 0 if argv else 2
    return outcome("customize compare", lambda: run(argv))


def run(argv: Sequence[str]) -> int:
    """Check everything, train what is not done, and print the table."""
    from customize.training.studies import comparison_runs

    own, rest = split(argv)
    planned, notes = read(own, rest)
    runs, more, problems = planned.runs()
    for note in [*notes, *more]:
        events.warn(note)  # on standard error, apart from the commands
    if problems := problems or comparison_runs.check(runs):
        raise InputError(problems)
    if "output_dir" not in own and "print_commands" not in own:
        planned.folder = numbered_folders.new_folder(run_folders.PARENT, STEM)
        runs, _, _ = planned.runs()
    again = " ".join(map(quoted, ["customize", "compare", *again_with(argv, planned.folder)]))
    if "print_commands" in own:
        print(*(command_line(run.settings.command, **run.values) for run in runs), again, sep="\n")
        return 0
    events.info(f"{units.count(len(runs), 'run')} in {planned.folder}; stopped at any time, this goes on:\n    {again}")
    with run_folder.claimed(planned.folder), resources("close other programs", "make room, and repeat the command"):
        failed = earlier_failures(planned.folder)
        try:
            comparison_runs.train(runs, failed)
        except Interrupted as error:
            raise Interrupted(error.signal, f"stopped; to go on:\n    {again}") from error
        finally:
            finish(planned.folder, runs, failed)
    return 0


def split(argv: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The values of this command's own flags, and the other words. Several values are separated by commas or blanks."""
    own: dict[str, list[str]] = {}
    rest: list[str] = []
    name = ""
    for word in argv:
        flag, equals, value = word.removeprefix("--").partition("=")
        if word.startswith("--"):
            name = flag.replace("-", "_")
            if name in MOST:
                own.setdefault(name, []).extend(parts(name, value) if equals else [])
                continue
        elif name in MOST and len(own[name]) < MOST[name] and not word.endswith(".toml"):
            own[name] += parts(name, word)
            continue
        rest.append(word)
    return own, rest


def parts(name: str, word: str) -> list[str]:
    """The values of a word after a flag; each of `lora:1e-4,3e-4` is of lora."""
    if MOST[name] == 1:
        return [word]
    first, *others = word.split(",")
    method, mark, _ = first.rpartition(":")
    return [first, *(each if mark in each else f"{method}{mark}{each}" for each in others)] if mark else [first, *others]


def read(own: Mapping[str, list[str]], rest: Sequence[str]) -> tuple[Comparison, list[str]]:
    """What is to be compared, and notes. Raises InputError with all problems."""
    from customize.training import preflight

    problems = list(own_problems(own))
    base, notes = None, []
    try:
        base, notes = any_method.read(rest, lambda settings: preflight.check(settings.model_copy(update={"output_dir": None})))
        if len(base.placeholders) > 1:
            problems.append(Problem("placeholder_token", "names several concepts", "compare ways to learn one of them"))
    except InputError as error:
        problems += error.problems
    if problems or base is None:
        raise InputError(problems)
    folder = Path(own["output_dir"][0]) if "output_dir" in own else numbered_folders.next_folder(run_folders.PARENT, STEM)
    rates: dict[str, list[float]] = {}
    for text in own.get("learning_rates", ()):
        method, _, rate = text.rpartition(":")
        rates.setdefault(method, []).append(float(rate))
    seeds = int(own.get("seeds", ["1"])[0])
    return Comparison(base, given_names(base, rest), own.get("methods") or [method_of(base)], rates, seeds, folder), notes


def own_problems(own: Mapping[str, list[str]]) -> Iterator[Problem]:
    """What is wrong with the values of this command's own flags."""
    known = method_names()
    for name, values in own.items():
        if not values and name != "print_commands":
            yield Problem(f"--{name}", "has no value", "`customize compare --help` shows an example")
    for method in own.get("methods", ()):
        if method not in known:
            near = nearest(method, known)
            yield Problem(
                "--methods", f'"{method}" is unknown', f"did you mean {near}?" if near else f"one of {', '.join(known)}"
            )
    for text in own.get("learning_rates", ()):
        method, _, rate = text.rpartition(":")
        if not 0 < number(rate) <= 10:
            yield Problem("--learning_rates", f'"{text}" has no number above 0, at most 10', "write 1e-4, or lora:1e-4")
        if method and method not in own.get("methods", ()):
            yield Problem("--learning_rates", f'"{text}" is of a method that is not compared', f"add {method} to --methods")
    for text in own.get("seeds", ()):
        if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= MOST_SEEDS:
            yield Problem(
                "--seeds", f'"{text}" is not a whole number from 1 to {MOST_SEEDS}', "give the number of runs of each kind"
            )
    for fault in filter(None, (text_fault("path", each) for each in own.get("output_dir", ()))):
        yield Problem("--output_dir", fault, "name a folder")


def number(text: str) -> float:
    """The number that a text is; 0 for any other text."""
    try:
        return float(text)
    except ValueError:
        return 0.0


def given_names(base: Any, rest: Sequence[str]) -> set[str]:
    """The names of the settings that the user gave in CONFIG.toml and flags; by names of other programs if they changed them."""
    lines, own = table(type(base)), dict(base)
    _, in_file, flags = any_method.parsed(type(base), rest)
    defaults = {name: line.default for name, line in lines.items()}
    chosen = {name: own[name] for name in ("adapter",) if name in own}
    defaults = {**defaults, **type(base).completed(chosen), **{name: defaults[name] for name in chosen}}
    changed = {name for name, value in own.items() if value != defaults[name]}
    return changed | ({*in_file, *flags} & lines.keys())


def again_with(argv: Sequence[str], folder: Path) -> list[str]:
    """The arguments that go on in this folder."""
    words = [word for word in argv if word.replace("-", "_") != "__print_commands"]
    return words if "output_dir" in split(argv)[0] else [*words, "--output_dir", str(folder)]


def earlier_failures(folder: Path) -> dict[str, str]:
    """The runs whose numbers became NaN or infinite when the comparison was begun, by the name of their folder."""
    try:
        failed = read_object(folder / RECORD).get("failed", {})
    except (OSError, ValueError):
        return {}
    return {str(name): str(why) for name, why in failed.items()} if isinstance(failed, dict) else {}


def finish(folder: Path, runs: Sequence[PlannedRun], failed: Mapping[str, str]) -> None:
    """Write table, conclusion and grid of what is done so far, and print them."""
    results = [result_of(run, failed.get(run.folder.name, "")) for run in runs]
    text, said = markdown(results), conclusion(results)
    about = json.dumps({"failed": dict(failed), "runs": [run.folder.name for run in runs], "conclusion": said}, indent=1)
    write_text(folder / RECORD, about + "\n")
    write_text(folder / TABLE, f"{text}\n\n" + "\n".join(f"- {line.strip()}" for line in said) + "\n")
    shown = [
        (result, run.folder) for result, run in zip(results, runs, strict=True) if run.settings.seed == runs[0].settings.seed
    ]
    if sheet := grid(shown):
        write_image(folder / GRID, sheet)
    events.info(f"\n{text}\n")
    events.info("\n".join(said))
    files = [folder / name for name in (TABLE, GRID) if (folder / name).exists()]
    events.summarize("finished", [("look at", " and ".join(map(str, files)))])


def result_of(run: PlannedRun, failed: str) -> Result:
    """What came of a run, from the files in its folder."""
    from customize.training.studies.comparison_runs import size_of

    evaluation = None
    with suppress(FileNotFoundError, InputError):
        evaluation = record.read(run.folder)
    rate, seed = run.settings.learning_rate, run.settings.seed
    lines = [json.loads(line) for step, line in read_log(run.folder / run_folder.LOG) if step is not None]
    steps = lines[-1]["step"] if lines else None
    seconds = sum(line["seconds"] for line in lines if isinstance(line.get("seconds"), int | float)) or None
    return Result(run.label, run.method, rate, seed, evaluation, steps, seconds, size_of(run.folder), failed)
