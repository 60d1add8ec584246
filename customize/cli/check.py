"""`customize check`: everything that is wrong with a set of pictures and captions, and whether a training run would start.

    customize check CONFIG.toml [--setting value ...]
    customize check FOLDER      [--setting value ...]

It looks at what every run looks at first (`customize.training.preflight`), and tells all of it. torch is not imported.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from customize import methods, missing_path
from customize.cli import main as cli
from customize.cli import problem_report as report
from customize.data.examples import Example, alike, blurred, small_pictures_note
from customize.errors import InputError, Problem, ResourceError
from customize.printable import first_few, printable
from customize.settings.files import shipped_configs, toml_file
from customize.settings.texts import text_fault
from customize.settings.training import TrainingSettings
from customize.storage import run_folder
from customize.storage.resources import resources
from customize.training import preflight

USAGE = """customize check CONFIG.toml [--setting value ...]
       customize check FOLDER      [--setting value ...]"""
EPILOG = """
CONFIG.toml and the settings are those of train_textual_inversion.py or train_dreambooth.py. A FOLDER is looked at for
DreamBooth, or with --placeholder_token for textual inversion; where neither base model nor resolution is given, for
Stable Diffusion 1.x. Refusals come first, then warnings. Exit status: 0 the run would start, 2 it would not."""
TRIGGER = "a word that every caption should hold; those that do not are listed"
SHEET = "a PNG to write: pictures that are nearly the same side by side, and blurred ones"
SIDE, MOST_ROWS = 256, 20
SOFTWARE = "customize check"


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser("customize check", USAGE, epilog=EPILOG, add_help=False, allow_abbrev=False)
    parser.add_argument("--trigger_word", "--trigger-word", help=TRIGGER)
    parser.add_argument("--output", help=SHEET)
    parser.add_argument("--help", "-h", action="store_true", help="show this and leave")
    own, rest = parser.parse_known_args(list(argv))
    if own.help:
        print(parser.format_help(), end="")
        return 0
    try:
        settings, notes = read(rest)
        if own.output is not None:
            own.output = os.path.expanduser(own.output)
            check_sheet(own.output, settings)
        report = preflight.examine(settings)
        every = preflight.with_lengths_for_the_hub(settings, report.source, report.examples)
        examples = every.instances
        without_word = [] if own.trigger_word is None else trigger_word_notes(examples, own.trigger_word)
        small = small_pictures_note(examples, report.resolution)
        warnings = [*without_word, *filter(None, [small]), *every.notes, *notes]
        tell(report.problems, warnings)
        say(summary(examples, report.resolution))
        if own.output:
            write_sheet(Path(own.output), examples)
    except InputError as error:
        tell(error.problems, [])
        return 2
    except ResourceError as error:
        print(printable(str(error)), file=sys.stderr)
        return 3
    return 2 if report.problems else 0


def read(argv: Sequence[str]) -> tuple[TrainingSettings, list[str]]:
    """The settings that the words stand for, and notes. Raises InputError."""
    if not argv or argv[0].startswith("-"):
        raise InputError(Problem("customize check", "has nothing to look at", "name a CONFIG.toml or a folder of pictures first"))
    target, rest = argv[0], list(argv[1:])
    _, given, _ = cli.arguments(TrainingSettings, rest)
    if wrong := not_checkable(target):
        raise InputError(wrong)
    if not Path(target).is_dir():
        named = {**toml_file.read(target)[0], **given}
        return cli.read(methods.settings_for(named), argv, preflight.check)
    kind = methods.settings_for(given)
    standing_in = {**kind.standing_in(target), "output_dir": f"{target.rstrip('/')}.run"}
    notes = []
    if not given.keys() & {"pretrained_model_name_or_path", "resolution"}:
        standing_in["resolution"] = "512"
        notes = ["looked at for Stable Diffusion 1.x: say --pretrained_model_name_or_path or --resolution for another"]
    words = [f"--{name}={value}" for name, value in standing_in.items() if name not in given]
    settings, more = cli.read(kind, [*rest, *words], preflight.check)
    return settings, notes + more


def not_checkable(target: str) -> Problem | None:
    """The problem of a word that is neither CONFIG.toml nor a folder of images; None where it may be one."""
    path = Path(os.path.expanduser(target)) if len(os.fsencode(target)) < 4000 else Path(target[:200])
    shown = printable(target)
    if path.is_dir():
        config = path / run_folder.CONFIG
        return (
            Problem(shown, "is the folder of a run", f"did you mean {printable(str(config))}?")
            if missing_path.is_run(path)
            else None
        )
    if missing_path.is_image_name(target):
        return Problem(shown, "is an image" if path.is_file() else "is not there", missing_path.folder_remedy(str(path)))
    if not os.path.lexists(path) and not target.lower().endswith(".toml") and not shipped_configs.config_path(target):
        return Problem(shown, "is neither a CONFIG.toml nor a folder", missing_path.folder_remedy(str(path)))
    return None


def trigger_word_notes(examples: Sequence[Example], word: str) -> list[str]:
    """A line on the pictures of which a caption lacks the word."""
    lacking = [example.name for example in examples if any(word not in caption for caption in example.captions)]
    return [f"no {printable(word)} in a caption of {len(lacking)} of {len(examples)} pictures: {first_few(lacking)}"] * bool(
        lacking
    )


def tell(problems: Sequence[Problem], notes: Sequence[str]) -> None:
    """All findings in one list: refusals, then warnings, a line each."""
    say(*report.lines(problems, "refused: "))
    for note in notes:
        say(f"warning: {note}")
    start = f"would not start: {len(problems)} to mend" if problems else "would start"
    say(f"{len(problems)} refusal{'s' * (len(problems) != 1)}, {len(notes)} warning{'s' * (len(notes) != 1)}; training {start}")


def summary(examples: Sequence[Example], resolution: int) -> str:
    """How many good pictures there are, from the smallest to the largest."""
    sizes = sorted({example.size for example in examples}, key=lambda size: size[0] * size[1])
    ends = list(dict.fromkeys(f"{width} x {height}" for width, height in sizes[:1] + sizes[-1:]))
    return f"{len(examples)} good pictures, {' to '.join(ends)}, for {resolution} pixels" if sizes else "no good picture"


def check_sheet(name: str, settings: TrainingSettings) -> None:
    """Raises InputError when a sheet of that name would take the place of something else, or lie among the pictures."""
    path, fault = Path(name), text_fault("path", name)
    pictures = [*settings.image_folders, settings.class_folder]
    inside = [folder for folder in pictures if folder and Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))]
    if fault or path.suffix.lower() != ".png":
        fault = fault or "does not end in .png"
    elif inside:
        fault = f"lies among the pictures of {inside[0]}"
    elif os.path.lexists(path) and not (path.is_file() and is_sheet(path)):
        fault = "is there already, and no sheet of this command"
    if fault:
        raise InputError(Problem("output", printable(f"{name[:200]} {fault}"), "name a PNG elsewhere, such as ../check.png"))
    run_folder.check_place("output", path.absolute().parent)


def is_sheet(path: Path) -> bool:
    """Whether `write_sheet` made it."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=["PNG"]) as image:
            return image.info.get("Software") == SOFTWARE
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def write_sheet(path: Path, examples: Sequence[Example]) -> None:
    """A PNG with pairs of pictures that are nearly the same, then the blurred ones; none when there are neither."""
    from customize.inference.explain.contact_sheet import contact_sheet
    from customize.storage.atomic import write_image

    pairs, soft = alike(examples), blurred(examples)
    rows = [(f"{one.name} and {other.name}", [one, other]) for one, other in pairs]
    rows += [(f"blurred: {' and '.join(one.name for one in soft[i : i + 2])}", soft[i : i + 2]) for i in range(0, len(soft), 2)]
    if not rows:
        return say(f"nothing to show: {path} is not written")
    labels = [printable(label) for label, _ in rows[:MOST_ROWS]]
    sheet = contact_sheet([[thumbnail(one) for one in row] for _, row in rows[:MOST_ROWS]], row_labels=labels)
    about = PngInfo()
    about.add_text("Software", SOFTWARE)
    with resources("close other programs", "make room, or name another --output"):
        write_image(path, sheet, pnginfo=about)
    say(f"{path}: {min(len(rows), MOST_ROWS)} of {len(rows)} rows of pictures that are nearly the same or blurred")


def thumbnail(example: Example) -> Image.Image:
    """The picture, at most `SIDE` pixels on its longer side."""
    image = example.open()
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return image


def say(*lines: str) -> None:
    """Prints lines, each kept in one line and harmless to a terminal."""
    for line in lines:
        print(printable(line))
