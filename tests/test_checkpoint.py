"""A checkpoint is loaded as it was saved, damaged ones are skipped, and the newest intact one is never removed."""

import pytest
import torch

from customize.errors import InputError
from customize.storage import checkpoint
from customize.storage.checkpoint import Checkpoint


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


def test_a_checkpoint_is_loaded_as_it_was_saved(tmp_path):
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
def test_a_damaged_checkpoint_is_skipped_and_reported(tmp_path, name, damage):
    checkpoint.save(tmp_path, example(1))
    file = checkpoint.save(tmp_path, example(2)) / name
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    file.write_bytes(data if damage == "flip" else data[:-1])
    if damage == "remove":
        file.unlink()
    output: list[str] = []
    assert checkpoint.find(tmp_path, "latest", output.append) == tmp_path / "step-000001"
    assert len(output) == 1 and "step-000002" in output[0]
    with pytest.raises(InputError):
        checkpoint.find(tmp_path, "step-000002", output.append)
    assert (tmp_path / "step-000002").exists()


def assert_each_flip_is_noticed(path, places) -> None:
    for file in sorted(path.iterdir()):
        data = file.read_bytes()
        for place in places(len(data)):
            for bit in (0x01, 0x20, 0x80):
                file.write_bytes(data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :])
                assert checkpoint.faults(path), (file.name, place, bit)
        file.write_bytes(data)
    assert checkpoint.faults(path) == ""


def test_a_flip_at_start_middle_and_end_of_each_file_is_detected(tmp_path):
    assert_each_flip_is_noticed(checkpoint.save(tmp_path, example(1)), lambda size: (0, size // 2, size - 1))


@pytest.mark.slow
def test_a_flip_of_any_byte_is_detected(tmp_path):
    assert_each_flip_is_noticed(checkpoint.save(tmp_path, example(1)), range)


@pytest.mark.parametrize("name", ["learned.safetensors", "state.safetensors", "state.json", "manifest.json"])
def test_an_empty_file_is_detected_and_a_file_of_the_user_is_ignored(tmp_path, name):
    path = checkpoint.save(tmp_path, example(1))
    for other in (f"other-{name}", f".{name}"):
        (path / other).touch()
    assert checkpoint.faults(path) == ""
    (path / name).write_bytes(b"")
    assert checkpoint.faults(path).startswith(name)


@pytest.mark.parametrize("manifest", ["[]", "7", "{", '{"state.json": 1}', '{"../x": {"size": 1, "sha256": "0"}}', "[" * 99999])
def test_a_strange_manifest_is_a_fault(tmp_path, manifest):
    path = checkpoint.save(tmp_path, example(1))
    (path / "manifest.json").write_text(manifest)
    assert checkpoint.faults(path)


def test_if_none_is_intact_each_is_reported_and_none_is_removed(tmp_path):
    for step in (1, 2):
        (checkpoint.save(tmp_path, example(step)) / "manifest.json").unlink()
    (tmp_path / "step-000099").mkdir()
    with pytest.raises(InputError) as caught:
        checkpoint.find(tmp_path, "latest", lambda line: None)
    first, *others = caught.value.problems
    assert first.what == f"no checkpoint in {tmp_path} is intact"
    assert [(each.where, each.what) for each in others] == [
        (str(tmp_path / f"step-0000{step}"), "manifest.json is missing") for step in ("99", "02", "01")
    ]
    assert len(list(tmp_path.iterdir())) == 3


def test_strange_names_are_ignored(tmp_path):
    real = checkpoint.save(tmp_path / "elsewhere", example(1))
    folder = tmp_path / "checkpoints"
    for name in (
        "step-best",
        "step-99.zip",
        ".step-000009.1.unfinished",
        "step-1",
        "step-0000009",
        "step-\u0663\u0663\u0663\u0663\u0663\u0663",
    ):
        (folder / name).mkdir(parents=True)
    (folder / "step-000005").symlink_to(real)
    (folder / "step-000006").symlink_to(folder / "nowhere")
    (folder / "step-000007").write_text("a file")
    assert checkpoint.every(folder) == []
    assert checkpoint.find(folder, "latest", lambda line: None) is None
    assert checkpoint.find(tmp_path / "missing", "latest", lambda line: None) is None


def test_a_folder_that_lost_its_name_between_two_renames_has_it_back(tmp_path):
    path = checkpoint.save(tmp_path, example(3))
    path.rename(tmp_path / ".step-000003.replaced")
    assert checkpoint.find(tmp_path, "latest", lambda line: None) == path


def test_a_removed_run_folder_is_not_created_again(tmp_path):
    with pytest.raises(OSError, match="cannot write .*step-000001: No such file"):
        checkpoint.save(tmp_path / "gone/checkpoints", example(1))
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_pruned_if_the_newest_is_damaged(tmp_path):
    for step in (1, 2):
        file = checkpoint.save(tmp_path, example(step)) / "state.json"
    data = file.read_bytes()
    file.write_bytes(data[:-1] + b" ")
    checkpoint.prune(tmp_path, 1)
    assert checkpoint.find(tmp_path, "latest", lambda line: None) == tmp_path / "step-000001"
    file.write_bytes(data)
    checkpoint.prune(tmp_path, 1)
    assert [path.name for path in checkpoint.every(tmp_path)] == ["step-000002"]


def test_pruning_keeps_the_newest_intact_ones(tmp_path):
    for step in (1, 2, 3, 4):
        checkpoint.save(tmp_path, example(step))
    (tmp_path / "step-000004/state.json").unlink()
    checkpoint.prune(tmp_path, 1)
    assert {path.name for path in checkpoint.every(tmp_path)} == {"step-000003", "step-000004"}
    checkpoint.prune(tmp_path, None)
    assert len(checkpoint.every(tmp_path)) == 2


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "samples/mine.png", "learned.safetensors"])
def test_a_checkpoint_with_files_of_the_user_is_not_pruned(tmp_path, name):
    """A file of his own, or one of ours that he replaced by one of the same size."""
    for step in (1, 2, 3):
        path = checkpoint.save(tmp_path, example(step))
    mine = tmp_path / "step-000001" / name
    mine.parent.mkdir(exist_ok=True)
    content = bytes(mine.stat().st_size if mine.exists() else 5)
    mine.write_bytes(content)
    checkpoint.prune(tmp_path, 1)
    assert [each.name for each in checkpoint.every(tmp_path)] == ["step-000003", "step-000001"] and path.is_dir()
    assert mine.read_bytes() == content


def test_a_changed_manifest_is_not_accepted(tmp_path):
    """Other bytes may be the same JSON."""
    path = checkpoint.save(tmp_path, example(1))
    text = (path / "manifest.json").read_text()
    (path / "manifest.json").write_text(text.replace("\n ", "\n\t", 1))
    assert checkpoint.faults(path) == "manifest.json cannot be read"


def test_every_fault_is_named(tmp_path):
    path = checkpoint.save(tmp_path, example(1))
    (path / "state.json").write_bytes(b"")
    (path / "learned.safetensors").unlink()
    assert "state.json has 0 bytes" in checkpoint.faults(path) and "learned.safetensors is missing" in checkpoint.faults(path)
