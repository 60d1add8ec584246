"""Whole or not at all: what a reader can see while a write goes wrong at any point."""

import os
import stat

import pytest

from customize import files


class PulledPlug(BaseException):
    """A stand-in for a kill: nothing may catch it."""


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    files.write_text(path, "old\n")
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch, pytest.raises(PulledPlug):
            patch.setattr(os, name, pulled)
            files.write_text(path, "new\n")
        assert path.read_text() == "old\n"
    files.write_text(path, "new\n")
    assert path.read_bytes() == b"new\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def pulled(*args, **kwargs):
    raise PulledPlug


def test_a_folder_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "folder"
    with files.new_folder(path) as unfinished:
        (unfinished / "x").write_text("old")
        assert not path.exists()
    with pytest.raises(PulledPlug), files.new_folder(path) as unfinished:
        (unfinished / "x").write_text("new")
        raise PulledPlug
    with monkeypatch.context() as patch, pytest.raises(PulledPlug), files.new_folder(path) as unfinished:
        patch.setattr(os, "fsync", pulled)
        (unfinished / "x").write_text("new")
    assert (path / "x").read_text() == "old" and len(list(tmp_path.iterdir())) == 1
    with files.new_folder(path) as unfinished:
        (unfinished / "y").write_text("new")
    assert [entry.name for entry in path.iterdir()] == ["y"] and len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_mode_follows_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        files.write_bytes(tmp_path / "file", b"")
        with files.new_folder(tmp_path / "folder") as unfinished:
            os.close(os.open(unfinished / "private", os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(before)
    for path in (tmp_path / "file", tmp_path / "folder/private"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
