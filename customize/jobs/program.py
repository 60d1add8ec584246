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
    """The environment in which a source checkout is found as well, which is installed nowhere."""
    if ROOT.name in ("site-packages", "dist-packages"):
        return dict(os.environ)
    known = os.environ.get("PYTHONPATH", "")
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), known)))}
