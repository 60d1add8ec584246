"""The Python API prints nothing of its own accord, and passes on what libraries really warn of."""

import logging
import os
import subprocess
import sys
from pathlib import Path

from customize.library_logs import NOISE, quiet

CODE = """
import logging
from customize.inference import load_pipeline
pipeline = load_pipeline("demo")
result = pipeline.generate("a red car", seeds=[1], num_inference_steps=2)
logging.getLogger("diffusers.models.modeling_utils").warning("there are modules in it that should be kept in float32: [norm].")
"""


def test_loading_and_generating_print_nothing_but_real_warnings(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_VERBOSITY")}
    environment["PYTHONPATH"] = str(Path(__file__).parent.parent)
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "" and done.stderr == "there are modules in it that should be kept in float32: [norm].\n"


def test_filters_are_installed_once_and_pass_everything_else():
    quiet()
    quiet()
    for name, parts in NOISE.items():
        logger = logging.getLogger(name)
        assert len([each for each in logger.filters if type(each).__name__ == "HideLines"]) == 1
        for part in parts:
            record = logging.LogRecord(name, logging.WARNING, "", 0, f"x {part} y", None, None)
            assert not logger.filter(record)
        assert logger.filter(logging.LogRecord(name, logging.WARNING, "", 0, "weights are missing", None, None))
