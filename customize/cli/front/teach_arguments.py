"""The command line of `customize teach`."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from customize.errors import InputError, Problem
from customize.next_command import quoted
from customize.printable import printable
from customize.teach.asked import EFFORTS, WITHOUT_WHAT, Request
from customize.teach.bases import VARIABLE

USAGE = f"""usage: customize teach FOLDER WHAT [--style | --person] [--as WORD] [--base NAME] [--quick | --best] [--yes]
                       [--leave_out FILE ...] [--output_dir FOLDER] [--explain] [--dry_run] [--setting value ...]

Teaches a base model what the photos in FOLDER show: customize teach ~/photos/miezi cat

It looks at the photos, chooses method and settings for them and for this machine, says so in three lines, trains, ends when the
subject is learned, and says what came of it. The settings are written to runs/NAME.toml, each with its reason.
The same command again goes on where a run was stopped. Nothing in FOLDER is changed, copied or removed.

  WHAT           a word for what the photos show that the base model knows: cat, teapot, man; of a style words that describe it
  --style        learn the style of the pictures instead of what they show; WHAT may be left out ({WITHOUT_WHAT["style"]})
  --person       a person; WHAT may be left out ({WITHOUT_WHAT["person"]})
  --as WORD      the word by which prompts will call it, instead of a rare one that is chosen: one token without a meaning, or a
                 new word, "<miezi>"
  --base NAME    base model: a name on the hub, a folder, a .safetensors file, or demo, a toy. Without it, the one that the
                 environment variable {VARIABLE} names, else the best in the hub's cache and in the folders of ComfyUI and A1111
  --quick, --best  half the steps and a small file, or half as many steps again and a larger one
  --leave_out    names of files in FOLDER that are not used, besides those that cannot be
  --yes          ask nothing: leave out what cannot be used, and download a base model that --base names
  --output_dir   folder of the run; default: runs/NAME, after FOLDER
  --explain      print the reason of every setting
  --dry_run      write nothing: say what would be done, and measure two steps

All settings of train_dreambooth.py (with --style: of train_textual_inversion.py) are accepted, too, and take precedence.
docs/teach.md says how every decision is made. Exit status: as for training.
"""
VALUES = ("as", "base", "leave_out", "output_dir")
SWITCHES = ("style", "person", "quick", "best", "yes", "explain", "dry_run")


@dataclass(frozen=True)
class Options:
    """What of the command line is not about the run. yes: ask nothing; explain: print the reasons; dry_run: write nothing."""

    yes: bool
    explain: bool
    dry_run: bool


class Parser(argparse.ArgumentParser):
    """Raises InputError instead of leaving the program."""

    def error(self, message: str) -> NoReturn:
        raise InputError(Problem(self.prog, message, f"{self.prog} --help says how it is called"))


def read(argv: Sequence[str]) -> tuple[Request, Options]:
    """The request and the options. Raises InputError with every problem of the words themselves."""
    parser = Parser("customize teach", add_help=False, allow_abbrev=False)
    for name in SWITCHES:
        parser.add_argument(*{f"--{name}", f"--{name.replace('_', '-')}"}, action="store_true", dest=name)
    parser.add_argument("--as", dest="word")
    parser.add_argument("--base", "--pretrained_model_name_or_path")
    parser.add_argument("--leave_out", "--leave-out", nargs="+", action="extend", default=[])
    parser.add_argument("--output_dir", "--output-dir")
    words, flags = split(argv)
    own, further = parser.parse_known_args(flags)
    problems = list(wrong(own, words))
    kind = "style" if own.style else "person" if own.person else "object"
    if len(words) < 2 and kind in WITHOUT_WHAT:
        words = [*words, WITHOUT_WHAT[kind]]
    if len(words) < 2:
        missing = "FOLDER and WHAT are" if not words else "WHAT is"
        remedy = "give them before the flags, as in: customize teach ~/photos/miezi cat"
        problems.append(Problem("customize teach", f"{missing} missing", remedy))
    if problems:
        raise InputError(problems)
    effort = next((name for name in EFFORTS if getattr(own, name, False)), "balanced")
    request = Request(words[0], words[1], kind, own.word, own.base, effort, tuple(own.leave_out), own.output_dir, tuple(further))
    return request, Options(own.yes, own.explain, own.dry_run)


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """FOLDER and WHAT, and the rest: the words before the first flag, or after a switch, which takes no value."""
    words, rest = [], []
    takes_value = False
    for word in argv:
        if word.startswith("--"):
            takes_value = "=" not in word and word[2:].replace("-", "_") not in SWITCHES
            rest.append(word)
        else:
            (rest if takes_value else words).append(word)
    return words, rest


def wrong(own: Any, words: Sequence[str]) -> list[Problem]:
    """What contradicts itself, and words too many."""
    found = []
    for one, other in (("style", "person"), ("quick", "best")):
        if getattr(own, one) and getattr(own, other):
            found.append(Problem(f"--{other}", f"cannot be combined with --{one}", "leave one of the two out"))
    if len(words) == 2 and not os.path.lexists(os.path.expanduser(words[0])) and os.path.isdir(os.path.expanduser(words[1])):
        meant = f"did you mean customize teach {quoted(words[1])} {quoted(words[0])}?"
        found.append(Problem(f"FOLDER {printable(words[0])}", f"does not exist, and {printable(words[1])} is a folder", meant))
    if len(words) > 2:
        what = f"{len(words)} words are given, and only FOLDER and WHAT are expected"
        found.append(Problem(printable(" ".join(words)), what, meant_by(words)))
    return found


def meant_by(words: Sequence[str]) -> str:
    """The remedy for words too many: the shell put in the names of all files, a flag has one dash, or WHAT is not in quotes."""
    if os.path.isfile(os.path.expanduser(words[0])):
        return f"give their folder: customize teach {quoted(os.path.dirname(words[0]) or '.')} {quoted(words[-1])}"
    if short := next((word for word in words[1:] if word.startswith("-")), None):
        return f"{printable(short)} is no flag: they have two dashes, such as --yes"
    meant = " ".join(words[1:]).strip("'")  # which are no quotes on Windows
    return f"did you mean customize teach {quoted(words[0])} {quoted(meant)}?"
