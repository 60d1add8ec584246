"""`customize show FILE...`: what is in files of weights, in words or as JSON."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from customize.cli.main import outcome
from customize.cli.parser import Parser
from customize.printable import printable

USAGE = "customize show FILE... [--json]"
ABOUT = """Tells what is in files of weights: kind, layout and the programs that read it, base model, ranks and alphas by group of
layers, trigger words, and what the metadata say of the training. Nothing is loaded. FILE may be a folder of a run or a model."""


def main(argv: Sequence[str]) -> int:
    """Describe files; return the exit status."""
    if {"--help", "-h"} & set(argv):
        print(parser().format_help(), end="")
        return 0
    return outcome("customize show", lambda: run(argv))


def run(argv: Sequence[str]) -> int:
    """Describe the files that the arguments name."""
    from customize.families.source import INCLUDED
    from customize.weights.learned_weights import complete_model
    from customize.weights.tools.description import in_words, without_nan
    from customize.weights.tools.inspection import describe
    from customize.weights.weight_file import files_of

    given = parser().read(argv)
    paths = [
        (path, complete_model(path)) for path in (INCLUDED.get(name, Path(os.path.expanduser(name))) for name in given.files)
    ]
    files = [file for path, model in paths for file in ([model] if model else files_of(path))]
    found = [describe(file) for file in files]
    if given.json:
        found = without_nan(found)
        print(json.dumps(found if len(found) > 1 else found[0], indent=2, ensure_ascii=True, default=str))
        return 0
    for each in found:
        print(printable(each["file"]))
        rows, before = list(in_words(each)), ""
        width = max(len(label) for label, _ in rows) + 2
        for label, text in rows:
            print(f"  {label if label != before else '':{width}}{text}")
            before = label
    return 0


def parser() -> Parser:
    """The arguments of the command."""
    made = Parser("customize show", USAGE, ABOUT, "Exit status: 0 if every file could be read, 2 otherwise.")
    made.add_argument("files", metavar="FILE", nargs="+", help="a .safetensors file or a folder, of any program")
    made.add_argument("--json", action="store_true", help="print JSON: an object, or a list of them for several files")
    return made
