"""Whatever flags are given, no file that existed before and is not ours is changed or removed."""

import copy
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kit import write_images

from customize import __main__
from customize.cli import main
from customize.cli.commands import run_inference, run_training
from customize.methods import DreamBoothSettings, TextualInversionSettings
from customize.settings.inference import InferenceSettings
from customize.storage import lock, manifest, ownership, run_folder
from customize.storage.atomic import write_text

NAMES = (
    "001.png", "000.png", "002-trace.png", "config.toml", "config-002.toml", "README.md", "README-2.md", "log.jsonl",
    "samples/x.png", "samples/step-000001/000.png", "samples/contact_sheet.png", "checkpoints/notes.txt",
    "checkpoints/step-000001/state.json", "checkpoints/step-000001/mine.txt", "checkpoints/step-000002/learned.safetensors",
    "weights/mine.safetensors", "weights/step-000001/a", "manifest.json", "customize.json", "sheet.png", "trace.jsonl",
    "before_after.png", "learned_embeds.safetensors", "pytorch_lora_weights.safetensors", "model_index.json", "unet/mine.txt",
    "logs/customize/mine.txt", ".hidden", ".DS_Store", ".config.toml.7.unfinished", ".000.png.1.unfinished",
    "samples/.step-000001.9.unfinished", "notes.txt", "Thumbs.db", "vae", "checkpoints", ".lock",
)  # fmt: skip
"""What people may have in a folder, much of it under names of ours."""
CONTENTS = (
    b"",
    b"mine",
    b"{}",
    b'{"step": 1}\n',
    b'{"step": 1, "loss": 0.5}\n',
    b"[model]\nseed = 1\n",
    b"\x89PNG\r\n\x1a\n",
    b"7",
)


@contextmanager
def quick(base: Path) -> Iterator[None]:
    """Models are loaded once, and results not read back: what is looked at here is files."""
    from customize.evaluation import verify_result
    from customize.families import load, locate
    from customize.inference.pipeline import Pipeline
    from customize.inference.run import generate
    from customize.training import run as training

    family = load(locate(str(base)))
    pipeline = Pipeline(copy.deepcopy(family))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "load_base", lambda settings, source: copy.deepcopy(family))
        patch.setattr(verify_result, "check", lambda *arguments: 0.0)
        patch.setattr(generate, "load_pipeline", lambda *arguments, **options: pipeline)
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Iterator[Path]:
    from models import tiny_stable_diffusion

    folder = tiny_stable_diffusion(tmp_path_factory.mktemp("base") / "tiny")
    with quick(folder):
        images = write_images(folder.parent / "images")
        learned = str(folder.parent / "learned")
        words = [learned if word == "work/out" else word for word in commands(folder, images, [])["lora"]]
        assert called("lora", words) == 0
        yield folder


def state(folder: Path) -> dict[str, tuple]:
    """Everything below a folder, links not followed: kind and content. Without locks and records, which are ours."""
    found: dict[str, tuple] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = "link", os.readlink(path)
        elif path.is_file() and path.name != ownership.NAME:
            found[name] = "file", path.read_bytes()
    return found


def commands(base: Path, image_folder: Path, flags: list[str]) -> dict[str, list[str]]:
    """The command lines that write into `work/out`, or look at it."""
    model = ["--pretrained_model_name_or_path", str(base), "--output_dir", "work/out", *flags]
    training = ["--max_train_steps", "2", "--checkpointing_steps", "1", "--report_to", "none", "--validation_prompt", "none"]
    ours = "work/out/config.toml"
    merged = ["--pretrained_model_name_or_path", str(base), "--weights", str(base.parent / "learned")]
    return {
        "infer": ["--prompt", "a dog", "--num_inference_steps", "1", *model],
        "sweep": ["--prompt", "a dog", "--num_inference_steps", "1", "--sweep", "seed=1,2", "--trace", *model],
        "like": ["--like", "work/out/000.png", *model],
        "words": [
            "--train_data_dir", str(image_folder), "--placeholder_token", "<x>", "--initializer_token", "toy", *training, *model
        ],
        "lora": [
            "--instance_data_dir", str(image_folder), "--instance_prompt", "sks dog", "--adapter", "lora", *training, *model
        ],
        "full": ["--instance_data_dir", str(image_folder), "--instance_prompt", "sks dog", *training, *model],
        "again": [ours, "--pretrained_model_name_or_path", str(base)],
        "merge": [*merged, "--merge", "work/out", *flags],
        "merge into a file": [*merged, "--merge", "work/out/pytorch_lora_weights.safetensors", *flags],
        "configs": ["demo_dreambooth_lora", "work/out/config.toml"],
        "check": [str(image_folder), "--output", "work/out/sheet.png", "--resolution", "16"],
        "verify": ["work/out"],
    }  # fmt: skip


def called(command: str, words: list[str]) -> int:
    """The exit status of a command."""
    if command in ("check", "verify", "configs"):
        return __main__.main([command, *words])
    if command in ("words", "lora", "full"):
        model = TextualInversionSettings if command == "words" else DreamBoothSettings
        return main.main(model, run_training, words)
    return main.main(InferenceSettings, run_inference, words)


user_files = st.dictionaries(
    st.sampled_from(NAMES), st.sampled_from([*CONTENTS, "link", "link to a folder", "read-only", "alike"]), max_size=8
)
flags = st.lists(
    st.sampled_from(["--overwrite_output_dir", "--resume_from_checkpoint latest", "--num_images 2", "--skip_existing"]),
    unique=True,
    max_size=2,
)
KNOWN = {
    "infer": ("overwrite", "num_images", "skip_existing"), "sweep": ("overwrite", "num_images"), "like": ("overwrite",),
    "words": ("overwrite", "resume"), "lora": ("overwrite", "resume"), "full": ("overwrite", "resume"), "again": (), "check": (),
    "verify": (), "merge": ("overwrite",), "merge into a file": ("overwrite",), "configs": (),
}  # fmt: skip


FIRST = (None, "infer", "words", "lora", "merge", "merge into a file")


def put(folder: Path, files: dict[str, bytes | str], outside: Path) -> None:
    """Makes the user's files, as far as their names do not get into each other's way."""
    for name, content in files.items():
        path = folder / name
        if content == "alike":
            replace_by_one_alike(path)
        if os.path.lexists(path) and (path.is_dir() or isinstance(content, str)):
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            continue
        if content in ("link", "link to a folder"):
            path.symlink_to(outside / "file.txt" if content == "link" else outside)
        elif not path.is_symlink() and content != "alike":
            path.write_bytes(content if isinstance(content, bytes) else b"read-only")
            path.chmod(0o444 if content == "read-only" else 0o644)


def replace_by_one_alike(path: Path) -> None:
    """The user's own file in the place of one of ours: of the same size, and older."""
    if path.is_file() and not path.is_symlink():
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(bytes(255 - byte for byte in data))
        os.utime(path, (1, 1))


def nothing_is_lost(base: Path, image_folder: Path, first: str | None, files: dict, command: str, given: list[str]) -> None:
    """Runs `first`, lets the user put files there, runs `command`, and looks whether all of the user's are as they were."""
    work = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    before_folder = Path.cwd()
    try:
        (work / "outside").mkdir()
        (work / "outside/file.txt").write_text("elsewhere")
        os.chdir(work)
        if first:
            assert called(first, commands(base, image_folder, [])[first]) == 0
        made = state(work)
        (work / "work/out").mkdir(parents=True, exist_ok=True)
        put(work / "work/out", files, work / "outside")
        before = state(work)
        words = [word for flag in given if flag.strip("-").startswith(KNOWN[command]) for word in flag.split()]
        status = called(command, commands(base, image_folder, words)[command])
        assert status in (0, 2, 3), (status, command, words)
        after = state(work)
        users = {name: each for name, each in before.items() if made.get(name) != each and not name.endswith(lock.NAME)}
        users |= {
            name: each
            for name, each in before.items()
            if each[0] == "link" or name.endswith(f"/{lock.NAME}") and each[1] == b"mine"
        }
        changed = {name: each for name, each in users.items() if after.get(name) != each}
        assert not changed, (changed.keys(), command, words, status)
        if status == 2 or command in ("check", "verify"):
            assert {name: after.get(name) for name in before} == before, "nothing was to be written"
    finally:
        os.chdir(before_folder)
        shutil.rmtree(work)


def check_examples(base: Path, image_folder: Path, number: int) -> None:
    @settings(
        max_examples=number, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=number < 100
    )
    @given(st.sampled_from(FIRST), user_files, st.sampled_from(list(KNOWN)), flags)
    def run(first, files, command, given):
        nothing_is_lost(base, image_folder, first, files, command, given)

    run()


@pytest.mark.parametrize("name", ["log.jsonl", "checkpoints/step-000001/learned.safetensors", "README.md"])
def test_files_that_look_like_ours_stay(name, base, image_folder):
    line = b'{"step": 1, "loss": 0.5, "gradient_norm": 1.0}\n'
    files = {name: line if name == "log.jsonl" else "alike"}
    nothing_is_lost(base, image_folder, "lora", files, "lora", ["--overwrite_output_dir"])


@pytest.mark.parametrize("number", [12, pytest.param(400, marks=pytest.mark.slow)], ids=["few", "many"])
def test_no_file_of_the_user_is_changed_or_removed(number, base, image_folder):
    check_examples(base, image_folder, number)


def test_what_is_refused_when_the_model_is_known_removes_nothing(base, image_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = commands(base, image_folder, [])["infer"]
    assert called("infer", line) == 0
    before = state(tmp_path)
    assert called("infer", [*line, "--overwrite_output_dir", "--clip_skip", "11"]) == 2
    assert state(tmp_path) == before
    assert called("infer", [*line, "--overwrite_output_dir", "--seed", "5"]) == 0
    after = state(tmp_path)
    assert after.keys() == before.keys() and after["work/out/000.png"] != before["work/out/000.png"]


@pytest.mark.parametrize("name", ["../home/thesis.txt", "samples/thesis.txt", "/home/thesis.txt", "samples/empty"])
def test_a_strangers_run_folder_vouches_for_no_file_outside(name, tmp_path):
    """Its manifest names a file of the user by `..`, through a link, or absolutely; size and time of change are right."""
    home, run = tmp_path / "home", tmp_path / "run"
    for folder in (home, run):
        folder.mkdir()
    (home / "thesis.txt").write_text("my thesis")
    (home / "empty").touch()
    (run / "samples").symlink_to(home)
    name = str(tmp_path / name.lstrip("/")) if name.startswith("/") else name
    listing = manifest.text({name: {"size": (run / name).stat().st_size, "sha256": "unknown"}}).encode()
    (run / manifest.NAME).write_bytes(listing)
    (run / "config.toml").write_text("[train]\n")
    lines = [
        ownership.HEADER, {"name": manifest.NAME, "size": len(listing), "sha256": ownership.sha256(listing)},
        {"name": name, "changes": True, "started": 0}, {"name": name, "grows": True, "start": ""},
    ]  # fmt: skip
    (run / ownership.NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))
    run_folder.clear(run)
    assert (home / "thesis.txt").read_text() == "my thesis" and (home / "empty").exists()


def test_a_run_below_a_linked_folder_is_ours(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    run = tmp_path / "runs" / "one"
    with run_folder.claimed(run):
        write_text(run / "samples" / "a.txt", "a sample")
        assert not ownership.foreign(run / "samples")
    run_folder.clear(run)
    assert not (run / "samples").exists()
