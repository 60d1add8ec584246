"""A disk that fills up while a checkpoint is written: at any byte the older one stays, and nothing unfinished."""

import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from kit import mounted

from customize.storage import atomic, checkpoint, disk
from customize.storage.checkpoint import Checkpoint

PLACES = 64


def state(step: int) -> Checkpoint:
    """Two files of 400 and 800 KB."""
    return Checkpoint(step, {"weight": torch.full((100_000,), float(step))}, {"mean": torch.full((200_000,), float(step))})


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of 8 MiB."""
    with mounted(tmp_path / "disk", 8) as folder:
        yield folder


def only_the_old_one(folder: Path) -> bool:
    return checkpoint.find(folder, "latest", lambda line: None) == folder / "step-000001" and len(os.listdir(folder)) == 1


@pytest.mark.parametrize("asked", [True, False], ids=["asked before", "taken by others meanwhile"])
def test_a_full_disk_at_each_write_of_a_save(small_disk, monkeypatch, asked):
    if not asked:
        monkeypatch.setattr(checkpoint, "size", lambda tensors: 0)
        monkeypatch.setattr(checkpoint, "HEADERS", -10_000)
    folder = small_disk / "checkpoints"
    size = sum(file.stat().st_size for file in checkpoint.save(folder, state(1)).iterdir())
    for place in range(PLACES):
        room = size * place // PLACES
        (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free - room))
        with pytest.raises(disk.WriteError, match="disk full: .*step-000002 ") as caught:
            checkpoint.save(folder, state(2))
        assert ("are missing" in caught.value.strerror) == asked
        assert only_the_old_one(folder) and atomic.leftovers(folder.parent) == []
        (small_disk / "filler").unlink()
    path = checkpoint.save(folder, state(2))
    assert torch.equal(checkpoint.load(path).learned["weight"], state(2).learned["weight"])


def test_each_place_under_a_limit_of_file_sizes(tmp_path):
    """No rights are needed for this one."""
    folder = tmp_path / "checkpoints"
    largest = max(file.stat().st_size for file in checkpoint.save(folder, state(1)).iterdir())
    new = state(2)
    for place in range(PLACES):
        if not (child := os.fork()):
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest * place // PLACES, resource.RLIM_INFINITY))
            try:
                checkpoint.save(folder, new)
            except disk.WriteError as error:
                os._exit(3 if "disk full: " in error.strerror and "(File too large)" in error.strerror else 1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
        assert only_the_old_one(folder)
