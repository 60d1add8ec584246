"""A checkpoint comes back as it was, a damaged one is passed over, and the newest whole one is never removed."""

import pytest
import torch

from customize import checkpoint
from customize.checkpoint import Checkpoint
from customize.errors import InputError


def example(step: int) -> Checkpoint:
    shared = torch.arange(256, dtype=torch.uint8)
    state = {
        "optimizer": {
            "state": {0: {"step": torch.tensor(3.0), "map": shared}, 1: {"map": shared}},
            "groups": [{"betas": (0.9, 0.99)}],
        },
        "scaler": None,
    }
    return Checkpoint(step, {"weight": torch.full((2, 3), float(step))}, state)


def test_it_comes_back_as_it_was(tmp_path):
    path = checkpoint.save(tmp_path, example(7))
    back = checkpoint.load(path)
    assert path.name == "step-000007" and back.step == 7 and checkpoint.faults(path) == ""
    assert torch.equal(back.learned["weight"], torch.full((2, 3), 7.0))
    optimizer = back.state["optimizer"]
    assert back.state["scaler"] is None and optimizer["groups"] == [{"betas": [0.9, 0.99]}]
    assert optimizer["state"][0]["step"] == 3 and set(optimizer["state"]) == {0, 1}
    assert torch.equal(optimizer["state"][1]["map"], torch.arange(256, dtype=torch.uint8))


@pytest.mark.parametrize("name", ["learned.safetensors", "state.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_one_is_passed_over_and_named(tmp_path, name, damage):
    checkpoint.save(tmp_path, example(1))
    file = checkpoint.save(tmp_path, example(2)) / name
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    file.write_bytes(data if damage == "flip" else data[:-1])
    if damage == "remove":
        file.unlink()
    said: list[str] = []
    assert checkpoint.find(tmp_path, "latest", said.append) == tmp_path / "step-000001"
    assert len(said) == 1 and "step-000002" in said[0]
    with pytest.raises(InputError):
        checkpoint.find(tmp_path, "step-000002", said.append)
    assert (tmp_path / "step-000002").exists()


def test_when_none_is_whole_that_is_an_error(tmp_path):
    (checkpoint.save(tmp_path, example(1)) / "manifest.json").unlink()
    with pytest.raises(InputError, match="no checkpoint in .* is whole"):
        checkpoint.find(tmp_path, "latest", lambda line: None)


def test_strange_names_are_ignored(tmp_path):
    for name in ("step-best", "step-99.zip", ".step-000009.unfinished", "step-1"):
        (tmp_path / name).mkdir()
    assert checkpoint.every(tmp_path) == []
    assert checkpoint.find(tmp_path, "latest", lambda line: None) is None
    assert checkpoint.find(tmp_path / "missing", "latest", lambda line: None) is None


def test_pruning_keeps_the_newest_whole_ones(tmp_path):
    for step in (1, 2, 3, 4):
        checkpoint.save(tmp_path, example(step))
    (tmp_path / "step-000004/state.json").unlink()
    checkpoint.prune(tmp_path, 1)
    assert {path.name for path in checkpoint.every(tmp_path)} == {"step-000003", "step-000004"}
    checkpoint.prune(tmp_path, None)
    assert len(checkpoint.every(tmp_path)) == 2
