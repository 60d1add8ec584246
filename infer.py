"""Generate pictures with a base model and what was taught to it. All settings: --help."""

import sys

from customize.cli import main
from customize.config import InferenceSettings

if __name__ == "__main__":
    sys.exit(main(InferenceSettings, "customize.inference.command:run", check="customize.inference.command:check"))
