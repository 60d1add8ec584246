"""Fixtures that several test modules share: tiny models, built once per run; torch is imported by these only."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process for each core runs tests; threads of theirs would only wait
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")


@pytest.fixture(scope="session")
def tiny_epsilon(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder of a tiny random Stable Diffusion that predicts the noise."""
    from models import tiny_stable_diffusion

    return tiny_stable_diffusion(tmp_path_factory.mktemp("models") / "tiny_epsilon")


@pytest.fixture(scope="session")
def tiny_v(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder of a tiny random Stable Diffusion that predicts v."""
    from models import tiny_stable_diffusion

    return tiny_stable_diffusion(tmp_path_factory.mktemp("models") / "tiny_v", prediction_type="v_prediction")


@pytest.fixture(scope="session")
def server():
    """A process that has imported everything and runs training commands in forked children."""
    from fork_server import ForkServer

    server = ForkServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three pictures."""
    from kit import write_pictures

    return write_pictures(tmp_path_factory.mktemp("pictures"))
