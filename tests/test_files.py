"""Files are complete or absent: what a reader sees while a write fails at any point."""

import errno
import os
import stat

import pytest

from customize.errors import ResourceError
from customize.storage import atomic, disk
from customize.storage.resources import resources


class PulledPlug(BaseException):
    """A stand-in for a kill: nothing may catch it."""


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    atomic.write_text(path, "old\n")
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch, pytest.raises(PulledPlug):
            patch.setattr(os, name, pulled)
            atomic.write_text(path, "new\n")
        assert path.read_text() == "old\n"
    atomic.write_text(path, "new\n")
    assert path.read_bytes() == b"new\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def pulled(*args, **kwargs):
    raise PulledPlug


def test_a_folder_appears_complete_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "folder"
    with atomic.new_folder(path) as unfinished:
        (unfinished / "x").write_text("old")
        assert not path.exists()
    with pytest.raises(PulledPlug), atomic.new_folder(path) as unfinished:
        (unfinished / "x").write_text("new")
        raise PulledPlug
    with monkeypatch.context() as patch, pytest.raises(PulledPlug), atomic.new_folder(path) as unfinished:
        patch.setattr(os, "fsync", pulled)
        (unfinished / "x").write_text("new")
    assert (path / "x").read_text() == "old" and len(list(tmp_path.iterdir())) == 1
    with atomic.new_folder(path) as unfinished:
        (unfinished / "y").write_text("new")
    assert [entry.name for entry in path.iterdir()] == ["y"] and len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_mode_follows_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        atomic.write_bytes(tmp_path / "file", b"")
        with atomic.new_folder(tmp_path / "folder") as unfinished:
            os.close(os.open(unfinished / "private", os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(before)
    for path in (tmp_path / "file", tmp_path / "folder/private"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_leftovers_of_a_dead_process_are_removed_by_the_next_write(tmp_path):
    if not (child := os.fork()):
        os._exit(0)
    os.waitpid(child, 0)
    for name in (f".a.txt.{child}.unfinished", f".a.txt.{os.getppid()}.unfinished", f".b.txt.{child}.unfinished"):
        (tmp_path / name).write_text("x")
    atomic.write_text(tmp_path / "a.txt", "new")
    living, of_another_name = f".a.txt.{os.getppid()}.unfinished", f".b.txt.{child}.unfinished"
    assert sorted(os.listdir(tmp_path)) == sorted(["a.txt", living, of_another_name])


def test_names_that_glob_would_read_otherwise(tmp_path):
    for name in ("[a]", "*", "a?b", "ü", "x" * 200):
        atomic.write_text(tmp_path / name, name)
        with atomic.new_folder(tmp_path / f"{name}.d") as unfinished:
            (unfinished / "file").write_text(name)
        assert (tmp_path / name).read_text() == (tmp_path / f"{name}.d/file").read_text() == name
    assert len(os.listdir(tmp_path)) == 10


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS])
def test_errors_of_the_disk_are_explained(tmp_path, monkeypatch, number):
    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(disk.WriteError) as caught:
        atomic.write_bytes(tmp_path / "a.bin", b"x")
    with pytest.raises(ResourceError, match="-> for disk") as reported, resources("for memory", "for disk"):
        raise caught.value
    full = number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    assert ("disk full" in str(reported.value)) == full and str(tmp_path / "a.bin") in str(reported.value)
    assert os.listdir(tmp_path) == []


def test_space_is_reserved_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "free_bytes", lambda path: 1000)
    with pytest.raises(disk.WriteError, match="disk full: .* needs 4.88 KiB, 0.98 KiB are free; 3.91 KiB are missing"):
        with atomic.new_folder(tmp_path / "a", 5000):
            raise AssertionError("not reached")
    with pytest.raises(disk.WriteError, match="; 24 bytes are missing"):
        atomic.write_bytes(tmp_path / "a", bytes(1024))
    assert os.listdir(tmp_path) == []
    atomic.write_bytes(tmp_path / "a", bytes(1000))


def test_an_error_that_is_not_the_disk_s_passes(tmp_path):
    for error in (FileNotFoundError(errno.ENOENT, "no file", "model.json"), ValueError("x"), ConnectionError("no network")):
        with pytest.raises(type(error)) as caught, atomic.new_folder(tmp_path / "a"):
            raise error
        assert caught.value is error and not isinstance(error, disk.WriteError)
    assert os.listdir(tmp_path) == []


def test_temporaries_of_another_name_are_not_touched(tmp_path):
    """`.sd1.5.PID.unfinished` is one of `sd1.5`, not of `sd1`; no process has a number beyond all numbers."""
    for name in (".sd1.5.999999999.unfinished", ".sd1.999999999.unfinished", f".sd1.{'9' * 30}.unfinished"):
        (tmp_path / name).mkdir()
    with atomic.new_folder(tmp_path / "sd1"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".sd1.5.999999999.unfinished", "sd1"]


def failing(number):
    """os.rename whose call of that number fails."""
    rename, calls = os.rename, []

    def refuse(*names):
        calls.append(names)
        if len(calls) == number:
            raise OSError(errno.EIO, "refused")
        rename(*names)

    return refuse


def test_without_renameat2_a_refused_rename_is_undone(tmp_path, monkeypatch):
    path = tmp_path / "folder"
    with atomic.new_folder(path) as unfinished:
        (unfinished / "x").write_text("old")
    monkeypatch.setattr(atomic, "exchange", lambda one, other: False)
    for number in (1, 2):
        with monkeypatch.context() as patch, pytest.raises(disk.WriteError), atomic.new_folder(path) as unfinished:
            (unfinished / "x").write_text("new")
            patch.setattr(os, "rename", failing(number))
        assert [entry.name for entry in tmp_path.iterdir()] == ["folder"] and (path / "x").read_text() == "old"


def test_a_pipeline_loses_its_index_first_and_gets_it_last(tmp_path, monkeypatch):
    """A reader finds no pipeline in between, rather than an incomplete one."""
    names = ("unet", "model_index.json", "weights")
    seen = []
    rename = os.rename

    def put(content):
        with atomic.new_entries(tmp_path) as unfinished:
            for name in names:
                (unfinished / name).write_text(content)

    def looking(*arguments):
        rename(*arguments)
        seen.append({entry.name for entry in tmp_path.iterdir() if entry.name in names})

    put("old")
    monkeypatch.setattr(os, "rename", looking)
    put("new")
    assert set() in seen and all(each == set(names) or "model_index.json" not in each for each in seen)
