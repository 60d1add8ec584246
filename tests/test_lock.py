"""One process per run folder; a dead one is no hindrance."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from customize.errors import InputError
from customize.storage import atomic, lock, ownership, run_folder


@contextmanager
def another(folder: Path, stop: bool = False) -> Iterator[int]:
    """Another process that has the folder; its number. stop: it is halted, as by Ctrl-Z."""
    ready, done = os.pipe()
    if not (child := os.fork()):
        with lock.hold(folder):
            os.write(done, b"x")
            signal.pause()
    os.read(ready, 1)
    if stop:
        os.kill(child, signal.SIGSTOP)
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize("stop", [False, True])
def test_a_second_process_is_refused_by_name_and_a_dead_one_does_not_block(tmp_path, stop):
    folder = tmp_path / "run"
    with another(folder, stop) as pid:
        for attempt in (lock.check, lambda folder: lock.hold(folder).__enter__()):
            with pytest.raises(InputError, match=f"process {pid} is using"):
                attempt(folder)
    lock.check(folder)
    with lock.hold(folder):
        assert (folder / lock.NAME).read_text() == str(os.getpid())
        with pytest.raises(InputError, match=f"process {os.getpid()} "):  # nor twice in one process
            lock.check(folder)
    lock.check(folder)


def test_checking_writes_nothing(tmp_path):
    lock.check(tmp_path / "missing")
    lock.check(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["link", "link to nothing", "folder", "pipe", "not to be read"])
def test_files_that_are_not_locks_are_left_alone(tmp_path, kind):
    folder, other = tmp_path / "run", tmp_path / "important"
    folder.mkdir()
    other.write_text("precious")
    path = folder / lock.NAME
    if kind.startswith("link"):
        path.symlink_to(other if kind == "link" else tmp_path / "nothing")
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_text("7")
        path.chmod(0)
        if os.access(path, os.R_OK):
            pytest.skip("this user may read everything")
    for attempt in (lock.check, lambda folder: lock.hold(folder).__enter__()):
        with pytest.raises(InputError, match="is not the lock file of a run"):
            attempt(folder)
    (folder / atomic.READY).mkdir()
    run_folder.settle(folder)  # a reader goes on with what is there
    assert other.read_text() == "precious" and not (tmp_path / "nothing").exists()


def test_checking_needs_no_write_permission(tmp_path, monkeypatch):
    with lock.hold(tmp_path):
        pass
    asked, opened = [], os.open
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr(os, "open", lambda path, flags, *mode: asked.append(flags) or opened(path, flags, *mode))
    lock.check(tmp_path)
    assert len(asked) == 1 and not asked[0] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)


def test_a_file_system_without_locks_is_reported_and_used(tmp_path, monkeypatch, capsys, terminal):
    import fcntl

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with lock.hold(tmp_path):
        assert "does not support locks" in capsys.readouterr().err


def test_a_locked_file_that_cannot_be_read_is_held_by_another_process(tmp_path, monkeypatch):
    def refuse(descriptor: int, size: int) -> bytes:  # as Windows does
        raise PermissionError(13, "Permission denied")

    with lock.hold(tmp_path):
        monkeypatch.setattr(os, "read", refuse)
        with pytest.raises(InputError, match="another process is using"):
            lock.check(tmp_path)


def test_claiming_a_folder_completes_what_a_dead_process_began(tmp_path):
    for name in (".a.123.unfinished", "checkpoints/.step-000004.123.unfinished", "samples/.step-000002.replaced"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text("x")
    with ownership.recording(tmp_path) as record:
        for name in (".a.123.unfinished", "checkpoints/.step-000004.123.unfinished"):
            record.add_temporary(tmp_path / name)
    (tmp_path / ".draft.7.unfinished").mkdir()  # of nobody who wrote it down
    (tmp_path / atomic.READY).mkdir()
    (tmp_path / atomic.READY / "weights").write_text("new")
    (tmp_path / "weights").write_text("old")
    with another(tmp_path):
        run_folder.settle(tmp_path)  # a reader leaves it to the one that is at work
        assert (tmp_path / "weights").read_text() == "old"
    run_folder.settle(tmp_path)
    assert (tmp_path / "weights").read_text() == "new"
    assert (tmp_path / "samples/step-000002/file").read_text() == "x"
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        ".customize-files.jsonl", ".draft.7.unfinished", ".lock", "checkpoints", "file", "samples", "step-000002", "weights",
    ]  # fmt: skip
