"""Teach new words to a base model from a few pictures. All settings: --help."""

import sys

from customize.cli import main
from customize.config import TextualInversionSettings

if __name__ == "__main__":
    sys.exit(main(TextualInversionSettings, "customize.preflight:run", check="customize.preflight:check"))
