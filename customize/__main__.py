"""The commands beside training and generating: `customize COMMAND ...`, or `python -m customize COMMAND ...`."""

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

COMMANDS = {
    "check": ("customize.doctor", "everything that is wrong with the settings and pictures of a run, before it is begun"),
    "verify": ("customize.verify", "whether everything in a run's folder is whole"),
}
TRAINING = ("train_textual_inversion.py", "train_dreambooth.py", "infer.py")


def main(argv: Sequence[str] | None = None) -> int:
    """Calls the command that the first word names, and imports nothing for the others; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("--help", "-h"):
        print(help_text(), end="")
        return 0 if argv else 2
    if argv[0] not in COMMANDS:
        near = get_close_matches(argv[0], COMMANDS, 1)
        print(f'no command "{argv[0]}"{f": did you mean {near[0]}?" if near else ""}\n{help_text()}', end="", file=sys.stderr)
        return 2
    return import_module(COMMANDS[argv[0]][0]).main(argv[1:])


def help_text() -> str:
    """All commands, a line each."""
    lines = [f"  {name:8}{about}" for name, (_, about) in COMMANDS.items()]
    return "\n".join(["usage: customize COMMAND ...", "", *lines, "", f"To train and to generate: {', '.join(TRAINING)}.", ""])


if __name__ == "__main__":
    sys.exit(main())
