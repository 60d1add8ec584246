"""Generate pictures with a base model and what was taught to it. All settings: --help."""

import sys

from customize.cli.commands import infer

if __name__ == "__main__":
    sys.exit(infer())
