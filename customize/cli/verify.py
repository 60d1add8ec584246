"""`customize verify RUN`: checks that every file of a run is intact."""

import sys
from collections.abc import Sequence
from pathlib import Path

from customize.evaluation.run_integrity import not_a_run, verify

USAGE = """usage: customize verify RUN

Checks that every file of a run is intact: settings, checkpoints, result, intermediate weights, sample images, log.
RUN may also be a checkpoint or any other folder with a manifest.json. Nothing is changed.
Exit status: 0 if all files are intact, 2 if any is damaged.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line per finding; return the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if {"--help", "-h"} & set(argv):
        print(USAGE, end="")
        return 0
    if len(argv) != 1:
        print(USAGE, end="", file=sys.stderr)
        return 2
    if wrong := not_a_run(Path(argv[0])):
        print(f"{wrong.where}: {wrong.what}", f"    -> {wrong.remedy}", sep="\n")
        return 2
    findings = list(verify(Path(argv[0])))
    for finding in findings:
        print(finding)
    damaged = [finding for finding in findings if finding.intact is False]
    print(f"{argv[0]}: {f'{len(damaged)} of {len(findings)} damaged' if damaged else 'all files are intact'}")
    return 2 if damaged else 0
