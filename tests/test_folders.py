"""Real-world image folders in complete runs: faults are reported, and unusual but valid files change no bit."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import corpus
import pytest
from kit import settings_for, write_images
from whole_runs import Run

from customize.data.examples import load_examples
from customize.errors import InputError, ResourceError
from customize.training.preflight import check

ROOT = Path(__file__).parents[1]


def lora(server, base: Path, folder: Path, image_folder: Path, **changes) -> Run:
    return Run(server, folder, "lora", base, image_folder, max_train_steps=2, **changes)


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no text")
def test_accepted_images_can_be_trained_on(server, tiny_epsilon, tmp_path):
    """Names that are no text and names with line breaks come into the log and messages; every picture is drawn."""
    (tmp_path / "set").mkdir()
    for name, (content, _, _) in corpus.accepted().items():
        with open(os.fsencode(tmp_path / "set") + b"/" + name, "wb") as file:
            file.write(content)
    half = math.ceil(len(corpus.accepted()) / 2)
    run = Run(server, tmp_path, "lora", tiny_epsilon, tmp_path / "set", max_train_steps=2, train_batch_size=half)
    status, output = run()
    assert status == 0 and "these images are identical" in output and "Traceback" not in output, output
    assert len(run.losses()) == 2 and "\x1b" not in output


def test_ignored_files_change_no_bit_of_the_result(server, tiny_epsilon, image_folder, tmp_path):
    folder = shutil.copytree(image_folder, tmp_path / "set")
    plain = lora(server, tiny_epsilon, tmp_path / "plain", folder)
    assert plain()[0] == 0
    names = corpus.put_ignored(folder)
    run = lora(server, tiny_epsilon, tmp_path / "beside", folder)
    status, output = run()
    assert status == 0 and run.result() == plain.result() and run.losses() == plain.losses()
    others = [name for name in names if name != "alone.txt"]
    assert output.count(f"ignored, not images ({len(others)}): {', '.join(others)}") == 1
    assert output.count("text files that do not belong to an image in this folder, not used (1): alone.txt") == 1


def test_one_image_and_two_equal_ones_train_with_a_note(server, tiny_epsilon, tmp_path):
    folder = write_images(tmp_path / "set", 1)
    for words in ("note: there is only one image", "note: these images are identical: 0.png, 1.png"):
        status, output = lora(server, tiny_epsilon, tmp_path / words[6:15].strip(), folder)()
        assert status == 0 and words in output, output
        shutil.copy(folder / "0.png", folder / "1.png")


@pytest.mark.parametrize("damage", ["changed", "cut", "removed"])
def test_an_image_that_is_damaged_between_check_and_use(damage, tiny_epsilon, image_folder, tmp_path):
    """It is read again, once, before the first step, so that there is no state to save yet; no other takes its place."""
    from accelerate import Accelerator

    from customize.families import load
    from customize.methods import prepare
    from customize.training.setup import RunContext

    folder = shutil.copytree(image_folder, tmp_path / "set")
    settings = settings_for("lora", tiny_epsilon, folder, tmp_path / "out", max_train_steps=400)
    _, source, examples = check(settings)
    whole = (folder / "1.png").read_bytes()
    if damage == "removed":
        (folder / "1.png").unlink()
    else:
        (folder / "1.png").write_bytes(corpus.encoded(corpus.PLAIN, "PNG") if damage == "changed" else whole[:300])
    with pytest.raises(ResourceError, match="an image has changed since it was checked") as caught:
        prepare(settings, RunContext(settings, Accelerator(cpu=True), load(source), examples, 0))
    assert f"{folder / '1.png'}: " in str(caught.value) and "0.png" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_run_whose_images_vanish_after_the_check_names_one(server, tiny_epsilon, image_folder, tmp_path):
    """While class pictures are made, which takes its time."""
    folder = shutil.copytree(image_folder, tmp_path / "set")
    prior = {"prior_preservation": "images", "class_prompt": "a dog", "num_class_images": 1, "sample_inference_steps": 1}
    run = lora(server, tiny_epsilon, tmp_path, folder, class_data_dir=str(tmp_path / "class"), **prior)
    status, output = run(moment="at a class picture", action=f"remove {folder}")
    assert status == 3 and f"{folder / '0.png'}: does not exist" in output and "Traceback" not in output, output
    assert not run.folder.exists()


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    """Whoever runs the tests may read everything, hence not by its mode."""
    write_images(tmp_path / "set")
    settings = settings_for("lora", tmp_path / "base", tmp_path / "set", tmp_path / "out")
    scandir = os.scandir

    def denied(path):
        if str(path) == str(tmp_path / "set"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(InputError) as caught:
        load_examples(settings)
    (problem,) = caught.value.problems
    assert problem.where == f"instance_data_dir {tmp_path / 'set'}" and problem.what == "cannot be listed: Permission denied"


LEADING_OUT = (
    "/etc/passwd", "../outside.png", "sub/../../outside.png", "..\\outside.png", "C:\\outside.png", "https://example.org/a.png",
    "http://127.0.0.1:9/a.png", "file:///etc/passwd", "\\\\host\\share\\a.png", "~/a.png", "sub/../0.png", "link/../outside.png",
)  # fmt: skip


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_no_name_in_a_table_leads_out_of_the_folder(tmp_path, name):
    """Seen by a hook on every file that is opened or listed and every socket, in a process of its own."""
    folder = write_images(tmp_path / "set")
    write_images(folder / "sub", 1)
    (tmp_path / "outside.png").write_bytes(corpus.encoded(corpus.PLAIN, "PNG"))
    rows = [json.dumps({"file_name": each, "text": "x"}) for each in LEADING_OUT]
    if name.endswith("csv"):
        rows = ["file_name,text", *(f'"{each}",x' for each in LEADING_OUT)]
    (folder / name).write_text("\n".join(rows))
    code = """
import os, sys
from customize.methods import DreamBoothSettings
from customize.data.examples import load_examples
from customize.errors import InputError, ResourceError
settings = DreamBoothSettings(instance_prompt="x", instance_data_dir=sys.argv[1])
seen = []
sys.addaudithook(lambda event, args: seen.append((event, args)))
try:
    load_examples(settings)
except InputError as error:
    problems = error.problems
touched = [args[0] for event, args in seen if event in ("open", "os.listdir", "os.scandir")]
print(len(problems), all(problem.what.startswith(("contains a", "refers to")) for problem in problems))
print(any(event.startswith(("socket.", "subprocess.", "os.exec", "os.system", "urllib.")) for event, _ in seen))
for path in {os.fsdecode(path) for path in touched if isinstance(path, str | bytes | os.PathLike)}:
    print(os.path.realpath(path))
"""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    words = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT, env=environment)
    counted, called, *paths = done.stdout.splitlines()
    assert (counted, called) == (f"{len(LEADING_OUT)} True", "False")
    data = [
        path for path in paths if not path.startswith((sys.prefix, sys.base_prefix, str(ROOT), "/proc", "/sys", "/dev", "/usr"))
    ]
    assert sorted(data) == sorted(str(path) for path in (folder, folder / name, *folder.glob("*.png")))


@pytest.mark.parametrize("token", ["photo", "Photo", "photo</w>", "<|endoftext|>", "<|startoftext|>", "a", "dog", "dog</w>"])
def test_a_word_of_the_model_is_no_placeholder(token, tiny_epsilon, image_folder, tmp_path):
    """Case 41: whole words, parts of words, special tokens; the good one beside it passes."""
    given = {"placeholder_token": (token,), "resolution": 16}
    with pytest.raises(InputError) as caught:
        check(settings_for("textual_inversion", tiny_epsilon, image_folder, tmp_path / "out", **given))
    assert [problem.where for problem in caught.value.problems] == ["placeholder_token"]
    assert check(settings_for("textual_inversion", tiny_epsilon, image_folder, tmp_path / "out", placeholder_token=("<photo>",)))


def test_an_initializer_is_a_phrase_of_at_least_one_token(tiny_epsilon):
    from customize.families import load, locate

    family = load(locate(str(tiny_epsilon)))
    table = family.text_encoder.get_input_embeddings().weight
    toy, dog = family.tokenizer("toy dog", add_special_tokens=False).input_ids
    assert family.text_encoders[0].initial_vectors("toy dog", 3).equal(table[[toy, dog, toy]])
    for words in ("", " ", "\u00a0", "\t\n"):
        with pytest.raises(InputError, match="contains no token"):
            family.text_encoders[0].initial_vectors(words, 1)
