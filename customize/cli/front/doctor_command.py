"""`customize doctor`: what this machine is, what is missing, and the remedies."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from textwrap import wrap

from customize.cli.front.teach_arguments import Parser
from customize.machine.report import examine, works
from customize.printable import printable
from customize.teach import bases

USAGE = "customize doctor [--json]"
ABOUT = """Examines this machine: which torch is installed, whether it uses the GPU, and if not, why; memory, disk, the hub,
versions. Each line that is not in order has its remedy. Nothing is changed. Exit status: 0 training and generating work, 2
something is in the way."""
SIGNS = {"ok": "  ", "warning": "! ", "error": "X "}
WIDTH = 110


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    parser = Parser("customize doctor", USAGE, ABOUT, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="one line of JSON: a list of name, value, status, remedy")
    own = parser.parse_args(list(argv))
    found = examine()
    if own.json:
        print(json.dumps([asdict(each) for each in found]))
        return 0 if works(found) else 2
    width = max(len(each.name) for each in found) + 2
    for each in found:
        first, *more = wrap(printable(each.value), WIDTH - width) or [""]
        print(f"{SIGNS[each.status]}{each.name:<{width}}{first}")
        print(*(f"  {'':<{width}}{line}" for line in more), sep="\n", end="\n" * bool(more))
        if each.remedy:
            print(f"  {'':<{width}}-> {printable(each.remedy)}")
    print("", *(f"  {line}" for line in of_bases()), sep="\n")
    print("", conclusion(found), sep="\n")
    return 0 if works(found) else 2


def of_bases() -> list[str]:
    """The base models that `customize teach` could take, a line each."""
    return [printable(f"base model {base.title}: {'' if base.offered else 'not usable: '}{base.why}") for base in bases.found()]


def conclusion(found) -> str:
    """One sentence."""
    errors, warnings = (sum(each.status == status for each in found) for status in ("error", "warning"))
    if errors:
        return f"{errors} to fix before anything works"
    return "everything works" if not warnings else f"it works; {warnings} to know about"
