"""Fixtures that several test modules share: tiny models, built once per run; torch is imported by these only."""

import gc
import os
from functools import cache
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process for each core runs tests; threads of theirs would only wait
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")


DEAR = (
    "new_adapter processes quiet hostile_files documented_commands resume reliability read_png folders guard disk_full"
    " latents_cache"
).split()
"""Files that take longest."""

THINNED = {
    2: "accumulation attention crash demo_training guard heif images latents_cache merge plan save_precision scales strangers"
       " summary sweep read_png weights",
    3: "bad_input checkpoints_as_weights demo_judge doctor foreign_models illusions init_weights lcm lora_formats masks sampler"
       " single_file trials_outputs trials_strangers trials_weights verify views",
    4: "course forged_checkpoints hostile_files inpainting reproduce samplers trials_first_hour trials_options trials_resume",
}  # fmt: skip
"""Files of which a family of alike cases (one function, at least `FAMILY` parameters) has each second, third or fourth one
and the last in the normal run; all of them are in the slow one."""
FAMILY = 5


@pytest.hookimpl(tryfirst=True)  # before the slow ones are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Dear files first, so that no process is left alone with one of them at the end; large families thinned."""
    items.sort(key=lambda item: name_of(item) not in DEAR)
    families: dict[str, list[pytest.Item]] = {}
    for item in items:
        families.setdefault(item.nodeid.partition("[")[0], []).append(item)
    steps = {name: step for step, names in THINNED.items() for name in names.split()}
    for family in families.values():
        if len(family) >= FAMILY and (step := steps.get(name_of(family[0]))):
            for place, item in enumerate(family):
                if place % step and item is not family[-1]:
                    item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """What all test modules have imported is no garbage: collections, of which each run makes one, pass over it."""
    gc.collect()
    gc.freeze()


def name_of(item: pytest.Item) -> str:
    """The name of a test's file."""
    return item.path.stem.removeprefix("test_")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """Each file in one process, whose fixtures are made once; in the order of collection."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


@pytest.fixture
def terminal():
    """Events are printed as a command prints them, for tests that look at its output but call what is below it."""
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
def server():
    """A process that has imported everything and runs training commands in forked children."""
    from fork_server import ForkServer

    server = ForkServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def finished_run(server, tiny_epsilon, image_folder, tmp_path_factory):
    """A function that gives the finished run of a method with no setting changed; made once, to be looked at only."""
    from whole_runs import Run

    @cache
    def finished_run(method: str) -> Run:
        run = Run(server, tmp_path_factory.mktemp("straight"), method, tiny_epsilon, image_folder)
        assert run()[0] == 0
        return run

    return finished_run


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three pictures."""
    from kit import write_images

    return write_images(tmp_path_factory.mktemp("pictures"))
