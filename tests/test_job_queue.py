"""Jobs as folders: written whole, taken once, in order, one at a time, and never lost with the process that started them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from pathlib import Path
from unittest.mock import Mock

import pytest

from customize.errors import InputError
from customize.jobs import job_folder, program, queue, user_key, worker
from customize.jobs.job_folder import Job, identity
from customize.storage import lock

TRAINING = {"instance_data_dir": "nowhere", "instance_prompt": "a sks dog", "max_train_steps": 5}


@pytest.fixture
def asleep(monkeypatch):
    """No worker is started; what would have been."""
    woken: list[Path] = []
    monkeypatch.setattr(queue, "wake", woken.append)
    monkeypatch.chdir(Path.cwd())  # a worker changes it
    return woken


def worked(workspace: Path) -> int:
    """The exit status of a worker with no job left, in a process of its own: one that has imported torch starts itself anew."""
    code = "import sys; from pathlib import Path; from customize.jobs import worker; worker.main(Path(sys.argv[1]), idle=0.1)"
    words = [*program.words("")[:2], "-c", code, str(workspace)]
    return subprocess.run(words, cwd=workspace, env=program.environment(), timeout=60).returncode


@pytest.fixture
def sleeper():
    """A process that sleeps."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def states(workspace: Path) -> dict[str, str]:
    return {job.path.name: job.state for job in job_folder.every(workspace)}


def test_a_job_is_a_folder_with_its_settings_and_its_command(tmp_path, asleep):
    first = queue.add(tmp_path, "train_dreambooth", TRAINING, "Mein Kätzchen")
    second = queue.add(tmp_path, "train_dreambooth", TRAINING, "Mein Kätzchen")
    third = queue.add(tmp_path, "infer", {"prompt": ["a dog"]})
    assert [path.name for path in (first, second, third)] == ["0001-mein-katzchen", "0002-mein-katzchen", "0003"]
    text = (first / "config.toml").read_text()
    assert text.startswith("# customize train_dreambooth jobs/0001-mein-katzchen/config.toml\n")
    own = {name: value for table in tomllib.loads(text).values() for name, value in table.items()}
    assert own == {**TRAINING, "output_dir": "runs/mein-katzchen-0001"}
    found = json.loads((first / "job.json").read_text())
    assert (found["version"], found["state"], found["command"]) == (1, "waiting", "train_dreambooth")
    assert found["folder"] == str(tmp_path / "runs/mein-katzchen-0001") and found["pid"] is found["exit_status"] is None
    assert job_folder.read(second).folder.name == "mein-katzchen-0002", "the first has not begun, but has its folder"
    assert job_folder.read(third).folder is None and job_folder.read(third).line == "customize infer jobs/0003/config.toml"
    assert asleep == [tmp_path] * 3 and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("command", "values", "words"),
    [
        ("infer", {"prompt": ["a"], "num_images": 0}, "num_images"),
        ("infer", {"prompt": ["a"], "colour": "red"}, "colour"),
        ("rm", {}, "is no job"),
        ("train_dreambooth", {"instance_prompt": "a sks dog"}, "instance_data_dir"),
        ("train_dreambooth", {**TRAINING, "output_dir": "/runs/a"}, "is not in this workspace"),
        ("infer", {"prompt": ["a"], "output_dir": "images/../../a"}, "is not in this workspace"),
    ],
)
def test_wrong_settings_are_refused_and_nothing_is_written(tmp_path, asleep, command, values, words):
    with pytest.raises(InputError, match=words):
        queue.add(tmp_path, command, values, "x")
    assert [*tmp_path.iterdir()] == [] and asleep == []


def test_secrets_are_not_written(tmp_path, asleep):
    path = queue.add(tmp_path, "train_dreambooth", {**TRAINING, "push_to_hub": True, "hub_token": "hf_secret"})
    assert not [file for file in path.rglob("*") if b"hf_secret" in file.read_bytes()]


def test_a_job_is_taken_once(tmp_path, asleep):
    queue.add(tmp_path, "infer", {"prompt": ["a dog"]})
    (job,) = job_folder.every(tmp_path)
    won: list[bool] = []
    barrier = threading.Barrier(8)
    take = lambda: (barrier.wait(), won.append(job.take()))  # noqa: E731
    threads = [threading.Thread(target=take) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert won.count(True) == 1 and not queue.cancel(job) and worker.next_job(tmp_path) is None


def test_a_waiting_job_is_cancelled_and_a_running_one_is_not(tmp_path, asleep):
    for _ in range(3):
        queue.add(tmp_path, "infer", {"prompt": ["a dog"]})
    third, second, first = job_folder.every(tmp_path)
    assert queue.cancel(first) and worker.next_job(tmp_path) == second
    assert not queue.cancel(second) and not queue.stop(third)
    assert states(tmp_path) == {"0001": "cancelled", "0002": "waiting", "0003": "waiting"}


def test_a_command_that_fails_says_why(tmp_path, asleep):
    queue.add(tmp_path, "train_dreambooth", TRAINING, "dog")
    assert worked(tmp_path) == 0
    (job,) = job_folder.every(tmp_path)
    assert (job.state, job.exit_status) == ("failed", 2) and "nowhere" in job.message
    assert "1 problem in the input" in job.output.read_text() and not (tmp_path / "runs").exists()


def test_jobs_are_done_in_order_and_never_two_at_once(tmp_path, asleep, monkeypatch):
    begun: list[str] = []

    def run(workspace, job):
        with pytest.raises(InputError):
            lock.check(workspace / "jobs")
        begun.append(job.path.name)
        job.changed(state="finished")

    monkeypatch.setattr(worker, "run", run)
    for _ in range(3):
        queue.add(tmp_path, "infer", {"prompt": ["a dog"]})
    worker.main(tmp_path, idle=0.05)
    assert begun == ["0001", "0002", "0003"] and lock.holder(tmp_path / "jobs") is None


def test_a_second_worker_leaves_at_once_and_none_is_started_beside_the_first(tmp_path, asleep, monkeypatch):
    queue.add(tmp_path, "infer", {"prompt": ["a dog"]})
    monkeypatch.undo()
    monkeypatch.setattr(subprocess, "Popen", lambda *words, **options: pytest.fail("a second worker"))
    with lock.hold(tmp_path / "jobs"):
        worker.main(tmp_path, idle=0.05)
        queue.wake(tmp_path)
    assert states(tmp_path) == {"0001": "waiting"}


def test_a_worker_that_starts_is_alone_until_it_ends_or_takes_too_long(tmp_path, monkeypatch):
    begun: list[Mock] = []

    def start(*words, **options):
        begun.append(Mock(**{"poll.return_value": None}))
        return begun[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    queue.wake(tmp_path)
    queue.wake(tmp_path)
    assert len(begun) == 1
    begun[0].poll.return_value = 1
    queue.wake(tmp_path)
    assert len(begun) == 2
    monkeypatch.setattr(queue, "STARTING", 0.0)
    queue.wake(tmp_path)
    assert len(begun) == 3


@pytest.mark.parametrize(
    ("said", "state", "message"),
    [
        ("finished", "finished", ""),
        ("stopped", "stopped", ""),
        ("running", "failed", "it was killed"),
        (None, "failed", "it was killed"),
    ],
)
def test_the_next_worker_waits_for_the_training_of_one_that_was_killed(tmp_path, asleep, sleeper, said, state, message):
    queue.add(tmp_path, "train_dreambooth", TRAINING, "dog")
    (job,) = job_folder.every(tmp_path)
    job.take()
    job = job.changed(state="running", pid=sleeper.pid, since=identity(sleeper.pid))
    queue.add(tmp_path, "infer", {"prompt": ["a dog"]})
    assert worker.next_job(tmp_path) == job, "not the one that waits"
    waiting = threading.Thread(target=worker.run, args=(tmp_path, job))
    waiting.start()
    time.sleep(0.1)
    assert waiting.is_alive() and job_folder.read(job.path).state == "running"
    if said:
        job.folder.mkdir(parents=True)
        (job.folder / "progress.json").write_text(json.dumps({"version": 1, "state": said, "pid": sleeper.pid}))
    sleeper.kill()
    waiting.join(10)
    found = job_folder.read(job.path)
    assert (found.state, found.message) == (state, message) and worker.next_job(tmp_path).path.name == "0002"


def test_a_running_job_is_asked_to_stop_and_no_other_process(tmp_path, asleep, sleeper):
    queue.add(tmp_path, "train_dreambooth", TRAINING, "dog")
    (job,) = job_folder.every(tmp_path)
    other = job.changed(state="running", pid=sleeper.pid, since="7")
    assert not queue.stop(other), "a later process of the same number"
    job.changed(state="running", pid=sleeper.pid, since=identity(sleeper.pid))
    assert queue.stop(other) and sleeper.wait(5) == -signal.SIGTERM


def test_a_zombie_does_not_live(sleeper):
    assert identity(sleeper.pid) == identity(sleeper.pid) not in (None, "?")
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert identity(sleeper.pid) is None and identity(2**22 + 5) is None


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (0, "finished"),
        (130, "stopped"),
        (143, "stopped"),
        (129, "stopped"),
        (-15, "stopped"),
        (-9, "failed"),
        (2, "failed"),
        (3, "failed"),
    ],
)
def test_what_an_exit_status_means(status, state):
    assert job_folder.state_of(status) == state


@pytest.mark.parametrize("pid", [-1, 0, True, "1", None, 2**70])
def test_a_number_in_a_file_reaches_no_process(tmp_path, pid, monkeypatch):
    monkeypatch.setattr(os, "kill", lambda pid, number: pytest.fail(f"signal {number} to {pid}") if number else None)
    job = Job(tmp_path / "jobs/0001", "infer", state="running", pid=pid, since="?")
    job.path.mkdir(parents=True)
    job.changed()
    assert job_folder.read(job.path).state == "running" and not queue.stop(job) and not job.lives()


FOREIGN = {
    "by an earlier version": lambda found: found.pop("signature"),
    "another command": lambda found: found.update(command="infer"),
    "another run's settings": lambda found: found.update(arguments=["jobs/0002-dog/config.toml"]),
    "another signature": lambda found: found.update(signature="é" * 64),
    "no text": lambda found: found.update(signature=7),
    "a run that goes on": lambda found: found.update(state="running", pid=os.getpid(), since="?"),
}


@pytest.mark.parametrize("change", FOREIGN.values(), ids=FOREIGN)
def test_a_job_that_this_user_did_not_write_waits_for_a_word(tmp_path, asleep, monkeypatch, change):
    monkeypatch.setattr(os, "kill", lambda pid, number: pytest.fail(f"signal {number} to {pid}") if number else None)
    path = queue.add(tmp_path, "train_dreambooth", TRAINING, "dog")
    queue.add(tmp_path, "train_dreambooth", TRAINING, "dog")
    found = json.loads((path / "job.json").read_text())
    change(found)
    (path / "job.json").write_text(json.dumps(found))
    (job,) = [job for job in job_folder.every(tmp_path) if job.path == path]
    assert not job.is_ours and not queue.stop(job) and not job.lives()
    assert worker.next_job(tmp_path).path.name == "0002-dog" and worker.next_job(tmp_path) is None
    assert queue.accept(job) == (job.state == "waiting") and not queue.accept(job_folder.read(path))
    assert worker.next_job(tmp_path) == (job_folder.read(path) if job.state == "waiting" else None)


def test_a_job_whose_settings_or_place_changed_waits_for_a_word(tmp_path, asleep):
    path = queue.add(tmp_path / "mine", "train_dreambooth", TRAINING, "dog")
    copy = shutil.copytree(tmp_path / "mine", tmp_path / "copy") / "jobs/0001-dog"
    assert job_folder.read(copy).is_from_elsewhere and not job_folder.read(copy).folder, "its run would be in the other one"
    asleep.clear()
    queue.jobs(tmp_path / "copy")
    assert asleep == [] and not worker.has_work(tmp_path / "copy"), "no worker for a job that nobody started"
    (path / "config.toml").write_text((path / "config.toml").read_text() + "push_to_hub = true\n")
    assert job_folder.read(path).is_from_elsewhere and worker.next_job(tmp_path / "mine") is None
    assert queue.accept(job_folder.read(path)) and worker.next_job(tmp_path / "mine").path == path


def test_what_is_appended_follows_no_link(tmp_path, asleep, monkeypatch):
    path = queue.add(tmp_path, "train_dreambooth", TRAINING, "dog")
    (mine := tmp_path / "mine").write_text("mine")
    (path / "output.txt").symlink_to(mine)
    (tmp_path / "jobs/worker.txt").symlink_to(mine)
    monkeypatch.undo()
    monkeypatch.setattr(subprocess, "Popen", lambda *words, stdout, **options: opened.append(stdout.name))
    opened: list[str] = []
    queue.wake(tmp_path)
    worker.run(tmp_path, job_folder.read(path))
    assert job_folder.read(path).state == "failed" and mine.read_text() == "mine" and opened == [os.devnull]


def test_the_key_is_private_and_lies_in_no_folder_of_results(tmp_path, monkeypatch):
    for name in ("XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "home/.local/state/customize/key"
    first = user_key.key()
    assert user_key.key() == first == path.read_bytes() and path.stat().st_mode & 0o777 == 0o600 and len(first) == 32
    path.chmod(0o644)
    assert user_key.key() not in (first, b"") and path.stat().st_mode & 0o777 == 0o600, "others have read it"
    path.parent.chmod(0o777)
    assert user_key.key() == (tmp_path / f"customize-{os.getuid()}/key").read_bytes(), "others can exchange it"
    monkeypatch.setattr(user_key, "folders", lambda: iter([tmp_path / "home"]))
    (tmp_path / "home").chmod(0o777)
    with pytest.raises(InputError, match="XDG_STATE_HOME"):
        queue.add(tmp_path, "train_dreambooth", TRAINING)


def test_a_colon_too_many_puts_no_workspace_into_the_path_of_modules(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", "relative", "/absolute", "."]))
    assert program.environment()["PYTHONPATH"].split(os.pathsep) == [str(program.ROOT), "/absolute"]


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("web", ["."]), ("infer", []), ("infer", ["--help"]), ("infer", ["/etc/config.toml"]), ("infer", ["../config.toml"]),
        ("infer", ["config.toml", "--output_dir", "/"]), ("train_dreambooth", ["link/config.toml"]), ("merge", ["config.toml"]),
    ],
)  # fmt: skip
def test_a_job_from_elsewhere_runs_no_other_command(tmp_path, asleep, monkeypatch, command, arguments):
    monkeypatch.setattr(subprocess, "Popen", lambda *words, **options: pytest.fail("it ran"))
    (tmp_path / "ws/jobs/0001").mkdir(parents=True)
    (tmp_path / "ws/link").symlink_to(tmp_path)
    Job(tmp_path / "ws/jobs/0001", command, tuple(arguments)).changed()
    assert queue.accept(job_folder.read(tmp_path / "ws/jobs/0001"))
    worker.main(tmp_path / "ws", idle=0.05)
    (job,) = job_folder.every(tmp_path / "ws")
    assert (job.state, job.message) == ("failed", "is not a job that this program writes")


def test_a_run_that_would_be_uploaded_with_the_token_of_somebody_else_is_not_resumed(tmp_path, asleep, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *words, **options: pytest.fail("it ran"))
    (run := tmp_path / "runs/dog").mkdir(parents=True)
    (run / "config.toml").write_text('[output]\npush_to_hub = true\nhub_token = "hf_of_somebody_else"\n')
    queue.resume(tmp_path, run, "train_dreambooth")
    worker.main(tmp_path, idle=0.05)
    (job,) = job_folder.every(tmp_path)
    assert (job.state, job.message) == ("failed", "is not a job that this program writes")


def test_code_in_the_workspace_is_not_run(tmp_path, asleep):
    (tmp_path / "json.py").write_text("raise SystemExit('it ran')")
    (tmp_path / "customize.py").write_text("raise SystemExit('it ran')")
    queue.add(tmp_path, "train_dreambooth", TRAINING, "dog")
    assert worked(tmp_path) == 0
    (job,) = job_folder.every(tmp_path)
    assert job.exit_status == 2 and "it ran" not in job.output.read_text()


def test_folders_that_are_no_jobs_are_passed_over(tmp_path):
    for name, text in {"0001-a": "", "0002-b": "{}", "0003-c": '{"command": 3, "state": "waiting"}', "notes": "{}"}.items():
        (tmp_path / "jobs" / name).mkdir(parents=True)
        (tmp_path / "jobs" / name / "job.json").write_text(text)
    assert job_folder.every(tmp_path) == []
    (tmp_path / "jobs/0003-c/job.json").write_text('{"command": "infer", "state": "waiting", "path": "/etc", "arguments": [3]}')
    assert job_folder.every(tmp_path) == [Job(tmp_path / "jobs/0003-c", "infer", ("3",), is_ours=False)]
