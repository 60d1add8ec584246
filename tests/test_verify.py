"""`customize verify` tells each damaged thing by name, without torch; `customize` finds its commands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from test_checkpoint import example

from customize import __main__
from customize.methods import TextualInversionSettings
from customize.storage import atomic, checkpoint, lock, manifest

ROOT = Path(__file__).parents[1]
KINDS = {
    "config.toml": "config.toml",
    "checkpoints/step-000002/state.json": "checkpoints/step-000002",
    "samples/step-000001/000.png": "samples/step-000001",
    "samples/contact_sheet.png": "samples/contact_sheet.png",
    "learned_embeds.safetensors": "learned_embeds.safetensors",
    "manifest.json": "manifest.json",
}


@pytest.fixture
def run(tmp_path) -> Path:
    """A folder as a run leaves it."""
    settings = TextualInversionSettings(placeholder_token="<x>", initializer_token="cat", train_data_dir=".")
    atomic.write_text(tmp_path / "config.toml", settings.to_toml())
    for step in (1, 2):
        checkpoint.save(tmp_path / "checkpoints", example(step))
    with atomic.new_folder(tmp_path / "samples/step-000001") as unfinished:
        Image.new("RGB", (8, 8)).save(unfinished / "000.png")
        manifest.write(unfinished)
    atomic.write_image(tmp_path / "samples/contact_sheet.png", Image.new("RGB", (64, 64)))
    atomic.write_text(tmp_path / "log.jsonl", "".join(json.dumps({"step": step}) + "\n" for step in (1, 2)))
    with atomic.new_entries(tmp_path, unlisted=("README.md",)) as unfinished:
        (unfinished / "learned_embeds.safetensors").write_bytes(bytes(100))
        (unfinished / "README.md").write_text("card")
    return tmp_path


def verified(capsys, folder: Path) -> tuple[int, list[str]]:
    status = __main__.main(["verify", str(folder)])
    return status, capsys.readouterr().out.splitlines()


def test_an_intact_run(run, capsys):
    (run / "README.md").write_text("edited, as a card may be")
    assert verified(capsys, run) == (0, [
        "intact   config.toml", "intact   checkpoints/step-000001", "intact   checkpoints/step-000002",
        "intact   samples/step-000001", "intact   samples/contact_sheet.png", "intact   log.jsonl: 2 steps",
        "intact   learned_embeds.safetensors", f"{run}: all files are intact",
    ])  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_damaged_files_are_named(run, capsys, name, damage):
    data = bytearray((run / name).read_bytes())
    data[len(data) // 2] ^= 0x80
    cut = data[: data.index(b"=") + 1] if name == "config.toml" else data[: len(data) // 2]  # in the middle of a line
    (run / name).write_bytes({"flip": data, "cut": cut, "empty": b""}[damage])
    if name == "config.toml" and damage == "empty":
        pytest.skip("an empty file is TOML; missing settings are reported when it is used")
    status, lines = verified(capsys, run)
    damaged = [line for line in lines if line.startswith("DAMAGED")]
    assert status == 2 and len(damaged) == 1 and damaged[0].startswith(f"DAMAGED  {KINDS[name]}: "), lines


def test_missing_and_extra_files_are_named(run, capsys):
    (run / "learned_embeds.safetensors").unlink()
    (run / "checkpoints/step-000001/extra").touch()
    status, lines = verified(capsys, run)
    assert status == 2 and "DAMAGED  learned_embeds.safetensors: is missing" in lines
    assert "intact   checkpoints/step-000001" in lines
    assert "note     checkpoints/step-000001: has files that the run did not write, which are kept: extra" in lines


def test_leftovers_of_a_kill_are_notes(run, capsys):
    with open(run / "log.jsonl", "a") as log:
        log.write('{"step": 3, "lo')
    (run / "checkpoints/.step-000003.1.unfinished").mkdir()
    (run / atomic.READY).mkdir()
    for name in ("manifest.json", "learned_embeds.safetensors"):
        (run / name).rename(run / atomic.READY / name)
    status, lines = verified(capsys, run)
    notes = [line for line in lines if line.startswith("note")]
    assert status == 0 and len(notes) == 3 and "intact   learned_embeds.safetensors" in lines, lines
    (run / "log.jsonl").write_text('{"step": 1}\nx\n{"step": 3}\n')
    status, lines = verified(capsys, run)
    assert status == 2 and "DAMAGED  log.jsonl: line 2 cannot be read" in lines


def test_other_folders(run, tmp_path_factory, capsys):
    assert verified(capsys, run / "checkpoints/step-000001")[0] == 0
    status, lines = verified(capsys, tmp_path_factory.mktemp("empty"))
    assert status == 2 and "is not a run folder" in lines[0]
    assert verified(capsys, run / "missing")[0] == 2
    assert __main__.main(["verify"]) == 2 and __main__.main(["verify", "--help"]) == 0


def test_unreadable_files_are_reported(run, capsys):
    (run / "log.jsonl").unlink()
    (run / "log.jsonl").mkdir()
    status, lines = verified(capsys, run)
    assert status == 2 and any("log.jsonl: cannot be read" in line for line in lines)
    status, lines = verified(capsys, run / ("x" * 300))
    assert status == 2 and "cannot be read (File name too long)" in lines[0]


def test_a_run_in_progress_is_a_note_not_damage(run, capsys):
    with lock.hold(run):
        status, lines = verified(capsys, run)
    assert status == 0 and any(line.startswith("note") and "is using" in line for line in lines)


def test_commands(capsys):
    assert __main__.main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert all(f"\n  {name} " in listed for name in __main__.COMMANDS)
    assert __main__.main(["verfiy"]) == 2 and "did you mean verify?" in capsys.readouterr().err
    assert __main__.main([]) == 2


def test_torch_is_not_imported(run):
    code = "import sys; from customize.__main__ import main; main(['verify', sys.argv[1]]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(run)], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("all files are intact\nFalse\n"), done.stderr


@pytest.mark.skipif(os.name == "nt", reason="pipes and devices in the file system")
def test_pipes_and_devices_are_named_and_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "zero.safetensors").symlink_to("/dev/zero")
    names = ("pipe.safetensors", "zero.safetensors")
    (tmp_path / manifest.NAME).write_text(manifest.text({name: {"size": 0, "sha256": ""} for name in names}))
    assert manifest.faults(tmp_path) == dict.fromkeys(names, "is not a regular file")
