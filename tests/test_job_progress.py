"""`progress.json`: what a run says of itself, how often, and that nothing of the user's is lost by it."""

import json
import os
import signal
from pathlib import Path

import pytest
from whole_runs import Run

from customize import events
from customize.errors import InputError, Interrupted, NumericsError, Problem, ResourceError
from customize.jobs import progress
from customize.jobs.progress import ProgressFile, ending, without_paths
from customize.storage import ownership, run_folder

KEYS = (
    "version state phase step total seconds_per_step seconds_left loss device message pid started updated".split()
)  # fmt: skip


@pytest.fixture
def clock(monkeypatch):
    """A clock whose time is set."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def step(number: int, loss: float = 0.5) -> events.StepDone:
    return events.StepDone(number, 100, loss, loss, 1.0, 1e-4, 0.25, 25.0)


def said(folder: Path) -> dict:
    return json.loads((folder / "progress.json").read_text())


def test_a_step_is_written_once_a_second_and_a_phase_at_once(tmp_path, clock):
    with run_folder.claimed(tmp_path):
        report = ProgressFile()
        report(step(1))
        assert not (tmp_path / "progress.json").exists(), "no run has begun"
        report(events.RunBegun(tmp_path, "CPU"))
        assert [*said(tmp_path)] == KEYS and (said(tmp_path)["state"], said(tmp_path)["pid"]) == ("running", os.getpid())
        clock[0] += 1
        report(step(1))
        shown = [said(tmp_path)["step"]]
        for number in range(2, 22):  # two seconds
            clock[0] += 0.1
            report(step(number))
            shown.append(said(tmp_path)["step"])
        assert len(set(shown)) == 3, shown
        report(events.Phase("measuring"))
        assert (said(tmp_path)["phase"], said(tmp_path)["step"]) == ("measuring", 21)
        clock[0] += 2
        report(step(22, float("nan")))
        assert (said(tmp_path)["phase"], said(tmp_path)["loss"], said(tmp_path)["seconds_left"]) == ("training", None, 25.0)
        report(events.Summary("finished", (("trained", "a sks dog"), ("verdict", "learned: 62 % of the way"))))
        report(events.RunEnded())
        found = said(tmp_path)
        assert (found["state"], found["step"], found["seconds_left"]) == ("finished", 22, None)
        assert found["message"] == "learned: 62 % of the way"
    assert sorted(path.name for path in tmp_path.iterdir()) == [ownership.NAME, ".lock", "progress.json"]


def test_one_record_is_enough_for_all_that_is_written(tmp_path, clock):
    with run_folder.claimed(tmp_path):
        report = ProgressFile()
        report(events.RunBegun(tmp_path, "CPU"))
        size = (tmp_path / ownership.NAME).stat().st_size
        for number in range(50):
            clock[0] += 2
            report(step(number))
        assert (tmp_path / ownership.NAME).stat().st_size == size
        assert ownership.Record(tmp_path).files() == [tmp_path / "progress.json"]
        (tmp_path / "progress.json").write_bytes(b"")  # as a power cut may leave it
        assert ownership.Record(tmp_path).files() == [tmp_path / "progress.json"]
        (tmp_path / "progress.json").write_text('{"version": 1, "started": 3}')
        assert ownership.Record(tmp_path).files() == []


def test_a_file_of_the_user_is_kept_and_a_run_goes_on_without_disk(tmp_path, clock, monkeypatch):
    (tmp_path / "progress.json").write_text("mine")
    heard: list[events.Event] = []
    with run_folder.claimed(tmp_path), events.sent_to(heard.append):
        report = ProgressFile()
        report(events.RunBegun(tmp_path, "CPU"))
        assert (tmp_path / "progress.json").read_text() == "mine"
        assert progress.read(tmp_path)["state"] == "running" and "progress-2.json" in heard[0].text
        clock[0] += 2
        full = OSError(28, "No space left on device")
        with monkeypatch.context() as patch:
            patch.setattr(progress.os, "replace", lambda *names: (_ for _ in ()).throw(full))
            report(step(5))
        assert progress.read(tmp_path)["step"] == 0 and not [*tmp_path.glob(".progress*")]
        report(events.RunEnded(ResourceError("disk full\n    -> make room")))
    assert progress.read(tmp_path) | {"state": "failed", "message": "disk full", "step": 5} == progress.read(tmp_path)


@pytest.mark.parametrize(
    ("error", "state", "words"),
    [
        (Interrupted(signal.SIGTERM, "stopped after step 7; to resume:\n    python x.py"), "stopped", "stopped after step 7"),
        (KeyboardInterrupt(), "stopped", "stopped"),
        (NumericsError("NaN in the loss of step 3\n    -> lower it"), "failed", "NaN in the loss of step 3"),
        (InputError(Problem("resume", "does not fit", "start anew")), "failed", "resume: does not fit"),
        (MemoryError(), "failed", "out of memory"),
        (OSError(28, "No space left on device", "/home/me/x"), "failed", "No space left on device"),
        (KeyError("/home/me"), "failed", "a fault of the program (KeyError): its output has the details"),
    ],
)
def test_how_a_run_ended_is_said_in_one_line(error, state, words):
    found, message = ending(error)
    assert (found, without_paths(message, Path("run"))) == (state, words)


def test_messages_name_no_place_of_the_machine(monkeypatch, tmp_path):
    folder = tmp_path / "my own" / "run 1"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder.parent)
    assert without_paths(f"disk full: {folder}/a.png needs 3 MiB", folder) == "disk full: a.png needs 3 MiB"
    assert without_paths(f"{folder} is full", folder) == "run 1 is full"
    assert without_paths("cannot read /srv/me/x.png, or C:\\me\\y.png", folder) == "cannot read x.png, or y.png"
    assert without_paths("3 images/s, and/or 1/2 of a: b", folder) == "3 images/s, and/or 1/2 of a: b"
    assert without_paths("\x1b[2Jx\n/home", folder) == "\\x1b[2Jx"


def test_a_run_that_is_finished_stopped_and_killed_says_so(server, tiny_epsilon, image_folder, tmp_path):
    run = Run(server, tmp_path, "lora", tiny_epsilon, image_folder, max_train_steps=3, checkpointing_steps=1)
    assert run(moment="at the end of a step", number=2, action="SIGTERM")[0] == 143
    found = progress.read(run.folder)
    assert (found["state"], found["message"], found["step"]) == ("stopped", "stopped after step 2", 2)
    assert run("--resume_from_checkpoint", "latest", moment="in the result")[0] == -signal.SIGKILL
    assert (progress.read(run.folder)["state"], progress.read(run.folder)["phase"]) == ("running", "saving the result")
    assert run("--resume_from_checkpoint", "latest", moment="in the result", action="errno 28")[0] == 3
    found = progress.read(run.folder)
    assert found["state"] == "failed" and found["message"].startswith("disk full: entries needs ")
    assert run("--resume_from_checkpoint", "latest")[0] == 0
    found = progress.read(run.folder)
    assert (found["state"], found["step"], found["total"], found["device"]) == ("finished", 3, 3, "CPU (1 thread)")
    assert str(tmp_path) not in (run.folder / "progress.json").read_text()
    assert run.folder / "progress.json" in ownership.Record(run.folder).files()
