"""Teach new words to a base model from a few pictures. All settings: --help."""

import sys

from customize.cli.commands import train_textual_inversion

if __name__ == "__main__":
    sys.exit(train_textual_inversion())
