"""Files from others, in every place where one is read: refused in words, with nothing of them run and nothing taken in silence.

An audit hook cannot be taken back, so what it watches runs in a process of its own.
"""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import corpus
import numpy as np
import pytest
from kit import METHODS, settings_for, write_images
from safetensors.numpy import save_file

from customize.data.images.image_file import open_image
from customize.errors import InputError
from customize.families import locate
from customize.storage.safetensors_header import read_header
from customize.weights.learned_weights import find_learned

ROOT = Path(__file__).parents[1]
NAMES = "weights.bin w.pt w.pth w.ckpt w.pkl w.safetensors w.json w.png w.jpg w.txt w.toml w.jsonl w.csv w".split()
PARTS = (
    "model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors", "text_encoder/config.json", "text_encoder/model.safetensors",
    "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json", "tokenizer/vocab.json", "tokenizer/added_tokens.json",
    "scheduler/scheduler_config.json",
)  # fmt: skip
RUNNER = """
import contextlib, io, json, os, sys, time
seen = []
def watch(event, args):
    if event == "pickle.find_class" or event.startswith(("subprocess.", "os.exec", "os.system", "socket.connect")):
        seen.append((event, str(args)))
sys.addaudithook(watch)
from customize.cli import main as cli, commands, check as doctor
from customize.methods import DreamBoothSettings, TextualInversionSettings
from customize.settings.inference import InferenceSettings
COMMANDS = {
    "check": doctor.main,
    "ti": lambda words: cli.main(TextualInversionSettings, commands.check_training, words),
    "db": lambda words: cli.main(DreamBoothSettings, commands.check_training, words),
    "train-ti": lambda words: cli.main(TextualInversionSettings, commands.run_training, words),
    "train-db": lambda words: cli.main(DreamBoothSettings, commands.run_training, words),
    "infer": lambda words: cli.main(InferenceSettings, commands.run_inference, words),
    "verify": commands.verify,
    "show": commands.show,
    "convert": commands.convert,
}
for line in sys.stdin:
    command, words = json.loads(line)
    out, err, seconds = io.StringIO(), io.StringIO(), time.perf_counter()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = COMMANDS[command](words)
    seconds = time.perf_counter() - seconds
    print(json.dumps([status, out.getvalue() + err.getvalue(), seconds, seen, "torch" in sys.modules]), flush=True)
"""


class Watched:
    """The commands, one after the other in a process with an audit hook. forbidden: how the events begin that may not be."""

    def __init__(self, folder: Path, forbidden: str = "", process: subprocess.Popen | None = None):
        self.forbidden = forbidden
        self.process = process or subprocess.Popen(
            [sys.executable, "-c", RUNNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "data sets")},
        )  # fmt: skip

    def __call__(self, command: str, *words: object) -> tuple[int, str]:
        """Exit status and output. Asserts that no class was looked up by a pickle, nothing started or called."""
        assert self.process.stdin and self.process.stdout
        print(json.dumps([command, [str(word) for word in words]]), file=self.process.stdin, flush=True)
        status, output, _, seen, _ = json.loads(self.process.stdout.readline())
        assert [event for event in seen if event[0].startswith(self.forbidden)] == [] and "Traceback" not in output, (
            seen,
            output,
        )
        return status, output


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    write_images(folder / "pictures")
    return folder


@pytest.fixture(scope="module")
def watched(work):
    run = Watched(work)
    yield run
    assert run.process.stdin
    run.process.stdin.close()
    run.process.wait(20)


@pytest.fixture
def canary(work):
    """A file that must not appear."""
    yield work / "CANARY"
    assert not (work / "CANARY").exists()


TI = ("--placeholder_token", "<new>", "--initializer_token", "toy", "--train_data_dir")
DB = ("--instance_prompt", "a photo of sks dog", "--instance_data_dir")


def test_the_pickles_would_run(tmp_path):
    """Else the tests below would prove nothing."""
    import pickle

    for name, content in corpus.pickles(tmp_path / "CANARY").items():
        if name.startswith("protocol"):
            pickle.loads(content)
            assert (tmp_path / "CANARY").exists()
            (tmp_path / "CANARY").unlink()


def test_a_pickle_is_refused_as_any_single_file(work, watched, canary):
    for kind, content in corpus.pickles(canary).items():
        for name in NAMES if kind in ("protocol 0", "protocol 2") else ("w.safetensors", "w.toml"):
            (work / name).write_bytes(content)
            uses = [
                ("infer", "--prompt", "x", "--weights", name),
                ("infer", "--prompt", "x", "--pretrained_model_name_or_path", f"./{name}"),
                ("db", *DB, "pictures", "--pretrained_model_name_or_path", f"./{name}"),
                ("infer", name, "--prompt", "x"),
                ("ti", name, *TI, "pictures"),
                ("check", name),
                ("show", name),
                ("convert", name, "out.safetensors"),
            ]
            if kind == "protocol 2":
                uses += [
                    ("infer", "--prompt", "x", "--image", name),
                    ("infer", "--prompt", "x", "--image", "pictures/0.png", "--mask_image", name),
                    ("db", *DB, name),
                    ("check", "pictures", "--pretrained_model_name_or_path", f"./{name}"),
                ]
            for use in uses:
                status, output = watched(*use)
                assert status == 2 and name in output, (kind, use, output)
            (work / name).unlink()


def test_a_pickle_is_identified_by_its_content(work, watched, canary):
    for kind, content in corpus.pickles(canary).items():
        (work / "lora.safetensors").write_bytes(content)
        output = watched("infer", "--prompt", "x", "--weights", "lora.safetensors")[1]
        assert ("is a pickle" in output) == (
            kind not in ("protocol 0", "protocol 1")
        ) or "not a complete safetensors file" in output
        assert "safetensors" in output
    for name in ("lora.bin", "lora.pt", "lora.ckpt", "lora.pkl"):
        (work / name).write_bytes(content)
        assert "pickle" in watched("infer", "--prompt", "x", "--weights", name)[1]


def test_pickles_in_a_folder_of_weights(work, watched, canary):
    for kind, content in corpus.pickles(canary).items():
        for name in ("learned_embeds.safetensors", "pytorch_lora_weights.safetensors", "learned_embeds.bin", "model_index.json"):
            folder = work / f"run {kind} {name}".replace(".", " ")
            folder.mkdir()
            (folder / name).write_bytes(content)
            status, output = watched("infer", "--prompt", "x", "--weights", folder)
            assert status == 2 and folder.name in output


def test_a_pickle_as_a_part_of_a_base_model(work, watched, canary, tiny_epsilon):
    import shutil

    for kind in ("protocol 0", "protocol 4"):
        content = corpus.pickles(canary)[kind]
        uses = ("check", "pictures"), ("infer", "--prompt", "x")
        for part in PARTS:
            folder = shutil.copytree(tiny_epsilon, work / "base")
            (folder / part).write_bytes(content)
            for use in uses if kind == "protocol 4" else uses[:1]:
                status, output = watched(*use, "--pretrained_model_name_or_path", folder, "--output_dir", work / "out")
                assert status == 2 and str(folder) in output, (kind, part, use, output)
            shutil.rmtree(folder)
        for part in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"):
            folder = shutil.copytree(tiny_epsilon, work / "base")
            (folder / f"{part}.safetensors").unlink()
            (folder / f"{part}.bin").write_bytes(content)
            status, output = watched("db", *DB, "pictures", "--pretrained_model_name_or_path", folder)
            assert status == 2 and "only pickles" in output
            shutil.rmtree(folder)
    assert not (work / "out").exists()


def test_pickles_among_images_and_captions(work, watched, canary):
    for kind, content in corpus.pickles(canary).items():
        for name, expected in {
            "0.jpg": 2, "0.png": 2, "0.webp": 2, "0.tiff": 2, "0.gif": 2, "metadata.jsonl": 2, "metadata.csv": 2,
            "0.json": None, "0.bin": 0, "0.pkl": 0, "0.pt": 0, "0.safetensors": 0,
        }.items():  # fmt: skip
            folder = write_images(work / f"pictures {kind} {name}")
            (folder / name).write_bytes(content)
            status, output = watched("check", folder, "--resolution", "16")
            if name != "0.json":  # a file of captions: refused where it holds no text
                assert status == expected, (kind, name, output)
            assert name in output, (kind, name, output)
        if not content.isascii():
            folder = write_images(work / f"captions {kind}")
            (folder / "0.txt").write_bytes(content)
            status, output = watched("check", folder, "--resolution", "16")
            assert status == 2 and "0.txt" in output


def test_pickles_in_a_run_folder(work, watched, canary):
    """A manifest that vouches for it makes no difference: what it vouches for is not unpickled."""
    from customize.storage import manifest

    for kind, content in corpus.pickles(canary).items():
        folder = work / f"state {kind}" / "checkpoints" / "step-000002"
        folder.mkdir(parents=True)
        for name in ("learned.safetensors", "state.safetensors", "state.json", "random_states_0.pkl", "optimizer.bin"):
            (folder / name).write_bytes(content)
        status, _ = watched("verify", folder.parents[1])
        assert status == 2
        manifest.write(folder)
        watched("verify", folder.parents[1])


@pytest.fixture(scope="module")
def training(work, watched):
    """The same with runs that train, in which libraries may start programs; a pickle they may not read."""
    return Watched(work, "pickle.find_class", watched.process)


def config(work: Path, method: str, base: Path, **changes) -> tuple[str, Path]:
    """The command of a run of 2 steps and its CONFIG.toml."""
    settings = settings_for(method, base, work / "pictures", work / f"run {method}", **{"max_train_steps": 2, **changes})
    file = work / f"{method}.toml"
    file.write_text(settings.to_toml())
    return "train-ti" if method == "textual_inversion" else "train-db", file


@pytest.mark.parametrize("methods", [pytest.param(METHODS, marks=pytest.mark.slow)], ids=["every method"])
def test_sound_runs_look_up_no_class_for_a_pickle(methods, work, training, tiny_epsilon):
    """All that reads and writes: training with class pictures, cache and samples, resuming, merging, generating, verifying."""
    place = work / f"sound {len(methods)}"
    write_images(place / "pictures")
    prior = {
        "prior_preservation": "images",
        "class_prompt": "a dog",
        "class_data_dir": str(place / "class"),
        "num_class_images": 1,
    }
    more = {"latents_cache_dir": str(place / "cache"), "sample_inference_steps": 1, "validation_prompt": ("a dog",)}
    more |= {"num_validation_images": 1, "validation_steps": 2}
    changes = {"textual_inversion": {}, "lora": prior, "full": {"train_text_encoder": True}}
    for method in methods:
        command, file = config(place, method, tiny_epsilon, **changes[method], **more)
        assert training(command, file)[0] == 0
        resume = ("--resume_from_checkpoint", "latest", "--max_train_steps", "3")
        status, output = training(command, file, *resume)
        assert status == 0 and "resuming after step 2" in output, output
        assert training("verify", place / f"run {method}")[0] == 0
    learned = [place / f"run {method}" for method in methods if method != "full"]
    asked = ("--num_inference_steps", "1", "--overwrite_output_dir")
    picture = place / "made" / "000.png"
    for words in (
        ["--prompt", "a <new>", "--weights", *learned, "--output_dir", place / "made"],
        ["--like", picture, "--output_dir", place / "again"],
        ["--prompt", "a dog", "--image", picture, "--strength", "1", "--output_dir", place / "inpainted"],
        ["--weights", *learned, "--merge", place / "merged"],
        *(
            [["--prompt", "a dog", "--weights", place / "run full", "--output_dir", place / "of full"]]
            if "full" in methods
            else []
        ),
    ):
        status, output = training("infer", *words, *(() if "--merge" in words else asked))
        assert status == 0, output


@pytest.mark.parametrize(
    "kinds",
    [["torch"], pytest.param(["protocol 0", "protocol 4", "torch", "torch before 1.6"], marks=pytest.mark.slow)],
    ids=["one", "every"],
)
def test_pickles_in_all_files_that_training_reads_again(kinds, work, training, canary, tiny_epsilon):
    """Checkpoints with valid manifests, cache entries, class images and their descriptions."""
    from customize.storage import manifest

    folders = {"latents_cache_dir": str(work / "cache 2"), "class_data_dir": str(work / "class 2")}
    prior = {"prior_preservation": "images", "class_prompt": "a dog", "num_class_images": 1, "sample_inference_steps": 1}
    command, file = config(work, "lora", tiny_epsilon, **folders, **prior)
    run = work / "run lora"
    assert training(command, file, "--overwrite_output_dir")[0] == 0
    step = run / "checkpoints" / "step-000002"
    entry, picture = next((work / "cache 2").iterdir()), work / "class 2" / "class-000000.png"
    note = work / "class 2" / ".class_pictures.json"
    for kind in kinds:
        content = corpus.pickles(canary)[kind]
        for state in sorted(step.glob("*[!manifest].*")):
            whole = state.read_bytes()
            state.write_bytes(content)
            manifest.write(step)
            status, output = training(command, file, "--resume_from_checkpoint", "latest", "--max_train_steps", "3")
            assert status == 2 and "not contain the state of a run" in output, (kind, state, output)
            state.write_bytes(whole)
        manifest.write(step)
        for place, status, words in ((entry, 0, "will be recomputed"), (picture, 2, str(picture)), (note, 2, "class_data_dir")):
            whole = place.read_bytes()
            place.write_bytes(content)
            ended, output = training(command, file, "--overwrite_output_dir")
            assert ended == status and words in output, (kind, place, output)
            place.write_bytes(whole)


def test_pickles_in_all_inputs_of_generation(work, watched, canary, tiny_epsilon):
    """A picture to be made like, its text chunk, one to start from and its mask; files to merge; what a result says of itself."""
    import shutil

    for content in corpus.pickles(canary).values():
        for name in ("like.png", "like.jpg"):
            (work / name).write_bytes(content)
            status, output = watched("infer", "--like", name)
            assert status == 2 and name in output
        for chunk in (b"customize", b"parameters", b"prompt", b"workflow"):
            text = corpus.chunk(b"tEXt", chunk + b"\0" + content)
            (work / "told.png").write_bytes(corpus.png(1, 1, 8, 0, b"\0\0", text))
            status, output = watched(
                "infer", "--like", "told.png", "--output_dir", work / "of told", "--prompt", "x", "--scheduler", "No"
            )
            assert status == 2, output
        for name in ("merged.safetensors", "merged.bin", "merged.pt"):
            (work / name).write_bytes(content)
            status, output = watched("infer", "--weights", name, "--merge", work / "merged by force")
            assert status == 2 and name in output
    model = shutil.copytree(tiny_epsilon, work / "complete")
    (model / "customize.json").write_bytes(content)
    status, output = watched("infer", "--prompt", "x", "--weights", model)
    assert status == 2 and "customize.json has damaged metadata" in output
    assert not (work / "merged by force").exists() and not (work / "of told").exists()


def test_pickles_and_archives_in_a_data_set(work, training, canary):
    """`datasets` reads these folders: of a format that it does not know nothing, and an archive leaves nothing elsewhere."""
    import io
    import zipfile

    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("../../../evil.png", corpus.encoded(corpus.PLAIN, "PNG"))
        file.writestr(str(work / "EVIL.png"), b"x")
    kinds = {**corpus.pickles(canary), "archive": packed.getvalue()}
    for name in ("data.pkl", "data.pt", "train.parquet", "train.arrow", "data.zip", "set.py", "state.json", "dataset_info.json"):
        for kind in ("protocol 0", "protocol 4", "torch", "archive"):
            folder = work / "sets" / f"{kind} {name}".replace(".", " ")
            folder.mkdir(parents=True)
            (folder / name).write_bytes(kinds[kind])
            words = ("--instance_prompt", "x", "--dataset_name", folder, "--resolution", "16")
            status, output = training("db", *words)
            assert status == 2 and str(folder) in output, (kind, name, output)
    assert not (work / "EVIL.png").exists() and not any(work.parent.rglob("evil.png"))


# safetensors


def embedding(path: Path, **tensors) -> Path:
    save_file(tensors or {"<new>": np.ones((2, 32), np.float32)}, path)
    return path


@pytest.mark.parametrize("fault", corpus.bad_safetensors())
def test_an_invalid_safetensors_file_is_refused_everywhere(tmp_path, tiny_epsilon, fault):
    content, cause = corpus.bad_safetensors()[fault]
    file = tmp_path / "pytorch_lora_weights.safetensors"
    file.write_bytes(content)
    base = tmp_path / "base"
    base.mkdir()
    for part in tiny_epsilon.iterdir():
        os.symlink(part, base / part.name)
    (base / "unet").unlink()
    (base / "unet").mkdir()
    (base / "unet" / "config.json").write_bytes((tiny_epsilon / "unet" / "config.json").read_bytes())
    (base / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(content)
    for use in (
        lambda: find_learned(None, [(file, 1.0)]),
        lambda: find_learned(None, [(tmp_path, 1.0)]),
        lambda: locate(str(file)),
        lambda: locate(str(base)),
        lambda: read_header(file),
    ):
        with pytest.raises(InputError) as caught:
            use()
        (problem,) = caught.value.problems
        assert cause in problem.what and "safetensors" in problem.where and str(problem).replace("\n    -> ", "").isprintable()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused_in_learned_weights(tmp_path, value):
    for name, key in (("learned_embeds", "<new>"), ("pytorch_lora_weights", "unet.conv.lora_A.weight")):
        for dtype in (np.float16, np.float32):
            tensor = np.ones((2, 32), dtype)
            tensor[1, 5] = value
            file = embedding(tmp_path / f"{name}.safetensors", **{key: tensor})
            with pytest.raises(InputError, match="NaN or infinity in 1 of 1 tensors"):
                find_learned(None, [(file, 1.0)])


def test_learned_weights_without_usable_tensors(tmp_path):
    arrays = np.ones((2, 3, 4), np.float32), np.zeros((0, 32), np.float32), np.ones(3, np.int64)
    for tensors in ({}, *({"<x>": array} for array in arrays)):
        save_file(tensors, tmp_path / "x.safetensors")
        with pytest.raises(InputError):
            find_learned(None, [(tmp_path / "x.safetensors", 1.0)])
        with pytest.raises(InputError):
            locate(str(tmp_path / "x.safetensors"))


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_nan_and_infinity_are_refused_in_a_base_model(tmp_path, tiny_epsilon, value):
    import shutil

    from safetensors.torch import load_file
    from safetensors.torch import save_file as save

    from customize.families import load

    for part in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"):
        folder = shutil.copytree(tiny_epsilon, tmp_path / part.replace("/", "-"))
        file = folder / f"{part}.safetensors"
        tensors = load_file(file)
        name = sorted(tensors)[3]
        tensors[name].view(-1)[-1] = value
        save(tensors, file, metadata={"format": "pt"})
        with pytest.raises(InputError, match=r"NaN or infinity in 1 of \d+ tensors, such as "):
            load(locate(str(folder)))
    large = shutil.copytree(tiny_epsilon, tmp_path / "large")
    tensors = load_file(large / "unet" / "diffusion_pytorch_model.safetensors")
    tensors["conv_in.weight"].fill_(3e38)  # finite, though its sum is not
    save(tensors, large / "unet" / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    load(locate(str(large)))


# mutations


def mutated(content: bytes, dice: random.Random) -> bytes:
    """A few bytes changed, cut out, put in, repeated or moved, or the end lost."""
    data = bytearray(content)
    for _ in range(dice.choice((1, 1, 1, 2, 4, 16))):
        place, length = dice.randrange(len(data) + 1), dice.choice((1, 1, 2, 4, 64))
        match dice.randrange(7):
            case 0:
                data[place : place + 1] = bytes([dice.randrange(256)])
            case 1 if place < len(data):
                data[place] ^= 1 << dice.randrange(8)
            case 2:
                del data[place : place + length]
            case 3:
                data[place:place] = dice.randbytes(length)
            case 4:
                del data[place:]
            case 5:
                data[place : place + 4] = dice.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\1"))
            case _:
                data[place:place] = data[dice.randrange(len(data) + 1) :][:length]
    return bytes(data)


def seeds() -> dict[str, bytes]:
    """Sound files to begin with: pictures in every format and mode that is read, and safetensors."""
    grey, rgba = corpus.PLAIN[..., 0], np.dstack([corpus.PLAIN, corpus.PLAIN[..., 0]])
    ramp = np.linspace(0, 65535, 1920).astype(np.uint16).reshape(40, 48)
    pictures = {
        **{f"colour {name}": corpus.encoded(corpus.PLAIN, name) for name in ("PNG", "JPEG", "WEBP", "BMP", "TIFF")},
        **{f"grey {name}": corpus.encoded(grey, name) for name in ("PNG", "JPEG", "BMP", "TIFF")},
        **{f"alpha {name}": corpus.encoded(rgba, name) for name in ("PNG", "WEBP", "TIFF")},
        **{f"16 bits {name}": corpus.encoded(ramp, name) for name in ("PNG", "TIFF")},
        **{f"TIFF {how}": corpus.encoded(corpus.PLAIN, "TIFF", compression=how) for how in ("tiff_lzw", "tiff_adobe_deflate")},
        "progressive": corpus.encoded(corpus.SMOOTH, "JPEG", progressive=True, exif=corpus.exif(6)),
        "lossless": corpus.encoded(corpus.PLAIN, "WEBP", lossless=True),
        "animated": corpus.encoded(
            corpus.PLAIN, "WEBP", save_all=True, append_images=[corpus.Image.fromarray(corpus.PLAIN[::-1].copy())]
        ),
    }
    header = {"__metadata__": {"format": "pt"}, "a": corpus.A, "b": {"dtype": "F16", "shape": [4], "data_offsets": [24, 32]}}
    return pictures | {"safetensors": corpus.safetensors(header, 32)}


def try_mutations(folder: Path, first: int, last: int) -> dict[str, int]:
    """Opens mutated files; returns how many were refused and accepted. Asserts what must hold of each."""
    outcomes = {"refused": 0, "accepted": 0, "changed in silence": 0}
    originals = seeds()
    pixels = {name: np.asarray(open_image(data)) for name, data in originals.items() if name != "safetensors"}
    file = folder / "mutated"
    for number in range(first, last):
        dice = random.Random(f"mutation {number}")
        name = dice.choice(sorted(originals))
        content = mutated(originals[name], dice)
        file.write_bytes(content)
        start = time.process_time()
        try:
            result = read_header(file) if name == "safetensors" else np.asarray(open_image(file))
            outcomes["accepted"] += 1
        except InputError as error:
            result = None
            outcomes["refused"] += 1
            assert all(str(each).replace("\n    -> ", "").isprintable() for each in error.problems), number
        assert time.process_time() - start < 5, number
        if isinstance(result, np.ndarray) and not (name in pixels and np.array_equal(result, pixels[name])):
            outcomes["changed in silence"] += 1
            assert not name.endswith(" PNG"), f"mutation {number}: every part of a PNG has a check sum"
        if name == "safetensors" and result is not None:
            from safetensors.numpy import load

            load(content)  # the library agrees
    return outcomes


def test_mutated_files_are_refused_or_valid(tmp_path):
    outcomes = try_mutations(tmp_path, 0, 300)
    assert outcomes["refused"] > 100 and sum(outcomes.values()) >= 300


@pytest.mark.slow
def test_ten_thousand_mutated_files(tmp_path):
    """With a limit of 1 GiB on the process's growth."""
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(try_mutations(tmp_path, 0, 10_000))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20
