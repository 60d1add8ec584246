"""Teach a subject to a base model from a few pictures, in full or as an adapter. All settings: --help."""

import sys

from customize.cli.commands import train_dreambooth

if __name__ == "__main__":
    sys.exit(train_dreambooth())
