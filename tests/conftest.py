"""Shared fixtures: tiny models, built once per session. Only fixtures import torch."""

import gc
import os
from functools import cache
from pathlib import Path

import expensive
import hypothesis
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run in one process per core, so more threads would only wait
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")

hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile("repeatable")  # a commit fails for what it changed; --hypothesis-profile=default draws new cases


SLOWEST = (
    "new_adapter quiet hostile_files documented_commands resume reliability guard stable_diffusion_xl folders disk_full"
    " latents_cache read_png weights inference merge"
).split()
"""The slowest test files."""


@pytest.hookimpl(tryfirst=True)  # before slow tests are deselected
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs the slowest files first, so that none is left for the end; what `expensive` lists is not in the default run."""
    items.sort(key=lambda item: name_of(item) not in SLOWEST)
    families: dict[str, list[pytest.Item]] = {}
    for item in items:
        if not item.get_closest_marker("slow"):
            families.setdefault(f"{name_of(item)}::{item.originalname.removeprefix('test_')}", []).append(item)
    for name, family in families.items():
        for item in expensive.left_out(name, family):
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """Excludes all imported modules from garbage collection, which each run triggers."""
    gc.collect()
    gc.freeze()


def name_of(item: pytest.Item) -> str:
    """The name of a test's file without prefix and suffix."""
    return item.path.stem.removeprefix("test_")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """Runs each file in one process, so that its fixtures are built once, in the order of collection."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


@pytest.fixture(scope="session", autouse=True)
def state_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the key of the user lies, for tests and the processes that they start: never among the files of who runs them."""
    os.environ["XDG_STATE_HOME"] = str(folder := tmp_path_factory.mktemp("state"))
    return folder


@pytest.fixture
def terminal():
    """Prints events as a command does, for tests that check the output of functions below the command line."""
    from customize import events
    from customize.cli.terminal import Terminal

    with Terminal() as terminal, events.sent_to(terminal):
        yield terminal


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
def tiny_xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder of a tiny random SDXL."""
    from models import tiny_stable_diffusion_xl

    return tiny_stable_diffusion_xl(tmp_path_factory.mktemp("models") / "tiny_xl")


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny models of each version: sd15, sd21, sdxl."""
    from models import tiny_models_of_each_version

    return tiny_models_of_each_version(tmp_path_factory.mktemp("configs"))


@pytest.fixture(scope="session")
def server():
    """A process with all modules imported that runs training commands in forked children."""
    from fork_server import ForkServer

    server = ForkServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def finished_run(server, tiny_epsilon, image_folder, tmp_path_factory):
    """A function that returns the finished run of a method with default settings; made once, read-only."""
    from whole_runs import Run

    @cache
    def finished_run(method: str) -> Run:
        run = Run(server, tmp_path_factory.mktemp("straight"), method, tiny_epsilon, image_folder)
        assert run()[0] == 0
        return run

    return finished_run


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three images."""
    from kit import write_images

    return write_images(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def page_server(tmp_path_factory: pytest.TempPathFactory):
    """`customize web` on an empty folder, for the tests of one file."""
    from web_browser import PageServer

    folder = tmp_path_factory.mktemp("workspace")
    server = PageServer(folder, TMPDIR=str(tmp_path_factory.mktemp("uploads")))
    yield server
    server.close()


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium."""
    from web_browser import chromium

    with chromium() as found:
        yield found
