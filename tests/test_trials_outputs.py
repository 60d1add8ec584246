"""Trials of results, streams, rights and memory: folders as people have them, command lines as typed, failing surroundings."""

import errno
import io
import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from customize import __main__
from customize.cli import main
from customize.cli.flags import diffusers_flags
from customize.cli.streams import Forgiving, forgiving
from customize.data.images.image_file import open_image
from customize.errors import InputError, ResourceError
from customize.evaluation import run_integrity
from customize.inference.run import image_folder
from customize.inference.run.grid import grid
from customize.methods import DreamBoothSettings, TextualInversionSettings
from customize.settings.files import run_folders
from customize.settings.inference import InferenceSettings
from customize.storage import atomic, checkpoint, disk, lock, numbered_folders, out_of_memory, ownership, run_folder
from customize.storage.resources import resources
from customize.training import output_folder

LORA = ["--instance_prompt", "a photo of sks dog", "--adapter", "lora"]


def dreambooth(**values) -> DreamBoothSettings:
    return DreamBoothSettings(**{"instance_prompt": "a photo of sks dog", "instance_data_dir": "photos", **values})


def infer(**values) -> InferenceSettings:
    return InferenceSettings(**{"prompt": ("a dog",), **values})


def wrote(folder: Path, *names: str) -> None:
    """A run of ours, as far as these files."""
    folder.mkdir(exist_ok=True)
    with ownership.recording(folder):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            atomic.write_text(folder / name, f"ours: {name}")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


SLUGS = {
    "a plain prompt": ("a dog in the snow", "a-dog-in-the-snow"),
    "capitals and signs": ("A DOG, (snow:1.3)!!", "a-dog-snow-1-3"),
    "accents": ("ein Häuschen à Zürich", "ein-hauschen-a-zurich"),
    "sharp s": ("Straße", "strasse"),
    "Japanese": ("犬", ""),
    "empty": ("", ""),
    "only signs": ("???///\\\\", ""),
    "reserved on Windows": ("CON", "con"),
    "a path": ("../../etc/passwd", "etc-passwd"),
    "line break": ("a\ndog\t\x00", "a-dog"),
    "an apostrophe": ("a dog's life", "a-dogs-life"),
    "emoji": ("🐕 dog 🐕", "dog"),
    "cut between words": ("a " + "very " * 30 + "long dog", "a-very-very-very-very-very-very-very"),
    "one endless word": ("x" * 300, "x" * 40),
    "trailing dots": ("dog...", "dog"),
    "composed otherwise": ("e\u0301te\u0301", "ete"),
}


@pytest.mark.parametrize(("text", "expected"), [pytest.param(*case, id=name) for name, case in SLUGS.items()])
def test_a_prompt_becomes_a_part_of_a_name(text, expected):
    assert numbered_folders.slug(text) == expected and len(expected.encode()) <= numbered_folders.LONGEST


NUMBERING = {
    "nothing there": ([], "", "0001"),
    "one of ours": (["0001-a"], "", "0002"),
    "a gap": (["0001", "0007-x"], "", "0008"),
    "a file has the number": (["0003-notes.txt"], "", "0004"),
    "other names": (["1", "12", "demo", "0x12"], "", "0001"),
    "of another method": (["textual_inversion-0009"], "dreambooth", "dreambooth-0001"),
    "a copy of a run": (["dreambooth-0002-copy"], "dreambooth", "dreambooth-0003"),
    "a number that another process takes": ([".0004"], "", "0005"),
    "beyond four digits": (["9999"], "", "10000"),
}


@pytest.mark.parametrize(("present", "stem", "expected"), [pytest.param(*case, id=name) for name, case in NUMBERING.items()])
def test_folder_numbers_continue(present, stem, expected, here):
    for name in present:
        (here / "parent" / name).mkdir(parents=True)
    assert numbered_folders.next_folder(here / "parent", stem).name == expected
    assert numbered_folders.new_folder(here / "parent", stem, "x").name == f"{expected}-x"
    assert numbered_folders.new_folder(here / "parent", stem).name != expected  # nor twice
    assert not any(path.name.startswith(".") and path.name not in present for path in (here / "parent").iterdir())


def test_concurrent_processes_get_different_numbers(here):
    children = []
    for _ in range(6):
        if not (child := os.fork()):
            for slug in ("a", "b", "c"):
                numbered_folders.new_folder(here / "images", slug=slug)
            os._exit(0)
        children.append(child)
    assert all(os.waitpid(child, 0)[1] == 0 for child in children)
    assert sorted(number for number, _ in numbered_folders.numbered(here / "images")) == list(range(1, 19))


USERS_IN_A_RUN = {
    "a card of his own": "README.md",
    "settings of another program": "customize.json",
    "a pipeline": "unet/mine.safetensors",
    "an index": "model_index.json",
    "a LoRA": "pytorch_lora_weights.safetensors",
    "a word": "learned_embeds_x.safetensors",
    "a log": "log.jsonl",
    "a manifest": "manifest.json",
    "a step of samples": "samples/step-000100/000.png",
    "the sheet": "samples/contact_sheet.png",
    "a checkpoint": "checkpoints/step-000500/state.json",
    "before and after": "before_after.png",
    "a file named as a folder of ours": "checkpoints",
    "a VAE": "vae/config.json",
}


@pytest.mark.parametrize("name", [pytest.param(name, id=what) for what, name in USERS_IN_A_RUN.items()])
@pytest.mark.parametrize("overwrite", [False, True], ids=["plain", "overwrite"])
def test_a_new_run_never_overwrites_files_of_the_user(name, overwrite, here):
    path = here / "run" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    with pytest.raises(InputError) as caught:
        output_folder.check(dreambooth(output_dir="run", overwrite_output_dir=overwrite))
    assert name in str(caught.value) and "overwrite_output_dir" not in str(caught.value) and path.read_bytes() == b"mine"


OUT_OF_THE_WAY = {
    "notes": "notes.txt",
    "anybody's config.toml": "config.toml",
    "a picture among samples": "samples/mine.png",
    "weights of his own": "weights/best.safetensors",
    "notes among checkpoints": "checkpoints/notes.txt",
    "hidden": ".notes",
    "macOS": ".DS_Store",
    "Windows": "Thumbs.db",
    "a photo": "001.png",
    "logs": "logs/old/events.out",
}


@pytest.mark.parametrize("name", [pytest.param(name, id=what) for what, name in OUT_OF_THE_WAY.items()])
def test_a_run_may_share_a_folder_with_files_it_does_not_overwrite(name, here):
    path = here / "run" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    settings = dreambooth(output_dir="run", overwrite_output_dir=True)
    assert output_folder.check(settings) == Path("run")
    with run_folder.claimed(Path("run")):
        run_folder.clear(Path("run"))
        written = output_folder.write_config(settings, Path("run"))
    assert written.name == ("config-2.toml" if name == "config.toml" else "config.toml") and path.read_bytes() == b"mine"


def test_an_earlier_run_is_removed_file_by_file_and_edited_files_stay(here, capsys, terminal):
    run = here / "run"
    wrote(run, "config.toml", "README.md", "samples/step-000001/000.png", "checkpoints/step-000002/state.json", "log.txt")
    (run / "samples/mine.png").write_bytes(b"mine")
    with pytest.raises(InputError, match="already contains a run \\(5 files\\)"):
        output_folder.check(dreambooth(output_dir="run"))
    settings = dreambooth(output_dir="run", overwrite_output_dir=True)
    assert output_folder.removal(settings, Path("run")) == (
        "overwrite_output_dir removes 5 files of an earlier run in run: README.md, "
        "checkpoints/step-000002/state.json, config.toml, log.txt, samples/step-000001/000.png"
    )
    (run / "log.txt").write_text("edited")
    run_folder.clear(run)
    left = sorted(path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file())
    assert left == [ownership.NAME, "log.txt", "samples/mine.png"]
    wrote(run, "README.md", "log.txt")
    assert (run / "log.txt").read_text() == "edited" and (run / "log-2.txt").read_text() == "ours: log.txt"
    assert "note: " in capsys.readouterr().err


def test_a_run_of_an_earlier_version_is_explained(here):
    (here / "run/checkpoints/step-000002").mkdir(parents=True)
    for name in ("config.toml", "log.jsonl", "checkpoints/step-000002/state.json"):
        (here / "run" / name).write_text("{}")
    with pytest.raises(InputError, match="if it is a run of an earlier version, --resume_from_checkpoint latest resumes it"):
        output_folder.check(dreambooth(output_dir="run", overwrite_output_dir=True))
    assert output_folder.check(dreambooth(output_dir="run", resume_from_checkpoint="latest")) == Path("run")


def test_the_configuration_that_was_given_is_never_written_to(here):
    (here / "run").mkdir()
    text = '# my notes\ninstance_prompt = "a photo of sks dog"\ninstance_data_dir = "photos"\noutput_dir = "run"\n'
    (here / "run/config.toml").write_text(text)
    settings, _ = main.read(DreamBoothSettings, ["run/config.toml"])
    with run_folder.claimed(output_folder.check(settings)):
        first = output_folder.write_config(settings, Path("run"))
        settings, _ = main.read(DreamBoothSettings, [str(first), "--seed", "4"])  # ours, and given: not written to either
        assert output_folder.write_config(settings, Path("run")).name == "config-3.toml"
    assert first.name == "config-2.toml" and (here / "run/config.toml").read_text() == text


@pytest.mark.parametrize("content", ["text", "link", "a dictionary"])
def test_an_invalid_record_is_refused_and_left(content, here):
    (here / "run").mkdir()
    path = here / "run" / ownership.NAME
    path.symlink_to(here / "elsewhere") if content == "link" else path.write_text("mine" if content == "text" else "{}")
    with pytest.raises(InputError, match="is not a record of written files"):
        output_folder.check(dreambooth(output_dir="run"))
    assert not (here / "elsewhere").exists()


@pytest.mark.parametrize("content", ["mine", "12 34", "7\n", "0x7"], ids=str)
def test_a_lock_of_another_program_is_left(content, here):
    (here / lock.NAME).write_text(content)
    with pytest.raises(InputError, match="is not the lock file of a run"), lock.hold(here):
        pass
    assert (here / lock.NAME).read_text() == content


def test_latest_without_a_folder_is_the_newest_run_of_the_same_subject(here, capsys):
    def begun(number: int, **values) -> None:
        folder = here / f"runs/dreambooth-{number:04d}"
        (folder / "checkpoints/step-000001").mkdir(parents=True)
        (folder / "config.toml").write_text(dreambooth(**values).to_toml())

    latest = {"resume_from_checkpoint": "latest"}
    assert run_folders.place(dreambooth(**latest)) == Path("runs/dreambooth-0001")  # nothing to go on with
    begun(1)
    begun(2, instance_prompt="a photo of sks cat")
    (here / "runs/dreambooth-0003").mkdir()
    assert run_folders.place(dreambooth(**latest)) == Path("runs/dreambooth-0001")
    assert run_folders.place(dreambooth(**latest, instance_prompt="a photo of sks cat")) == Path("runs/dreambooth-0002")
    assert run_folders.place(dreambooth()) == Path("runs/dreambooth-0004")
    with pytest.raises(InputError, match="no run in runs matches these settings: dreambooth-0002, dreambooth-0001 "):
        run_folders.place(dreambooth(**latest, instance_prompt="sks fox"))
    given = dreambooth(resume_from_checkpoint="runs/dreambooth-0002/checkpoints/step-000001")
    assert run_folders.place(given) == Path("runs/dreambooth-0002")
    with pytest.raises(InputError, match="is not a checkpoint in a run folder"):
        run_folders.place(dreambooth(resume_from_checkpoint="runs/dreambooth-0002"))


IMAGES = {
    "an empty folder": ([], 0, ""),
    "the user's photos": (["001.png", "002.jpg"], 3, ""),
    "a sheet of his": (["sheet.png"], 0, "-000"),
    "a config of his": (["config.toml"], 0, "-000"),
    "a date for a name": (["20240101.jpg"], 0, ""),
    "camera names": (["IMG_1234.JPG"], 0, ""),
    "of an earlier job": (["003.png", "003-trace.gif", "config-003.toml"], 4, ""),
    "a link": (["-> 009.png"], 10, ""),
    "four digits": (["1000.png"], 1001, ""),
    "a folder with a number": (["005/"], 6, ""),
    "short numbers": (["1.png", "22.png"], 0, ""),
}


@pytest.mark.parametrize(("present", "start", "suffix"), [pytest.param(*case, id=name) for name, case in IMAGES.items()])
def test_image_numbers_continue(present, start, suffix, here):
    out = here / "out"
    out.mkdir()
    for name in present:
        if name.startswith("-> "):
            (out / name[3:]).symlink_to("nowhere")
        else:
            (out / name).mkdir() if name.endswith("/") else (out / name).write_text("mine")
    before = {path: path.lstat().st_mtime_ns for path in out.iterdir()}
    with image_folder.claimed(infer(output_dir="out", overwrite_output_dir=True), 2) as place:
        assert (place.start, place.suffix, place.image(1).name) == (start, suffix, f"{start + 1:03d}.png")
        with image_folder.claimed(infer(output_dir="out", seed=1), 3) as other:  # while the first has no image yet
            assert other.start == start + 2
    assert all(path.lstat().st_mtime_ns == time for path, time in before.items() if path.name != "config.toml")


LARGE = {
    "10^9 by sweeps": (["sweep", "seed=1..1000", "guidance_scale=1..100..0.1", "num_inference_steps=1..1000"], "991,000,000"),
    "100 x 100": (["sweep", "seed=1..100", "guidance_scale=1..100"], "10,000"),
    "num_images": (["num_images", "5000"], "5,000"),
}


@pytest.mark.parametrize(("asked", "count"), [pytest.param(*case, id=name) for name, case in LARGE.items()])
def test_more_images_than_max_images_are_refused_at_once(asked, count):
    name, *values = asked
    with pytest.raises(InputError) as caught:
        grid(infer(**{name: tuple(values) if name == "sweep" else int(values[0])}))
    assert f"{count} images requested" in str(caught.value) and "--max_images" in str(caught.value)


class Broken(io.StringIO):
    """A stream that fails after some writes."""

    def __init__(self, after: int, error: Exception):
        super().__init__()
        self.after, self.error = after, error

    def write(self, text: str) -> int:
        self.after -= 1
        if self.after < 0:
            raise self.error
        return super().write(text)


ERRORS = {
    "a reader that is gone": BrokenPipeError(errno.EPIPE, "Broken pipe"),
    "a full disk": OSError(errno.ENOSPC, "No space left"),
    "a broken disk": OSError(errno.EIO, "I/O error"),
    "a closed file": ValueError("I/O operation on closed file"),
    "a terminal that hung up": OSError(errno.EBADF, "Bad file descriptor"),
}
COMMANDS = {
    "infer --help": (lambda: main.main(InferenceSettings, print, ["--help"]), 0),
    "a refusal": (lambda: main.main(InferenceSettings, print, ["--nonsense", "1"]), 2),
    "customize": (lambda: __main__.main([]), 2),
    "verify nothing": (lambda: __main__.main(["verify", "nowhere"]), 2),
    "check nothing": (lambda: __main__.main(["check", "nowhere"]), 2),
    "a job": (lambda: main.main(InferenceSettings, print, ["--prompt", "x"]), 0),
}


@pytest.mark.parametrize("error", [pytest.param(error, id=name) for name, error in ERRORS.items()])
@pytest.mark.parametrize(("command", "status"), [pytest.param(*case, id=name) for name, case in COMMANDS.items()])
def test_output_that_takes_no_text_changes_no_exit_status(command, status, error, monkeypatch):
    for after in (0, 1):
        monkeypatch.setattr(sys, "stdout", Broken(after, error))
        monkeypatch.setattr(sys, "stderr", Broken(after, error))
        assert command() == status


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
def test_letters_that_an_encoding_lacks_are_escaped(encoding, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    with forgiving():
        print("犬 -> 1 step")
    assert raw.getvalue() == b"\\u72ac -> 1 step\n"


def test_a_closed_stream_is_replaced_by_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with forgiving():
        print("nobody reads this")
    assert isinstance(Forgiving(io.StringIO()).write("three"), int)


MEMORY = {
    "Python": MemoryError(),
    "torch on a CPU": RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
    "CUDA": RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "oneDNN": RuntimeError("could not create a primitive"),
    "mmap": OSError(errno.ENOMEM, "Cannot allocate memory"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"),
    "a library that does not load": ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    "threads": RuntimeError("can't start new thread"),
    "C++": RuntimeError("std::bad_alloc"),
    "numpy": MemoryError("Unable to allocate 3.00 GiB for an array"),
}


@pytest.mark.parametrize("error", [pytest.param(error, id=name) for name, error in MEMORY.items()])
def test_out_of_memory_is_reported_as_such(error, monkeypatch, capsys):
    def fails(settings=None):
        raise error

    def taken_for_a_fault_of_the_file(settings):
        try:
            fails()
        except Exception as cause:
            raise InputError(run_folder.Problem("model", "is damaged", "copy the model again")) from cause

    assert out_of_memory.caused(error)
    for work in (fails, taken_for_a_fault_of_the_file):
        assert main.main(InferenceSettings, work, ["--prompt", "x"]) == 3
        output = capsys.readouterr().err
        assert "out of memory\n    -> " in output and "Traceback" not in output and "again" not in output
    with pytest.raises(ResourceError, match="out of memory\n    -> take less"), resources("take less", "make room"):
        raise error


@pytest.mark.parametrize("error", [pytest.param(MEMORY[name], id=name) for name in ("Python", "mmap", "numpy")])
def test_a_valid_image_is_not_called_damaged_if_memory_runs_out(error, here, monkeypatch):
    Image.new("RGB", (64, 64)).save(here / "a.jpg")

    def fails(self):
        raise error

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fails)
    with pytest.raises((MemoryError, OSError)) as caught:
        open_image(here / "a.jpg")
    assert out_of_memory.caused(caught.value) and not isinstance(caught.value, InputError)


OTHERS = [ValueError("x"), RuntimeError("shape mismatch"), OSError(errno.ENOENT, "no"), KeyError("memory")]


@pytest.mark.parametrize("error", OTHERS, ids=repr)
def test_other_errors_are_not_out_of_memory(error):
    assert not out_of_memory.caused(error)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS], ids=["EACCES", "EPERM", "EROFS"])
def test_permissions_that_change_during_a_run_are_resource_errors(number, here, monkeypatch, capsys):
    def refuse(*arguments, **options):
        raise OSError(number, os.strerror(number), "checkpoints/step-000002")

    with monkeypatch.context() as patch, pytest.raises(disk.WriteError) as caught:
        patch.setattr(os, "replace", refuse)
        atomic.write_text(here / "a.txt", "x")
    with pytest.raises(ResourceError, match="cannot write .*a.txt"), resources("less", "make room, then go on"):
        raise caught.value
    assert main.main(InferenceSettings, refuse, ["--prompt", "x"]) == 3
    output = capsys.readouterr().err
    assert "checkpoints/step-000002: " in output and "Traceback" not in output


@pytest.mark.parametrize("command", ["infer", "check", "verify", "train"])
def test_a_removed_folder_is_reported(command, here, capsys, monkeypatch):
    gone = here / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    words = {"check": ["check", "photos"], "verify": ["verify", "run"]}.get(command)
    status = __main__.main(words) if words else main.main(
        InferenceSettings if command == "infer" else DreamBoothSettings, print, ["--prompt", "x"] if command == "infer" else LORA
    )  # fmt: skip
    output = capsys.readouterr().err
    monkeypatch.chdir(here)
    assert status == 2 and "current folder: was removed" in output and "Traceback" not in output


@pytest.mark.parametrize("place", ["checkpoints", "samples", "weights"])
def test_unreadable_folders_are_reported_at_once(place, here, monkeypatch):
    from customize.training import preflight

    (here / "run" / place).mkdir(parents=True)
    listed = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: refused(path) if Path(path).name == place else listed(path))
    problems = []
    preflight.attempt(lambda: output_folder.check(dreambooth(output_dir="run")), problems)
    assert [(problem.where, problem.what) for problem in problems] == [(f"run/{place}", "cannot be read (Permission denied)")]


def refused(path):
    raise PermissionError(errno.EACCES, "Permission denied", str(path))


@pytest.mark.parametrize("kind", ["folder", "link", "text"])
def test_verify_calls_no_unusable_folder_intact(kind, here):
    (here / "run").mkdir()
    (here / "run/config.toml").write_text("")
    path = here / "run" / lock.NAME
    {"folder": path.mkdir, "link": lambda: path.symlink_to("config.toml"), "text": lambda: path.write_text("mine")}[kind]()
    found = [each for each in run_integrity.run(here / "run") if each.what == "lock"]
    assert [each.intact for each in found] == [False] and "is not the lock file of a run" in found[0].detail


LAUNCHED = {
    "DeepSpeed": ("ACCELERATE_USE_DEEPSPEED", "true"),
    "in capitals": ("ACCELERATE_USE_DEEPSPEED", "True"),
    "Megatron-LM": ("ACCELERATE_USE_MEGATRON_LM", "1"),
    "parallelism": ("ACCELERATE_USE_PARALLELISM_CONFIG", "true"),
}


@pytest.mark.parametrize(("name", "value"), [pytest.param(*case, id=what) for what, case in LAUNCHED.items()])
@pytest.mark.parametrize("model", [DreamBoothSettings, TextualInversionSettings])
def test_split_models_are_refused_before_anything_loads(name, value, model, monkeypatch, capsys):
    monkeypatch.setenv(name, value)
    assert main.main(model, print, []) == 2
    output = capsys.readouterr().err
    assert "accelerate launch: requests " in output and "MULTI_GPU or FSDP" in output and "Traceback" not in output
    monkeypatch.setenv(name, "false")
    assert diffusers_flags.launch_problems(model) == [] and diffusers_flags.launch_problems(InferenceSettings) == []


def test_a_checkpoint_does_not_replace_a_folder_of_the_user(here):
    run = here / "run"
    (run / "checkpoints/step-000002").mkdir(parents=True)
    (run / "checkpoints/step-000002/mine.txt").write_text("mine")
    with ownership.recording(run), atomic.new_folder(run / "checkpoints/step-000002") as unfinished:
        (unfinished / "state.json").write_text("{}")
    assert [path.name for path in checkpoint.every(run / "checkpoints")] == ["step-000002-2", "step-000002"]
    assert (run / "checkpoints/step-000002/mine.txt").read_text() == "mine"


def test_a_result_does_not_replace_a_file_of_the_user(here):
    (here / "README.md").write_text("mine")
    with ownership.recording(here):
        with atomic.new_entries(here, unlisted=("README.md",)) as unfinished:
            (unfinished / "weights.safetensors").write_text("ours")
            (unfinished / "README.md").write_text("ours")
        assert (here / "README.md").read_text() == "mine" and (here / "README-2.md").read_text() == "ours"
        (here / "weights.safetensors").write_text("mine")
        with pytest.raises(FileExistsError, match="not written by this run"), atomic.new_entries(here) as unfinished:
            (unfinished / "weights.safetensors").write_text("new")
    assert (here / "weights.safetensors").read_text() == "mine"


def test_a_merged_file_replaces_only_one_that_was_merged(here):
    from customize.inference.run import merge

    target = here / "one.safetensors"
    target.write_bytes(b"mine")
    assert merge.of_others(target) == [target]
    target.unlink()
    with ownership.recording(here):
        atomic.write_bytes(target, b"ours")
    assert merge.of_others(target) == []
    (here / "model/unet").mkdir(parents=True)
    (here / "model/model_index.json").write_text("{}")
    assert merge.of_others(here / "model") == [here / "model/model_index.json"]
    ownership.sign(here / "model")
    assert merge.of_others(here / "model") == []
    (here / "model/unet/mine.txt").write_text("mine")
    assert merge.of_others(here / "model") == [here / "model/unet/mine.txt"]


@pytest.mark.parametrize("present", [0, 300, 5000])
def test_class_images_beyond_max_images_are_refused_before_anything_loads(present):
    from types import SimpleNamespace

    from customize.training.preflight import too_many_class_images

    examples = SimpleNamespace(classes=[SimpleNamespace(concept=0)] * present)
    given = {"prior_preservation": "images", "class_prompt": "a dog", "class_data_dir": "class", "num_class_images": 5000}
    problems = too_many_class_images(dreambooth(**given), examples)
    assert [problem.what for problem in problems] == (
        [f"{5000 - present:,} class images would be generated, more than max_images = 1,000"] if present < 4000 else []
    )
    assert too_many_class_images(dreambooth(**given, max_images=5000), examples) == []
    assert too_many_class_images(dreambooth(), examples) == []


STEPS = {
    "DDIMScheduler": 999,
    "DDPMScheduler": 999,
    "PNDMScheduler": 999,
    "DPMSolverMultistepScheduler": 999,
    "UniPCMultistepScheduler": 999,
    "DEISMultistepScheduler": 999,
    "EulerDiscreteScheduler": 1000,
    "LCMScheduler": 50,
}


@pytest.mark.parametrize(("name", "most"), [pytest.param(*case, id=case[0]) for case in STEPS.items()])
def test_the_most_steps_that_a_scheduler_can_make(name, most):
    """Those that `most` allows are steps of diffusers' own schedulers that stay within the 1000 timesteps of the model."""
    from diffusers import DDIMScheduler

    from customize.inference.schedulers import make_scheduler
    from customize.inference.solvers import Solver

    base = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, clip_sample=False)
    scheduler = make_scheduler(base, name)
    solver = Solver(scheduler)
    solver.set_steps(most)
    assert solver.first == 0
    assert (
        len(set(scheduler.timesteps.tolist())) >= most - 1 and 0 <= scheduler.timesteps.min() <= scheduler.timesteps.max() <= 999
    )
    for number in {1000, most + 1} - {most}:
        with pytest.raises(InputError, match=f"use at most {most}; 20 to 50 is usual"):
            Solver(make_scheduler(base, name)).set_steps(number)
