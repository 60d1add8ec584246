"""What is measured: a run or a file, its weights by step, and the concept that they were taught. torch is not imported."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from customize.errors import InputError, Problem
from customize.evaluation.report.facts import settings_of
from customize.families.trigger_words import calls, rare_words
from customize.next_command import command_line
from customize.printable import printable
from customize.settings.concept import Concept, noun_of, of_prompts
from customize.settings.scoring import ScoreSettings
from customize.storage import checkpoint, run_folder
from customize.storage.json_files import read_object
from customize.weights.learned_weights import Learned, complete_model, find_learned

SETTING = "weights"
NO_NOUN = ([], *([word] for word in "a an the of in by".split()))
"""The last words of prompts that do not name a class."""


@dataclass(frozen=True)
class Target:
    """Weights to measure. path: as infer.py takes them; model: the complete model that they are, if they are one."""

    step: int
    path: Path
    model: Path | None = None


@dataclass(frozen=True)
class Subject:
    """What is measured. run: its folder, None for a file; settings: of the run; targets: its weights, by step; result: the step
    of the run's result, None while there is none."""

    run: Path | None
    settings: Any
    targets: tuple[Target, ...]
    result: int | None

    @property
    def name(self) -> str:
        """The run or the file."""
        return str(self.run or self.targets[0].path)


def find(settings: ScoreSettings) -> Subject:
    """The run or the file that the settings name. Raises InputError."""
    runs = dict.fromkeys(run_of(Path(each)) for each in settings.weights)
    if len(runs) > 1 or (None in runs and len(settings.weights) > 1):
        what = "names several runs or files"
        raise InputError(Problem(SETTING, what, "score one at a time: a file, or a run and steps of it, RUN@350 RUN@500"))
    run = next(iter(runs))
    return of_file(Path(settings.weights[0])) if run is None else of_run(run, [Path(each) for each in settings.weights], settings)


def run_of(path: Path) -> Path | None:
    """The run that a path names: its folder, RUN@STEP, or a folder of its weights; None for other weights."""
    named = run_folder.AT_STEP.fullmatch(str(path))
    inside = path.parent.parent if checkpoint.is_name(path.name) else None
    candidates = [path, *([Path(named[1])] if named else []), *([inside] if inside else [])]
    return next((each for each in candidates if (each / run_folder.CONFIG).is_file()), None)


def of_file(path: Path) -> Subject:
    """The weights of a file or a folder. Raises InputError."""
    model = complete_model(path)
    if model is None:
        find_learned("demo", [(path, 1.0)]) if not path.exists() else None
    return Subject(None, None, (Target(1, path, model),), 1)


def of_run(run: Path, paths: list[Path], settings: ScoreSettings) -> Subject:
    """A run, with the weights of the steps that the paths name: all of it that are saved, and its result, if they name none.
    Raises InputError."""
    run_folder.settle(run)
    of_it = settings_of(run)
    if of_it is None:
        raise InputError(Problem(str(run / run_folder.CONFIG), "cannot be read", "give a file of the run, with --photos"))
    if of_it.untrained:
        what = f"{run} began with {of_it.start_label}: there is no base model that its pictures could be compared with"
        draw = command_line("infer.py", weights=run, prompt=of_it.default_validation_prompts[-1])
        raise InputError(Problem(SETTING, printable(what), printable(f"look at what it draws: {draw}")))
    result = step_of_result(run)
    steps = [target_at(path) for path in paths if path != run]
    if not steps and settings.scales:
        steps = [Target(result, run)] if result is not None else list(saved(run))[-1:]
    found = steps or [*saved(run), *([] if result is None else [Target(result, run)])]
    if not found:
        what = f"{run} has no weights yet, neither a result nor intermediate ones"
        raise InputError(Problem(SETTING, printable(what), "resume the run, or wait for its first weights"))
    by_step = {each.step: replace(each, model=complete_model(each.path)) for each in found}
    return Subject(run, of_it, tuple(by_step[step] for step in sorted(by_step)), result)


def target_at(path: Path) -> Target:
    """The weights that RUN@STEP names, or a folder with the weights of a step. Raises InputError."""
    folder = run_folder.at_step(path)
    named = run_folder.AT_STEP.fullmatch(str(path))
    return Target(checkpoint.step_of(path) if checkpoint.is_name(path.name) else int(named[2]) if named else 0, folder)


def saved(run: Path) -> Iterator[Target]:
    """The intermediate weights of a run, of checkpoints where it has no others, by step."""
    for name in (run_folder.WEIGHTS, run_folder.CHECKPOINTS):
        if intact := [path for path in reversed(checkpoint.every(run / name)) if not checkpoint.faults(path)]:
            yield from (Target(checkpoint.step_of(path), path) for path in intact)
            return


def step_of_result(run: Path) -> int | None:
    """The step of a run's result; None if it has none."""
    try:
        step = read_object(run / run_folder.METADATA)["steps"]
    except (OSError, ValueError, KeyError):
        return None
    return step if type(step) is int and step > 0 else None


def concept_of(settings: ScoreSettings, subject: Subject, learned: Learned | None) -> Concept:
    """What is measured, as prompts call it. Raises InputError where the settings do not say enough."""
    if subject.settings:
        return as_called(settings, subject.settings.concepts[place_of_concept(settings, subject)])
    if settings.prompt is None:
        what = "is missing: a file does not say how prompts call what it learned"
        raise InputError(Problem("prompt", what, "set it, such as `a photo of sks dog`, with --class_prompt `a photo of dog`"))
    words = [word for word in (learned.trigger_words if learned else ()) if len(word.split()) == 1]  # others are prompts
    known = tuple(word for word in words if calls(settings.prompt, [word]))
    if settings.style:
        return Concept("style", after_content(settings.prompt), "", " ".join(known or rare_words(settings.prompt)), "")
    plain = settings.class_prompt
    added = tuple(word for word in settings.prompt.split() if plain and word not in plain.split())
    made = of_prompts(settings.prompt, plain, added or known or rare_words(settings.prompt, plain))
    if made.kind != "style" and (made.plain == settings.prompt or made.plain.split()[-1:] in NO_NOUN):
        what = "is missing: the words of prompt do not show what the base model would call the concept"
        raise InputError(Problem("class_prompt", what, "set it, such as `a photo of dog`, or add --style"))
    return made


def place_of_concept(settings: ScoreSettings, subject: Subject) -> int:
    """Which concept of a run is measured. Raises InputError where a run teaches several, and the prompt calls none or two."""
    concepts = subject.settings.concepts
    called = [place for place, each in enumerate(concepts) if settings.prompt and calls(settings.prompt, each.trigger.split())]
    if not concepts[1:]:
        return 0
    if len(called) != 1:
        what = f"{subject.name} teaches {len(concepts)} concepts, and one is measured at a time"
        remedy = (
            f'give --prompt with the words of one, such as "{concepts[0].prompt}"; what the run measured of each is in its report'
        )
        raise InputError(Problem("prompt", printable(what), printable(remedy)))
    return called[0]


def as_called(settings: ScoreSettings, own: Concept) -> Concept:
    """The concept of a run, called by the words of the settings, right or wrong."""
    prompt, plain = settings.prompt or own.prompt, settings.class_prompt or own.plain
    if prompt == own.prompt and plain == own.plain:
        return own
    prompt = after_content(prompt) if own.kind == "style" else prompt
    trigger = " ".join(word for word in prompt.split() if word not in plain.split())
    word = own.class_word if plain == own.plain else noun_of(plain)
    return replace(own, prompt=prompt, plain=plain, trigger=trigger or own.trigger, class_word=word)


def after_content(prompt: str) -> str:
    """What follows the content in a prompt of a style: "in sks style" of "a house in sks style"."""
    return f"in {prompt.rpartition(' in ')[2]}" if " in " in prompt else prompt
