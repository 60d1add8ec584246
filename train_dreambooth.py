"""Teach a subject to a base model from a few pictures, in full or as an adapter. All settings: --help."""

import sys

from customize.cli import main
from customize.config import DreamBoothSettings

if __name__ == "__main__":
    sys.exit(main(DreamBoothSettings, "customize.preflight:run", check="customize.preflight:check"))
