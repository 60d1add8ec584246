"""`customize configs`: lists the included configurations, or copies one."""

import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from customize.printable import printable
from customize.settings.files.shipped_configs import config_names, config_path

USAGE = """usage: customize configs                   list the included configurations
       customize configs NAME [FILE.toml]  copy one, to edit it

Training and infer.py also accept a name: customize train_dreambooth demo_dreambooth_lora
Exit status: 0 done, 2 not done.
"""


def main(argv: Sequence[str]) -> int:
    """List the configurations, or copy one; return the exit status."""
    if {"--help", "-h"} & set(argv) or len(argv) > 2:
        print(USAGE, end="", file=sys.stdout if len(argv) <= 2 else sys.stderr)
        return 0 if len(argv) <= 2 else 2
    if not argv:
        width = max(map(len, config_names()), default=0) + 2
        for name in config_names():
            print(f"{name:{width}}{_about(config_path(name))}")
        return 0
    source, target = config_path(argv[0]), Path(argv[1] if argv[1:] else f"{Path(argv[0]).stem}.toml")
    near = get_close_matches(argv[0], config_names(), 1)
    if not source:
        fault = "is not an included configuration", f"did you mean {near[0]}?" if near else "`customize configs` lists all"
    elif os.path.lexists(target):
        fault = f"{target} already exists", f"give another file: customize configs {argv[0]} FILE.toml"
    else:
        try:
            with open(target, "xb") as file:
                file.write(source.read_bytes())
            print(f"copied to {printable(target)}")
            return 0
        except OSError as error:
            fault = f"{target} cannot be written: {error.strerror}", "give another file"
    print(printable(f"customize configs: {argv[0]}: {fault[0]}"), printable(f"    -> {fault[1]}"), sep="\n", file=sys.stderr)
    return 2


def _about(path: Path | None) -> str:
    """What a configuration is for: the first comment below its command."""
    lines = path.read_text(encoding="utf-8").splitlines() if path else []
    comments = [line.lstrip("# ") for line in lines if line.startswith("#")]
    return next((line for line in comments if line and not line.startswith(("python ", "customize "))), "")
