"""`customize check`: lists all problems of training images and captions, and whether a training run would start.

    customize check CONFIG.toml [--setting value ...]
    customize check FOLDER      [--setting value ...]

It runs the checks that start every run (`customize.training.preflight`) and prints all findings. No torch.
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
from customize.data import bucket_report
from customize.data.examples import Example
from customize.data.peculiarities import blurred, near_duplicate_pairs
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
CONFIG.toml and the settings are those of train_textual_inversion.py or train_dreambooth.py. A FOLDER is checked for
DreamBooth, or with --placeholder_token for textual inversion; without a base model or resolution, it is checked for
Stable Diffusion 1.x. Errors are listed first, then warnings. Exit status: 0 the run would start, 2 it would not."""
TRIGGER = "a word that every caption should contain; images whose captions lack it are listed"
SHEET = "write a contact sheet to this PNG: near-duplicate images side by side, and blurred images"
SIDE, MOST_ROWS = 256, 20
SOFTWARE = "customize check"


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser("customize check", USAGE, epilog=EPILOG, add_help=False, allow_abbrev=False)
    parser.add_argument("--trigger_word", "--trigger-word", help=TRIGGER)
    parser.add_argument("--output", help=SHEET)
    parser.add_argument("--help", "-h", action="store_true", help="show this help and exit")
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
        sizes = bucket_report.notes(settings, examples, report.resolution)
        warnings = [*without_word, *sizes, *every.notes, *notes]
        print_findings(report.problems, warnings)
        say(summary(examples, report.resolution))
        say(*(f"{title}: {text}" for title, text in bucket_report.rows(settings, examples, report.resolution)))
        if own.output:
            write_sheet(Path(own.output), examples)
    except InputError as error:
        print_findings(error.problems, [])
        return 2
    except ResourceError as error:
        print(printable(str(error)), file=sys.stderr)
        return 3
    return 2 if report.problems else 0


def read(argv: Sequence[str]) -> tuple[TrainingSettings, list[str]]:
    """The settings given by the arguments, and notes. Raises InputError."""
    if not argv or argv[0].startswith("-"):
        raise InputError(Problem("customize check", "has nothing to check", "give a CONFIG.toml or a folder of images first"))
    target, rest = argv[0], list(argv[1:])
    _, given, _ = cli.arguments(TrainingSettings, rest)
    if wrong := not_checkable(target):
        raise InputError(wrong)
    if not Path(target).is_dir():
        named = {**toml_file.read(target)[0], **given}
        return cli.read(methods.settings_for(named), argv, preflight.check)
    kind = methods.settings_for(given)
    standing_in = {**kind.standing_in(target, given), "output_dir": f"{target.rstrip('/')}.run"}
    notes = []
    if not given.keys() & {"pretrained_model_name_or_path", "resolution"}:
        standing_in["resolution"] = "512"
        notes = ["checked for Stable Diffusion 1.x; for another model give --pretrained_model_name_or_path or --resolution"]
    words = [f"--{name}={value}" for name, value in standing_in.items() if name not in given]
    settings, more = cli.read(kind, [*rest, *words], preflight.check)
    return settings, notes + more


def not_checkable(target: str) -> Problem | None:
    """The problem of an argument that is neither CONFIG.toml nor a folder of images; None if it may be one."""
    path = Path(os.path.expanduser(target)) if len(os.fsencode(target)) < 4000 else Path(target[:200])
    shown = printable(target)
    if path.is_dir():
        config = path / run_folder.CONFIG
        return Problem(shown, "is a run folder", f"did you mean {printable(str(config))}?") if missing_path.is_run(path) else None
    if missing_path.is_image_name(target):
        return Problem(shown, "is an image" if path.is_file() else "does not exist", missing_path.folder_remedy(str(path)))
    if not os.path.lexists(path) and not target.lower().endswith(".toml") and not shipped_configs.config_path(target):
        return Problem(shown, "is neither a CONFIG.toml nor a folder", missing_path.folder_remedy(str(path)))
    return None


def trigger_word_notes(examples: Sequence[Example], word: str) -> list[str]:
    """A line that lists the images with a caption that lacks the word."""
    lacking = [example.name for example in examples if any(word not in caption for caption in example.captions)]
    return [f"no {printable(word)} in a caption of {len(lacking)} of {len(examples)} images: {first_few(lacking)}"] * bool(
        lacking
    )


def print_findings(problems: Sequence[Problem], notes: Sequence[str]) -> None:
    """Print all findings: errors, then warnings, and the totals."""
    say(*report.lines(problems, "error: "))
    for note in notes:
        say(f"warning: {note}")
    start = f"would not start: {len(problems)} to fix" if problems else "would start"
    say(f"{len(problems)} error{'s' * (len(problems) != 1)}, {len(notes)} warning{'s' * (len(notes) != 1)}; training {start}")


def summary(examples: Sequence[Example], resolution: int) -> str:
    """The number of usable images, and their smallest and largest size."""
    sizes = sorted({example.size for example in examples}, key=lambda size: size[0] * size[1])
    ends = list(dict.fromkeys(f"{width} x {height}" for width, height in sizes[:1] + sizes[-1:]))
    return f"{len(examples)} usable images, {' to '.join(ends)}, for {resolution} pixels" if sizes else "no usable image"


def check_sheet(name: str, settings: TrainingSettings) -> None:
    """Raise InputError if the contact sheet would replace another file or lie among the training images."""
    path, fault = Path(name), text_fault("path", name)
    folders = [*settings.image_folders, *(part.class_folder for part in settings.parts)]
    inside = [folder for folder in folders if folder and Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))]
    if fault or path.suffix.lower() != ".png":
        fault = fault or "does not end in .png"
    elif inside:
        fault = f"is in the image folder {inside[0]}"
    elif os.path.lexists(path) and not (path.is_file() and is_sheet(path)):
        fault = "exists and was not written by this command"
    if fault:
        raise InputError(Problem("output", printable(f"{name[:200]} {fault}"), "give a PNG elsewhere, such as ../check.png"))
    run_folder.check_place("output", path.absolute().parent)


def is_sheet(path: Path) -> bool:
    """Whether the file was written by `write_sheet`."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=["PNG"]) as image:
            return image.info.get("Software") == SOFTWARE
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def write_sheet(path: Path, examples: Sequence[Example]) -> None:
    """Write a PNG with pairs of near-duplicate images, then the blurred ones; nothing if there are neither."""
    from customize.inference.explain.contact_sheet import contact_sheet
    from customize.storage.atomic import write_image

    pairs, soft = near_duplicate_pairs(examples), blurred(examples)
    rows = [(f"{one.name} and {other.name}", [one, other]) for one, other in pairs]
    rows += [(f"blurred: {' and '.join(one.name for one in soft[i : i + 2])}", soft[i : i + 2]) for i in range(0, len(soft), 2)]
    if not rows:
        return say(f"no near-duplicate or blurred images: {path} was not written")
    labels = [printable(label) for label, _ in rows[:MOST_ROWS]]
    sheet = contact_sheet([[thumbnail(one) for one in row] for _, row in rows[:MOST_ROWS]], row_labels=labels)
    about = PngInfo()
    about.add_text("Software", SOFTWARE)
    with resources("close other programs", "make room, or give another --output"):
        write_image(path, sheet, pnginfo=about)
    say(f"{path}: {min(len(rows), MOST_ROWS)} of {len(rows)} rows of near-duplicate or blurred images")


def thumbnail(example: Example) -> Image.Image:
    """The image, at most `SIDE` pixels on its longer side."""
    image = example.open()
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return image


def say(*lines: str) -> None:
    """Print lines, each on one line and without control characters."""
    for line in lines:
        print(printable(line))
