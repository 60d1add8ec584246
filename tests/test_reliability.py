"""Whole runs that are killed, starved and stopped at any time end with the bits of one that was not."""

import hashlib
import os
import random
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from kit import METHODS, mounted
from safetensors.torch import load_file
from whole_runs import LATEST, Run

from customize.evaluation import run_integrity
from customize.storage import checkpoint, lock

EACH_STEP = {"checkpointing_steps": 1, "checkpoints_total_limit": 1}
slow = pytest.mark.slow


def digest(folder: Path) -> dict[str, tuple[str, int]]:
    """Hash and time of change of each file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) for path in files
    }


def damaged(folder: Path) -> list[run_integrity.Finding]:
    return [finding for finding in run_integrity.verify(folder) if finding.intact is False]


@pytest.fixture(scope="module")
def finished_run(server, tiny_epsilon, image_folder, tmp_path_factory):
    """A function that gives the uninterrupted run of a method; made once."""
    made: dict[str, Run] = {}

    def give(method: str) -> Run:
        if method not in made:
            run = Run(server, tmp_path_factory.mktemp(method), method, tiny_epsilon, image_folder, checkpointing_steps=1)
            started = time.perf_counter()
            assert run()[0] == 0
            run.seconds = time.perf_counter() - started
            made[method] = run
        return made[method]

    return give


@pytest.fixture
def new_run(server, tiny_epsilon, image_folder, tmp_path):
    """A function that gives a run in a folder of its own."""

    def give(method: str, folder: Path = tmp_path, **changes) -> Run:
        folder.mkdir(parents=True, exist_ok=True)
        return Run(server, folder, method, tiny_epsilon, image_folder, **changes)

    return give


@pytest.mark.parametrize("method", ["lora", *(pytest.param(method, marks=slow) for method in METHODS if method != "lora")])
@pytest.mark.parametrize("chain", [0, *(pytest.param(chain, marks=slow) for chain in range(1, 67))])
def test_killed_at_random_until_done(method, chain, finished_run, new_run):
    """A checkpoint at every step and only one of them kept: nothing to fall back on."""
    reference, dice = finished_run(method), random.Random(f"{method} {chain}")
    run = new_run(method, **EACH_STEP)
    flags: list[str] = []
    for _ in range(100):
        status, output = run(*flags, after=dice.uniform(0.3, 1.3) * reference.seconds)
        if status == 0:
            break
        assert status == -signal.SIGKILL, output
        begun = (run.folder / "config.toml").exists()
        assert not begun or damaged(run.folder) == []
        flags = LATEST if begun else []
    assert status == 0 and run.result() == reference.result() and run.losses() == reference.losses()


@pytest.mark.parametrize(
    ("method", "steps"),
    [("textual_inversion", (1, 5)), *(pytest.param(method, range(1, 7), marks=slow) for method in METHODS)],
)
def test_stopped_after_each_step(method, steps, finished_run, new_run, tmp_path):
    """Also: in a folder of another path, with the other checkpoints gone."""
    reference = finished_run(method)
    for step in steps:
        run = new_run(method, tmp_path / str(step), checkpointing_steps=1)
        shutil.copytree(
            reference.folder / "checkpoints" / checkpoint.name(step), run.folder / "checkpoints" / checkpoint.name(step)
        )
        shutil.copy(reference.folder / "config.toml", run.folder)
        status, output = run(*LATEST)
        assert status == 0 and f"resuming after step {step} " in output, output
        assert run.result() == reference.result()


@pytest.mark.parametrize("method", ["lora", pytest.param("textual_inversion", marks=slow), pytest.param("full", marks=slow)])
def test_a_flipped_byte_costs_one_checkpoint_and_a_damaged_run_says_so(method, finished_run, new_run, tmp_path):
    reference = finished_run(method)
    run = new_run(method, checkpointing_steps=1)
    shutil.copytree(reference.folder, run.folder)
    for name in ("learned.safetensors", "state.safetensors", "state.json", "manifest.json")[: None if method == "lora" else 1]:
        file = max((run.folder / "checkpoints").iterdir()) / name
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    [found] = damaged(run.folder)
    assert found.what == "checkpoints/step-000006"
    for path in run.folder.glob("*.safetensors"):
        path.unlink()
    status, output = run(*LATEST)
    assert status == 0 and "skipped checkpoint step-000006: " in output and "resuming after step 5 " in output
    assert run.result() == reference.result()
    assert damaged(run.folder) == [found], "what is not as it was written may be the user's, and stays"
    assert not checkpoint.faults(run.folder / "checkpoints/step-000006-2")


def test_a_finished_run_is_left_as_it_is(finished_run, new_run):
    run = finished_run("lora")
    before = digest(run.folder)
    status, output = run(*LATEST)
    assert status == 0 and "is finished: nothing to do" in output
    assert digest(run.folder) == before


def test_images_and_base_model_may_be_moved(finished_run, new_run, tiny_epsilon, image_folder, tmp_path):
    """Other paths, other times, written in another order: the same run."""
    reference = finished_run("lora")
    run = new_run("lora", checkpointing_steps=1)
    shutil.copytree(reference.folder / "checkpoints/step-000002", run.folder / "checkpoints/step-000002")
    shutil.copy(reference.folder / "config.toml", run.folder)
    (tmp_path / "pictures").mkdir()
    for number, file in enumerate(sorted(image_folder.iterdir(), reverse=True)):
        shutil.copyfile(file, tmp_path / "pictures" / file.name)
        os.utime(tmp_path / "pictures" / file.name, (number, number))
    shutil.copytree(tiny_epsilon, tmp_path / "base")
    moved = ["--instance_data_dir", str(tmp_path / "pictures"), "--pretrained_model_name_or_path", str(tmp_path / "base")]
    status, output = run(*LATEST, *moved)
    assert status == 0 and "resuming after step 2 " in output and run.result() == reference.result(), output


def test_another_version_of_a_library_is_a_note(finished_run, new_run):
    reference, run = finished_run("lora"), new_run("lora", checkpointing_steps=1)
    path = run.folder / "checkpoints/step-000004"
    shutil.copytree(reference.folder / "checkpoints/step-000004", path)
    shutil.copy(reference.folder / "config.toml", run.folder)
    kept = checkpoint.load(path)
    kept.state["identity"]["versions"]["peft"] = "0.1"
    checkpoint.save(path.parent, kept)
    status, output = run(*LATEST)
    assert status == 0 and f"note: peft was 0.1, is {version('peft')} now" in output and run.result() == reference.result(), (
        output
    )


def test_settings_of_another_run_are_named(finished_run, tiny_v, tmp_path, server, image_folder):
    run = finished_run("lora")
    before = digest(run.folder)
    other = Run(server, tmp_path, "textual_inversion", tiny_v, image_folder, seed=4, output_dir=str(run.folder))
    other.folder = run.folder
    status, output = other(*LATEST)
    assert status == 2 and "method: was 'train_dreambooth.py'" in output and "seed: was 3" in output
    assert "base model's files: differ from those of the run" in output and "Traceback" not in output
    assert digest(run.folder) == before


def test_two_processes(new_run):
    """The second is refused by the first's number, and writes nothing; when the first is dead it is not."""
    run = new_run("textual_inversion")
    ready, done = os.pipe()
    if not (child := os.fork()):
        with lock.hold(run.folder):
            os.write(done, b"x")
            signal.pause()
    os.read(ready, 1)
    try:
        status, output = run()
        assert status == 2 and f"process {child} is using {run.folder}" in output
        assert [path.name for path in run.folder.iterdir()] == [lock.NAME]
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert run()[0] == 0


@pytest.mark.parametrize(
    ("moment", "number", "action", "status", "step"),
    [
        ("inside a checkpoint", 1, "SIGTERM", 143, 3),  # it ends the save and the step after it
        ("inside a checkpoint", 2, "SIGINT SIGINT", 130, 1),  # the second stops at once: the save never was
        pytest.param("in a step", 4, "SIGINT SIGINT", 130, 3, marks=slow),
        pytest.param("inside a checkpoint", 2, "SIGHUP", 129, 3, marks=slow),
        pytest.param("at the end of a step", 3, "SIGTERM SIGTERM", 143, 2, marks=slow),
    ],
)
def test_signals_in_a_save(moment, number, action, status, step, finished_run, new_run):
    reference = finished_run("textual_inversion")
    run = new_run("textual_inversion", checkpointing_steps=1)
    ended, output = run(moment=moment, number=number, action=action)
    assert ended == status and "Traceback" not in output and damaged(run.folder) == []
    steps = [path.name for path in checkpoint.every(run.folder / "checkpoints")]
    assert steps[0] <= checkpoint.name(step), steps
    assert run(*LATEST)[0] == 0 and run.result() == reference.result()


@pytest.mark.parametrize("method", ["textual_inversion", "lora", pytest.param("full", marks=slow)])
def test_a_learning_rate_far_too_high(method, new_run):
    """Weights in the hundreds end in infinity, which is never saved; a vector of that length is reported."""
    run = new_run(method, learning_rate=10.0, max_train_steps=20, checkpointing_steps=2)
    status, output = run()
    files = list(run.folder.rglob("*.safetensors"))
    assert len(files) >= 2 and all(tensor.isfinite().all() for file in files for tensor in load_file(file).values())
    assert damaged(run.folder) == [] and "Traceback" not in output
    if method == "textual_inversion":
        assert status == 0 and "<new> blew up" in output
    else:
        step = len(run.losses())
        assert status == 4 and f"at step {step + 1} (images: " in output and f"the state of step {step} is kept" in output
        assert checkpoint.every(run.folder / "checkpoints")[0].name == checkpoint.name(step)


@pytest.mark.parametrize("seconds", [0.2, pytest.param(60, marks=slow)])
@pytest.mark.parametrize("moment", ["in a step", "inside a checkpoint"])
def test_stopped_for_a_while_and_continued(moment, seconds, finished_run, new_run):
    reference, run = finished_run("lora"), new_run("lora", checkpointing_steps=1)
    assert run(moment=moment, number=3, action="SIGSTOP", asleep=seconds)[0] == 0
    assert run.result() == reference.result() and run.losses() == reference.losses() and damaged(run.folder) == []


@pytest.mark.parametrize("method", ["full", pytest.param("lora", marks=slow), pytest.param("textual_inversion", marks=slow)])
def test_killed_in_the_final_save_over_an_earlier_result(method, finished_run, new_run):
    """The result of 6 steps exists while that of 7 is written: until the new one is complete, the old one is intact and loads."""
    reference = finished_run(method)
    run = new_run(method, checkpointing_steps=1)
    shutil.copytree(reference.folder, run.folder)
    status, _ = run(*LATEST, "--max_train_steps", "7", moment="in the result")
    assert status == -signal.SIGKILL
    assert run.result() == reference.result() and damaged(run.folder) == []
    status, _ = run(*LATEST, "--max_train_steps", "7")
    assert status == 0 and run.result() != reference.result() and damaged(run.folder) == []
    assert not list(run.folder.rglob("*.unfinished"))


@pytest.mark.parametrize("mask", [0o077, *(pytest.param(mask, marks=slow) for mask in (0o022, 0o002))])
def test_modes_follow_the_umask(mask, new_run):
    run = new_run("full" if mask != 0o077 else "lora")
    assert run(umask=mask)[0] == 0
    files = [path for path in run.folder.rglob("*") if path.is_file() and path.name != lock.NAME]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o666 & ~mask} and len(files) > 10


def test_a_file_limit_is_met_at_any_file(finished_run, new_run):
    reference = finished_run("lora")
    run = new_run("lora", checkpointing_steps=1)
    sizes = [path.stat().st_size for path in (reference.folder / "checkpoints/step-000006").iterdir()]
    status, output = run(file_size=max(sizes) - 1)
    assert status == 3 and "disk full: " in output and "(File too large)" in output and "Traceback" not in output
    assert damaged(run.folder) == [] and not list(run.folder.rglob("*.unfinished"))
    assert run(*LATEST)[0] == 0 and run.result() == reference.result()


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of 4 MiB."""
    with mounted(tmp_path / "disk", 4) as folder:
        yield folder


def fill(disk: Path, free: int) -> Path:
    """Leaves so many bytes, by a file that can be removed."""
    file = disk / "filler"
    with open(file, "wb") as stream:
        stream.write(bytes(max(0, shutil.disk_usage(disk).free - free)))
    return file


@pytest.mark.parametrize("places", [(5,), pytest.param(range(64), marks=slow)], ids=["once", "swept"])
def test_a_disk_that_fills_up_costs_nothing_but_time(places, finished_run, new_run, small_disk):
    reference = finished_run("lora")
    one = sum(path.stat().st_size for path in (reference.folder / "checkpoints/step-000006").iterdir())
    whole = sum(path.stat().st_size for path in reference.folder.rglob("*") if path.is_file())
    seen = set()
    for place in places:
        run = new_run("lora", small_disk / str(place), checkpointing_steps=1)
        filler = fill(small_disk, one + (whole - one) * place // 63 if len(places) > 1 else 3 * one)
        status, output = run()
        seen.add(status)
        if status:
            assert status == 3 and "disk full: " in output and "Traceback" not in output, output
            assert "are missing" in output or len(places) > 1
        assert damaged(run.folder) == [] and not list(run.folder.rglob("*.unfinished"))
        filler.unlink()
        status, output = run(*LATEST)
        assert status == 0 and run.result() == reference.result(), output
        shutil.rmtree(run.folder.parent)
    assert 3 in seen


def test_a_run_folder_that_vanishes(new_run):
    run = new_run("textual_inversion")
    status, output = run(moment="in a step", number=1, action=f"remove {run.folder}")
    assert status == 3 and output.count("cannot write ") == 1 and "Traceback" not in output, output


@pytest.mark.parametrize(
    ("name", "status", "what"),
    [
        ("file", 2, "is a file"), ("file/below", 2, "is a file"), ("x" * 255, 0, ""), ("é" * 127, 0, ""), ("a 😀 'q\"", 0, ""),
        ("x" * 256, 2, "more than 255 bytes"), ("é" * 128, 2, "more than 255 bytes"), ("a\nb", 2, "control character"),
        ("link", 0, ""), ("dangling", 2, "is a broken link"), ("loop/below", 2, "is a broken link"), ("", 2, "is empty"),
        ("caf\udce9", 2, "not UTF-8"), ("~nobody-of-that-name/run", 0, ""),
    ],
)  # fmt: skip
def test_names_of_output_folders(name, status, what, new_run, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "there").mkdir()
    for link, target in (("link", "there"), ("dangling", "nowhere"), ("loop", "loop")):
        os.symlink(tmp_path / target, tmp_path / link)
    run = new_run("textual_inversion", tmp_path / "config", max_train_steps=1)
    before = digest(tmp_path)
    given = str(tmp_path / name) if name else name
    ended, output = run("--output_dir", given)
    assert ended == status and what in output and "Traceback" not in output, output
    if status:
        assert digest(tmp_path) == before
    else:
        assert (
            damaged(tmp_path / name) == []
            and {path: facts for path, facts in digest(tmp_path).items() if path in before} == before
        )


def test_a_folder_that_cannot_be_written_to(new_run, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    run = new_run("textual_inversion")
    status, output = run("--output_dir", str(small_disk / "run"))
    assert status == 2 and f"{small_disk} is not writable" in output
