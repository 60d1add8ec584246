"""The list of runs: their states by the lock, what is read of each, and what deleting leaves."""

import builtins
import io
import json
import os
import subprocess
import sys

import pytest

from customize.errors import InputError
from customize.jobs import job_folder, progress, queue, runs
from customize.jobs.progress import ProgressFile
from customize.storage import lock, ownership, run_folder
from customize.storage.atomic import write_text

SETTINGS = '[model]\npretrained_model_name_or_path = "demo"\n\n[method]\ninstance_prompt = "a sks dog"\n'


def made(workspace, name, error=None, ends=True):
    """A run that said how it ended, or was killed."""
    from customize import events

    folder = workspace / "runs" / name
    with run_folder.claimed(folder):
        write_text(folder / "config.toml", SETTINGS)
        report = ProgressFile()
        report(events.RunBegun(folder, "CPU"))
        report(events.TrainingStarted(0, 40))
        if ends:
            report(events.Summary("finished", (("verdict", "learned: <b>it</b>"),)))
            report(events.RunEnded(error))
    return folder


def test_states_are_lived_and_read(tmp_path):
    from customize.errors import NumericsError

    made(tmp_path, "good")
    made(tmp_path, "bad", NumericsError("NaN in the loss"))
    made(tmp_path, "stopped", KeyboardInterrupt())
    killed = made(tmp_path, "killed", ends=False)
    (tmp_path / "runs/no-run").mkdir()
    (tmp_path / "runs/file").write_text("")
    found = {card.name: card for card in runs.listed(tmp_path)}
    assert {name: (card.state, card.is_resumable) for name, card in found.items()} == {
        "good": ("finished", False), "bad": ("failed", True), "stopped": ("stopped", True), "killed": ("died", True),
    }  # fmt: skip
    good, bad = found["good"], found["bad"]
    assert (good.verdict, good.message, good.word, good.base, good.command) == (
        "learned: <b>it</b>", "", "a sks dog", "demo", "train_dreambooth"
    )  # fmt: skip
    assert (bad.verdict, bad.message, bad.total) == ("", "NaN in the loss", 40)
    with lock.hold(killed):
        assert lock.holder(killed) == os.getpid() and runs.card_of(killed).state == "running"
        with pytest.raises(InputError, match="is using"):
            runs.delete(killed)
    assert lock.holder(killed) is None and lock.holder(tmp_path) is None


def test_a_run_is_resumed_by_a_job_that_names_its_settings_and_its_latest_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(queue, "wake", lambda workspace: None)
    stopped = made(tmp_path, "stopped", KeyboardInterrupt())
    queue.resume(tmp_path, stopped, runs.card_of(stopped).command)
    (job,) = job_folder.every(tmp_path)
    assert (job.path.name, job.folder, job.state, job.is_from_elsewhere) == ("0001-stopped", stopped, "waiting", False)
    assert (job.command, job.arguments) == (
        "train_dreambooth",
        ("runs/stopped/config.toml", "--resume_from_checkpoint", "latest"),
    )


def test_a_run_of_before_there_was_progress_is_read_too(tmp_path):
    folder = tmp_path / "runs/old"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(SETTINGS)
    assert runs.card_of(folder).state == "died"
    (folder / "log.jsonl").write_text('{"step": 1, "loss": 0.5}\n{"step": 1, "verdict": "learned"}\n{"step')
    (folder / "customize.json").write_text(
        json.dumps({"steps": 7, "trigger_words": ["<dog>"], "settings": {"placeholder_token": []}})
    )
    card = runs.card_of(folder)
    assert (card.state, card.step, card.word, card.verdict, card.command) == (
        "finished", 7, "<dog>", "learned", "train_textual_inversion"
    )  # fmt: skip


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"version": 1, "state": 3}', '{"version": 1, "state": "running", "step": "x"}', "\0"]
)
def test_files_that_are_no_progress_do_no_harm(tmp_path, text):
    folder = tmp_path / "runs/odd"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(text)
    (folder / "progress.json").write_text(text)
    (folder / "log.jsonl").write_text(text)
    (folder / "customize.json").write_text(text)
    card = runs.card_of(folder)
    assert not isinstance((progress.read(folder) or {}).get("step"), str)
    assert (card.state, card.step, card.word) == ("died", 0, "") and runs.curves(folder) == {"training": []}


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "none"])
def test_a_name_that_no_run_can_have_is_no_run(tmp_path, name):
    assert runs.card_of(tmp_path / name) is None


def test_curves_are_smoothed_as_the_terminal_does_and_begin_at_the_base_model(tmp_path):
    folder = made(tmp_path, "run")
    lines = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.0}, {"step": 2, "probe": {"training": [0.5, 0.7]}}]
    (folder / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = runs.curves(folder)
    assert found == {"training": [(1, 1.0), (2, 0.95)], "fixed draws, training": [(0, 1.0), (2, pytest.approx(0.6))]}


def test_listing_hundreds_opens_a_few_small_files_of_each_and_no_torch(tmp_path, monkeypatch):
    for number in range(20):
        made(tmp_path, f"run-{number:04d}")
    opened: list[str] = []
    for place, name in ((os, "open"), (io, "open"), (builtins, "open")):
        original = getattr(place, name)
        monkeypatch.setattr(
            place,
            name,
            lambda path, *more, _open=original, **options: (opened.append(str(path)), _open(path, *more, **options))[1],
        )
    assert len(runs.listed(tmp_path)) == 20
    assert len(opened) <= 20 * 6 and not [path for path in opened if path.endswith((".png", ".safetensors"))]
    code = "import sys; from customize.jobs import runs, queue, worker; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_deleting_removes_what_the_run_wrote_and_nothing_else(tmp_path):
    folder = made(tmp_path, "mine")
    with ownership.recording(folder):
        write_text(folder / "samples/a.txt", "ours")
        write_text(folder / "samples/b.txt", "ours")
    (folder / "samples/b.txt").write_text("edited by the user")
    (folder / "notes.txt").write_text("of the user")
    (tmp_path / "target").mkdir()
    (tmp_path / "target/file").write_text("elsewhere")
    (folder / "link").symlink_to(tmp_path / "target")
    assert runs.delete(folder) == ["link", "notes.txt", "samples/b.txt"]
    assert (tmp_path / "target/file").read_text() == "elsewhere" and not (folder / "samples/a.txt").exists()
    assert runs.card_of(folder) is None and progress.read(folder) is None
    other = made(tmp_path, "other")
    assert runs.delete(other) == [] and not other.exists() and (tmp_path / "runs").is_dir()
