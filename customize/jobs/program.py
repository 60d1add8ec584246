"""How jobs start this program again: never with the code of a folder of pictures."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The folder that has the package."""


def words(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module of ours. -P: a json.py in the current folder, the workspace, is not imported."""
    return [sys.executable, "-P", "-m", module, *arguments]


def environment() -> dict[str, str]:
    """The environment in which a source checkout is found as well, which is installed nowhere. An entry of PYTHONPATH that is
    empty, as a colon too many makes one, or relative would be the workspace."""
    known = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(place)]
    ours = [] if ROOT.name in ("site-packages", "dist-packages") else [str(ROOT)]
    others = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return others | ({"PYTHONPATH": os.pathsep.join(places)} if (places := ours + known) else {})
